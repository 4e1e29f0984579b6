//! Asks for a value at the terminal, without showing what is typed.
//!
//! A paste may have many lines, and the shell would run the lines that are unread when the command ends. So the whole
//! paste is read. Terminals that support bracketed paste mark the beginning and the end of a paste; with other terminals,
//! lines that follow each other without a pause belong to one paste.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    time::{Duration, Instant},
};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::edits::without_final_newline;
use crate::failure::{Failure, FailureKind};

/// Pause after which a finished line counts as the last line of a paste, in tenths of a second.
const PAUSE: u8 = 2;

/// Bytes of a value that are stored at most. A secret may have 64 KiB; the 3 bytes more are a final `\r\n`, and one byte
/// that lets the vault see that the value is too long.
const MAX_VALUE: usize = 64 * 1024 + 3;

const BRACKETED_PASTE_ON: &[u8] = b"\x1b[?2004h";
const BRACKETED_PASTE_OFF: &[u8] = b"\x1b[?2004l";
const PASTE_BEGINS: &[u8] = b"\x1b[200~";
const PASTE_ENDS: &[u8] = b"\x1b[201~";

/// Asks for the value of the secret `name`, and removes the final newline. A value of several lines has to be confirmed.
pub(super) fn ask(name: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut terminal = HiddenTerminal::open().map_err(|error| failed(&error))?;
    let value = terminal.answer(&format!("Value of {name} (not shown): "))?;
    let value = without_final_newline(value);
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

/// The terminal in a mode without echo and without signals. A signal by Ctrl-C would end the process and leave the
/// terminal in this mode. Dropping the value discards unread input and restores the previous mode.
struct HiddenTerminal {
    terminal: File,
    before: Termios,
}

impl HiddenTerminal {
    fn open() -> io::Result<Self> {
        let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&terminal)?;
        let mut hidden = before.clone();
        let disabled = LocalModes::ECHO
            | LocalModes::ECHONL
            | LocalModes::ICANON
            | LocalModes::ISIG
            | LocalModes::IEXTEN;
        hidden.local_modes.remove(disabled);
        // A read returns the bytes that are available, or no bytes after the pause.
        hidden.special_codes[SpecialCodeIndex::VMIN] = 0;
        hidden.special_codes[SpecialCodeIndex::VTIME] = PAUSE;
        tcsetattr(&terminal, OptionalActions::Now, &hidden)?;
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
            State::Line | State::LineEnded | State::Escape(_) | State::Pasting(_) => Ok(typed.value),
        }
    }

    /// Reads until a line has ended and no byte follows within the pause.
    fn read(&mut self) -> io::Result<Input> {
        let mut typed = Input::new();
        let mut chunk = Zeroizing::new([0; 4096]);
        loop {
            let started = Instant::now();
            let count = match self.terminal.read(&mut *chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            // A closed terminal returns no bytes at once, without the pause.
            let is_closed = count == 0 && started.elapsed() < Duration::from_millis(u64::from(PAUSE) * 50);
            chunk.iter().take(count).for_each(|byte| typed.push(*byte));
            match typed.state {
                State::Interrupted => break,
                State::LineEnded if count == 0 => break,
                _ if is_closed => return Err(io::ErrorKind::UnexpectedEof.into()),
                State::Line | State::LineEnded | State::Escape(_) | State::Pasting(_) => {}
            }
        }
        self.terminal.write_all(b"\n")?;
        Ok(typed)
    }
}

impl Drop for HiddenTerminal {
    fn drop(&mut self) {
        // Errors do not matter: a closed terminal has no mode to restore.
        let _ = self.terminal.write_all(BRACKETED_PASTE_OFF);
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// The input so far, as an editable line or a paste.
struct Input {
    value: Zeroizing<Vec<u8>>,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Line,
    /// Inside an escape sequence: of a key such as an arrow, or the mark of a paste. Holds the bytes so far.
    Escape(Vec<u8>),
    /// Inside a bracketed paste. Holds the number of bytes of the end mark that were read.
    Pasting(usize),
    /// A line has ended. The line is the last one unless another follows within the pause.
    LineEnded,
    Interrupted,
}

impl Input {
    fn new() -> Self {
        Self {
            // The capacity is the maximum: a buffer that grows leaves copies of the value behind.
            value: Zeroizing::new(Vec::with_capacity(MAX_VALUE)),
            state: State::Line,
        }
    }

    fn push(&mut self, byte: u8) {
        self.state = match std::mem::replace(&mut self.state, State::Line) {
            State::Interrupted => State::Interrupted,
            State::Pasting(seen) => self.push_pasted(byte, seen),
            State::Escape(mut sequence) => {
                sequence.push(byte);
                after_escape(sequence)
            }
            State::LineEnded => {
                self.store(b'\n');
                self.push_typed(byte)
            }
            State::Line => self.push_typed(byte),
        };
    }

    fn push_typed(&mut self, byte: u8) -> State {
        match byte {
            b'\r' | b'\n' => return State::LineEnded,
            0x1b => return State::Escape(vec![byte]),
            // Ctrl-C, Ctrl-D, Ctrl-U, and the two codes of the backspace key.
            0x03 => return State::Interrupted,
            0x04 => return State::LineEnded,
            0x15 => self.value.clear(),
            0x08 | 0x7f => self.erase(),
            other => self.store(other),
        }
        State::Line
    }

    /// Stores a byte of a paste unchanged, except that a carriage return becomes a newline: terminals send line breaks as
    /// carriage returns. `seen` bytes before this one may be the beginning of the end mark.
    fn push_pasted(&mut self, byte: u8, seen: usize) -> State {
        if PASTE_ENDS.get(seen) == Some(&byte) {
            return match seen + 1 == PASTE_ENDS.len() {
                true => State::Line,
                false => State::Pasting(seen + 1),
            };
        }
        for &byte in PASTE_ENDS.iter().take(seen) {
            self.store(byte);
        }
        match byte {
            0x1b => return State::Pasting(1),
            b'\r' => self.store(b'\n'),
            other => self.store(other),
        }
        State::Pasting(0)
    }

    fn store(&mut self, byte: u8) {
        if self.value.len() < MAX_VALUE {
            self.value.push(byte);
        }
    }

    /// Removes the last character, with all of its bytes in UTF-8.
    fn erase(&mut self) {
        while let Some(byte) = self.value.pop() {
            if byte & 0xc0 != 0x80 {
                break;
            }
        }
    }
}

/// Keys that send an escape sequence, such as the arrows, are ignored: the line is not shown, so no cursor moves in it.
fn after_escape(sequence: Vec<u8>) -> State {
    match sequence.as_slice() {
        PASTE_BEGINS => State::Pasting(0),
        [_, b'[' | b'O'] | [_, b'[', .., 0x20..=0x3f] if sequence.len() < 16 => State::Escape(sequence),
        _ => State::Line,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> (State, Vec<u8>) {
        let mut typed = Input::new();
        keys.iter().for_each(|key| typed.push(*key));
        (typed.state, typed.value.to_vec())
    }

    #[test]
    fn control_keys_edit_the_typed_line() {
        for (keys, value) in [
            (b"abc\n".as_slice(), b"abc".as_slice()),
            (b"abc\r", b"abc"),
            (b"ab\x7f\x08c\n", b"c"),
            ("a\u{fc}\u{7f}b\n".as_bytes(), b"ab"),
            (b"\x7fwrong\x15right\n", b"right"),
            (b"a\x1b[D\x1b[1;5Cb\x1bOPc\n", b"abc"),
            (b"a\tb\x04", b"a\tb"),
        ] {
            assert_eq!(typed(keys), (State::LineEnded, value.to_vec()), "{keys:?}");
        }
        assert_eq!(typed(b"abc\x03\n").0, State::Interrupted);
    }

    #[test]
    fn a_paste_is_stored_unchanged_with_all_its_lines() {
        let (state, value) = typed(b"\x1b[200~one\rtwo\x03\x1b[A\x1b[20\n\x1b[201~\n");
        assert_eq!(state, State::LineEnded);
        assert_eq!(value, b"one\ntwo\x03\x1b[A\x1b[20\n");
        // A terminal without bracketed paste sends no marks.
        assert_eq!(
            typed(b"one\rtwo\nthree\n"),
            (State::LineEnded, b"one\ntwo\nthree".to_vec())
        );
    }

    #[test]
    fn a_value_that_is_too_long_is_stored_only_up_to_the_maximum() {
        let (_, value) = typed(&[b'x'; 2 * MAX_VALUE]);
        assert_eq!(value.len(), MAX_VALUE);
    }
}
