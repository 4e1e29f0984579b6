use super::error::{JsonCause, SliceError};
use super::nesting::{Container, Nesting};
use super::number::NumberPart;
use super::string::{Scan, StringPart};

/// A strict lexer (RFC 8259) for one object that arrives in pieces. The lexer keeps its state, and no bytes of the
/// body.
#[derive(Default)]
pub(super) struct Lexer {
    expect: Expect,
    token: Token,
    nesting: Nesting,
    /// Number of levels from the top-level object down to the object whose members the lexer reports.
    watched: usize,
}

/// A position in the watched object that the lexer reports, right after the byte that makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberEvent {
    NameStart,
    NameEnd,
    Comma,
    ObjectEnd,
}

/// The number of consumed bytes, up to an event or to the end of the slice.
pub(super) struct Step {
    pub(super) consumed: usize,
    pub(super) event: Option<MemberEvent>,
}

/// The token that may follow the current token.
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

/// The current token, if it is incomplete.
#[derive(Default)]
enum Token {
    #[default]
    None,
    String(StringPart),
    Number(NumberPart),
    Literal(&'static [u8]),
}

impl Lexer {
    /// Watches the object that begins next, instead of the object around it.
    pub(super) fn watch_inner(&mut self) {
        self.watched += 1;
    }

    /// Watches the object around the present one, after the end of the present one was reported.
    pub(super) fn watch_outer(&mut self) {
        self.watched = self.watched.saturating_sub(1);
    }

    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<Step, SliceError> {
        let mut consumed = 0;
        while let Some(rest @ [_, ..]) = bytes.get(consumed..) {
            let step = self.step(rest).map_err(|error| error.after(consumed))?;
            consumed += step.consumed;
            if step.event.is_some() {
                return Ok(Step { consumed, ..step });
            }
        }
        Ok(Step {
            consumed,
            event: None,
        })
    }

    fn step(&mut self, bytes: &[u8]) -> Result<Step, SliceError> {
        let scan = match &mut self.token {
            Token::None => return self.between(bytes),
            Token::String(part) => part.scan(bytes)?,
            Token::Number(part) => part.scan(bytes)?,
            Token::Literal(left) => literal(left, bytes)?,
        };
        let mut event = None;
        if scan.ended {
            self.token = Token::None;
            event = self.event_if_watched(Expect::Colon, MemberEvent::NameEnd);
        }
        Ok(Step {
            consumed: scan.consumed,
            event,
        })
    }

    fn between(&mut self, bytes: &[u8]) -> Result<Step, SliceError> {
        let blank = whitespace_run(bytes);
        let Some(&byte) = bytes.get(blank) else {
            return Ok(Step {
                consumed: blank,
                event: None,
            });
        };
        let event = self
            .structural(byte)
            .map_err(|cause| SliceError::new(blank, cause))?;
        Ok(Step {
            consumed: blank + 1,
            event,
        })
    }

    fn structural(&mut self, byte: u8) -> Result<Option<MemberEvent>, JsonCause> {
        match (self.expect, byte, self.nesting.top()) {
            (Expect::Body, b'{', _) => self.open(Container::Object),
            (Expect::Body, _, _) => Err(JsonCause::NotAnObject),
            (Expect::NameOrClose | Expect::Name, b'"', _) => Ok(self.begin_name()),
            (Expect::Colon, b':', _) => Ok(self.expect_without_event(Expect::Value)),
            (Expect::NameOrClose | Expect::CommaOrClose, b'}', Some(Container::Object)) => Ok(self.close()),
            (Expect::ValueOrClose | Expect::CommaOrClose, b']', Some(Container::Array)) => Ok(self.close()),
            (Expect::CommaOrClose, b',', Some(Container::Array)) => {
                Ok(self.expect_without_event(Expect::Value))
            }
            (Expect::CommaOrClose, b',', Some(Container::Object)) => {
                self.expect_without_event(Expect::Name);
                Ok(self.event_if_watched(Expect::Name, MemberEvent::Comma))
            }
            (Expect::Value | Expect::ValueOrClose, byte, _) => self.begin_value(byte),
            _ => Err(JsonCause::Unexpected),
        }
    }

    fn begin_name(&mut self) -> Option<MemberEvent> {
        self.expect = Expect::Colon;
        self.token = Token::String(StringPart::Plain);
        self.event_if_watched(Expect::Colon, MemberEvent::NameStart)
    }

    fn begin_value(&mut self, byte: u8) -> Result<Option<MemberEvent>, JsonCause> {
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

    fn open(&mut self, container: Container) -> Result<Option<MemberEvent>, JsonCause> {
        if !self.nesting.push(container) {
            return Err(JsonCause::TooDeep);
        }
        Ok(self.expect_without_event(match container {
            Container::Array => Expect::ValueOrClose,
            Container::Object => Expect::NameOrClose,
        }))
    }

    fn close(&mut self) -> Option<MemberEvent> {
        let event = self.is_in_watched().then_some(MemberEvent::ObjectEnd);
        self.nesting.pop();
        self.expect = match self.nesting.depth() {
            0 => Expect::Nothing,
            _ => Expect::CommaOrClose,
        };
        event
    }

    fn expect_without_event(&mut self, expect: Expect) -> Option<MemberEvent> {
        self.expect = expect;
        None
    }

    fn is_in_watched(&self) -> bool {
        self.nesting.depth() == self.watched + 1
    }

    fn event_if_watched(&self, expect: Expect, event: MemberEvent) -> Option<MemberEvent> {
        (self.expect == expect && self.is_in_watched()).then_some(event)
    }
}

pub(super) fn whitespace_run(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
        .count()
}

fn literal(left: &mut &'static [u8], bytes: &[u8]) -> Result<Scan, SliceError> {
    if let Some(wrong) = left.iter().zip(bytes).position(|(want, have)| want != have) {
        return Err(SliceError::new(wrong, JsonCause::Unexpected));
    }
    let consumed = left.len().min(bytes.len());
    *left = left.get(consumed..).unwrap_or_default();
    Ok(Scan {
        consumed,
        ended: left.is_empty(),
    })
}
