//! Asks for a value at the terminal, without showing it.
//!
//! A paste may have many lines, and whatever of it is left unread when the command ends is run by the shell. So all of it
//! is read: terminals that know bracketed paste mark its beginning and its end; with others, lines that follow without a
//! pause belong to it.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    time::{Duration, Instant},
};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::{
    failure::{Failure, FailureKind},
    value::without_newline,
};

/// Tenths of a second after which a line that ended was the last one.
const PAUSE: u8 = 2;

/// Bytes of a value that are kept: more than any secret may have, so that one too long is seen to be.
const KEPT: usize = 64 * 1024 + 3;

const BRACKETED_PASTE_ON: &[u8] = b"\x1b[?2004h";
const BRACKETED_PASTE_OFF: &[u8] = b"\x1b[?2004l";
const PASTE_BEGINS: &[u8] = b"\x1b[200~";
const PASTE_ENDS: &[u8] = b"\x1b[201~";

/// Asks for the value of `name`. Several lines are stored only when the question about them is answered with yes. The
/// final newline is dropped.
pub fn ask(name: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut terminal = Quiet::terminal().map_err(|error| failed(&error))?;
    let value = terminal.answer(&format!("Value of {name} (not shown): "))?;
    let value = without_newline(value);
    let lines = value.iter().filter(|byte| **byte == b'\n').count() + 1;
    if lines > 1 {
        let question = format!(
            "These are {lines} lines, {} bytes. Store them? [y/N] ",
            value.len()
        );
        let answer = terminal.answer(&question)?;
        if !matches!(answer.to_ascii_lowercase().as_slice(), b"y" | b"yes") {
            return Err(Failure::new(
                FailureKind::Negative,
                format_args!("{name} was not set"),
            ));
        }
    }
    Ok(value)
}

fn failed(error: &io::Error) -> Failure {
    Failure::new(
        FailureKind::File,
        format_args!("the value was not read from the terminal: {error}"),
    )
}

/// The terminal, which neither shows what is typed nor makes a signal of Ctrl-C: the process would end, and leave the
/// terminal like that. When it is dropped, what is unread is thrown away, and the terminal is as it was.
struct Quiet {
    terminal: File,
    before: Termios,
}

impl Quiet {
    fn terminal() -> io::Result<Self> {
        let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        let loud = LocalModes::ECHO
            | LocalModes::ECHONL
            | LocalModes::ICANON
            | LocalModes::ISIG
            | LocalModes::IEXTEN;
        quiet.local_modes.remove(loud);
        // A read returns what there is, or nothing after the pause.
        quiet.special_codes[SpecialCodeIndex::VMIN] = 0;
        quiet.special_codes[SpecialCodeIndex::VTIME] = PAUSE;
        tcsetattr(&terminal, OptionalActions::Now, &quiet)?;
        terminal.write_all(BRACKETED_PASTE_ON)?;
        Ok(Self { terminal, before })
    }

    fn answer(&mut self, question: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let typed = self
            .terminal
            .write_all(question.as_bytes())
            .and_then(|()| self.read())
            .map_err(|error| failed(&error))?;
        match typed.state {
            State::Interrupted => Err(Failure::new(
                FailureKind::Interrupted,
                "interrupted; nothing was set",
            )),
            State::Plain | State::Ended | State::Escape(_) | State::Pasting(_) => Ok(typed.value),
        }
    }

    /// Reads until a line has ended and nothing follows.
    fn read(&mut self) -> io::Result<Typed> {
        let mut typed = Typed::new();
        let mut chunk = Zeroizing::new([0; 4096]);
        loop {
            let asked = Instant::now();
            let count = match self.terminal.read(&mut *chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            // A terminal that is gone gives nothing, and does so at once.
            let is_gone = count == 0 && asked.elapsed() < Duration::from_millis(u64::from(PAUSE) * 50);
            chunk.iter().take(count).for_each(|byte| typed.take(*byte));
            match typed.state {
                State::Interrupted => break,
                State::Ended if count == 0 => break,
                _ if is_gone => return Err(io::ErrorKind::UnexpectedEof.into()),
                State::Plain | State::Ended | State::Escape(_) | State::Pasting(_) => {}
            }
        }
        self.terminal.write_all(b"\n")?;
        Ok(typed)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = self.terminal.write_all(BRACKETED_PASTE_OFF);
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// What was typed so far.
struct Typed {
    value: Zeroizing<Vec<u8>>,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Plain,
    /// In a sequence of a key such as an arrow, or in the mark of a paste; with its bytes.
    Escape(Vec<u8>),
    /// In a bracketed paste; with how many bytes of the mark of its end have come.
    Pasting(usize),
    /// A line has ended. It is the last one, unless another follows at once.
    Ended,
    Interrupted,
}

impl Typed {
    fn new() -> Self {
        Self {
            // Of this size from the start: a buffer that grows leaves copies behind.
            value: Zeroizing::new(Vec::with_capacity(KEPT)),
            state: State::Plain,
        }
    }

    fn take(&mut self, byte: u8) {
        self.state = match std::mem::replace(&mut self.state, State::Plain) {
            State::Interrupted => State::Interrupted,
            State::Pasting(seen) => self.pasted(byte, seen),
            State::Escape(mut sequence) => {
                sequence.push(byte);
                after_escape(sequence)
            }
            State::Ended => {
                self.keep(b'\n');
                self.typed(byte)
            }
            State::Plain => self.typed(byte),
        };
    }

    fn typed(&mut self, byte: u8) -> State {
        match byte {
            b'\r' | b'\n' => return State::Ended,
            0x1b => return State::Escape(vec![byte]),
            // Ctrl-C; Ctrl-D, which ends a line too; Ctrl-U; Backspace.
            0x03 => return State::Interrupted,
            0x04 => return State::Ended,
            0x15 => self.value.clear(),
            0x08 | 0x7f => self.erase(),
            other => self.keep(other),
        }
        State::Plain
    }

    /// Takes everything as it is, but for the mark of the end. Terminals send a line break as a carriage return.
    fn pasted(&mut self, byte: u8, seen: usize) -> State {
        if PASTE_ENDS.get(seen) == Some(&byte) {
            return match seen + 1 == PASTE_ENDS.len() {
                true => State::Plain,
                false => State::Pasting(seen + 1),
            };
        }
        for &kept in PASTE_ENDS.iter().take(seen) {
            self.keep(kept);
        }
        match byte {
            0x1b => return State::Pasting(1),
            b'\r' => self.keep(b'\n'),
            other => self.keep(other),
        }
        State::Pasting(0)
    }

    fn keep(&mut self, byte: u8) {
        if self.value.len() < KEPT {
            self.value.push(byte);
        }
    }

    /// Removes the last character, with all bytes that it has in UTF-8.
    fn erase(&mut self) {
        while let Some(byte) = self.value.pop() {
            if byte & 0xc0 != 0x80 {
                break;
            }
        }
    }
}

/// A key that has a sequence changes nothing: there is no line to move in that anyone sees.
fn after_escape(sequence: Vec<u8>) -> State {
    match sequence.as_slice() {
        PASTE_BEGINS => State::Pasting(0),
        [_, b'[' | b'O'] | [_, b'[', .., 0x20..=0x3f] if sequence.len() < 16 => State::Escape(sequence),
        _ => State::Plain,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> (State, Vec<u8>) {
        let mut typed = Typed::new();
        keys.iter().for_each(|key| typed.take(*key));
        (typed.state, typed.value.to_vec())
    }

    #[test]
    fn a_line_is_edited_as_it_is_typed() {
        for (keys, value) in [
            (b"abc\n".as_slice(), b"abc".as_slice()),
            (b"abc\r", b"abc"),
            (b"ab\x7f\x08c\n", b"c"),
            ("a\u{fc}\u{7f}b\n".as_bytes(), b"ab"),
            (b"\x7fwrong\x15right\n", b"right"),
            (b"a\x1b[D\x1b[1;5Cb\x1bOPc\n", b"abc"),
            (b"a\tb\x04", b"a\tb"),
        ] {
            assert_eq!(typed(keys), (State::Ended, value.to_vec()), "{keys:?}");
        }
        assert_eq!(typed(b"abc\x03\n").0, State::Interrupted);
    }

    #[test]
    fn a_paste_is_taken_as_it_is_with_all_its_lines() {
        let (state, value) = typed(b"\x1b[200~one\rtwo\x03\x1b[A\x1b[20\n\x1b[201~\n");
        assert_eq!(state, State::Ended);
        assert_eq!(value, b"one\ntwo\x03\x1b[A\x1b[20\n");
        // Without the marks, as a terminal that does not know them sends it.
        assert_eq!(
            typed(b"one\rtwo\nthree\n"),
            (State::Ended, b"one\ntwo\nthree".to_vec())
        );
    }

    #[test]
    fn no_more_is_kept_than_is_needed_to_see_that_it_is_too_much() {
        let (_, value) = typed(&[b'x'; 2 * KEPT]);
        assert_eq!(value.len(), KEPT);
    }
}
