use super::error::{Fault, JsonCause};
use super::nesting::{Container, Nesting};
use super::number::NumberPart;
use super::string::{Scan, StringPart};

/// A strict RFC 8259 lexer for one object that comes in pieces. It keeps where it is, never what it read.
#[derive(Default)]
pub(super) struct Lexer {
    expect: Expect,
    token: Token,
    nesting: Nesting,
}

/// A place in the top-level object; the position reported is that right after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Landmark {
    NameOpens,
    NameCloses,
    Comma,
    ObjectCloses,
}

/// How far the lexer came: to a landmark, or to the end of the slice.
pub(super) struct Step {
    pub(super) taken: usize,
    pub(super) landmark: Option<Landmark>,
}

/// The next token, the present one being complete.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Expect {
    #[default]
    Body,
    NameOrClose,
    Name,
    Colon,
    Value,
    ValueOrClose,
    CommaOrClose,
    Nothing,
}

/// The token in whose middle we are.
#[derive(Default)]
enum Token {
    #[default]
    None,
    String(StringPart),
    Number(NumberPart),
    /// What is still to come of `true`, `false` or `null`.
    Literal(&'static [u8]),
}

impl Lexer {
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<Step, Fault> {
        let mut taken = 0;
        while let Some(rest @ [_, ..]) = bytes.get(taken..) {
            let step = self.step(rest).map_err(|fault| fault.after(taken))?;
            taken += step.taken;
            if step.landmark.is_some() {
                return Ok(Step { taken, ..step });
            }
        }
        Ok(Step {
            taken,
            landmark: None,
        })
    }

    fn step(&mut self, bytes: &[u8]) -> Result<Step, Fault> {
        let scan = match &mut self.token {
            Token::None => return self.between(bytes),
            Token::String(part) => part.scan(bytes)?,
            Token::Number(part) => part.scan(bytes)?,
            Token::Literal(left) => literal(left, bytes)?,
        };
        let mut landmark = None;
        if scan.ended {
            self.token = Token::None;
            landmark = self.at_top(Expect::Colon, Landmark::NameCloses);
        }
        Ok(Step {
            taken: scan.taken,
            landmark,
        })
    }

    fn between(&mut self, bytes: &[u8]) -> Result<Step, Fault> {
        let blank = whitespace_run(bytes);
        let Some(&byte) = bytes.get(blank) else {
            return Ok(Step {
                taken: blank,
                landmark: None,
            });
        };
        let landmark = self.structural(byte).map_err(|cause| Fault::new(blank, cause))?;
        Ok(Step {
            taken: blank + 1,
            landmark,
        })
    }

    fn structural(&mut self, byte: u8) -> Result<Option<Landmark>, JsonCause> {
        match (self.expect, byte, self.nesting.top()) {
            (Expect::Body, b'{', _) => self.open(Container::Object),
            (Expect::Body, _, _) => Err(JsonCause::NotAnObject),
            (Expect::NameOrClose | Expect::Name, b'"', _) => Ok(self.begin_name()),
            (Expect::Colon, b':', _) => Ok(self.now(Expect::Value)),
            (Expect::NameOrClose | Expect::CommaOrClose, b'}', Some(Container::Object)) => Ok(self.close()),
            (Expect::ValueOrClose | Expect::CommaOrClose, b']', Some(Container::Array)) => Ok(self.close()),
            (Expect::CommaOrClose, b',', Some(Container::Array)) => Ok(self.now(Expect::Value)),
            (Expect::CommaOrClose, b',', Some(Container::Object)) => {
                self.now(Expect::Name);
                Ok(self.at_top(Expect::Name, Landmark::Comma))
            }
            (Expect::Value | Expect::ValueOrClose, byte, _) => self.begin_value(byte),
            _ => Err(JsonCause::Unexpected),
        }
    }

    fn begin_name(&mut self) -> Option<Landmark> {
        self.expect = Expect::Colon;
        self.token = Token::String(StringPart::Plain);
        self.at_top(Expect::Colon, Landmark::NameOpens)
    }

    fn begin_value(&mut self, byte: u8) -> Result<Option<Landmark>, JsonCause> {
        self.expect = Expect::CommaOrClose;
        self.token = match byte {
            b'{' => return self.open(Container::Object),
            b'[' => return self.open(Container::Array),
            b'"' => Token::String(StringPart::Plain),
            b'-' => Token::Number(NumberPart::Minus),
            b'0' => Token::Number(NumberPart::Zero),
            b'1'..=b'9' => Token::Number(NumberPart::Int),
            b'+' | b'.' => return Err(JsonCause::BadNumber),
            b't' => Token::Literal(b"rue"),
            b'f' => Token::Literal(b"alse"),
            b'n' => Token::Literal(b"ull"),
            _ => return Err(JsonCause::Unexpected),
        };
        Ok(None)
    }

    fn open(&mut self, container: Container) -> Result<Option<Landmark>, JsonCause> {
        if !self.nesting.push(container) {
            return Err(JsonCause::TooDeep);
        }
        Ok(self.now(match container {
            Container::Array => Expect::ValueOrClose,
            Container::Object => Expect::NameOrClose,
        }))
    }

    fn close(&mut self) -> Option<Landmark> {
        self.nesting.pop();
        if self.nesting.depth() > 0 {
            return self.now(Expect::CommaOrClose);
        }
        self.expect = Expect::Nothing;
        Some(Landmark::ObjectCloses)
    }

    /// Says what is expected from here on, at no landmark.
    fn now(&mut self, expect: Expect) -> Option<Landmark> {
        self.expect = expect;
        None
    }

    fn at_top(&self, expect: Expect, landmark: Landmark) -> Option<Landmark> {
        (self.expect == expect && self.nesting.depth() == 1).then_some(landmark)
    }
}

pub(super) fn whitespace_run(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
        .count()
}

fn literal(left: &mut &'static [u8], bytes: &[u8]) -> Result<Scan, Fault> {
    if let Some(wrong) = left.iter().zip(bytes).position(|(want, have)| want != have) {
        return Err(Fault::new(wrong, JsonCause::Unexpected));
    }
    let taken = left.len().min(bytes.len());
    *left = left.get(taken..).unwrap_or_default();
    Ok(Scan {
        taken,
        ended: left.is_empty(),
    })
}
