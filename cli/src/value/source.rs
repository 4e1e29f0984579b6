//! Sources of a secret's value: the command line, standard input, a file, or the terminal.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
    path::{Path, PathBuf},
};

use proto::vault::v1::put_secret_request::Value;
use zeroize::Zeroizing;

use super::{edits::without_final_newline, prompt};
use crate::failure::{Failure, FailureKind};

/// Bytes of a value that are read at most. A secret may have 64 KiB; the 3 bytes more are a final `\r\n`, and one byte
/// that shows that the value is too long.
const MAX_VALUE: u64 = 64 * 1024 + 3;

/// Size of a file of many secrets from which on the file is refused, in bytes.
const MAX_TEXT: u64 = 8 * 1024 * 1024;

#[derive(Debug)]
pub(crate) enum ValueSource {
    Argument(Zeroizing<String>),
    Stdin,
    File(PathBuf),
    /// A question at the terminal.
    Terminal,
}

impl ValueSource {
    /// Chooses the source by the command line. `-` as the argument or the file means standard input; without either, the
    /// terminal is asked.
    pub(crate) fn from_args(argument: Option<String>, file: Option<PathBuf>) -> Result<Self, Failure> {
        match (argument, file) {
            (Some(dash), None) if dash == "-" => Ok(Self::Stdin),
            (Some(value), None) => Ok(Self::Argument(Zeroizing::new(value))),
            (None, Some(dash)) if dash == Path::new("-") => Ok(Self::Stdin),
            (None, Some(path)) => Ok(Self::File(path)),
            (None, None) if io::stdin().is_terminal() => Ok(Self::Terminal),
            (None, None) => Err(Failure::new(
                FailureKind::Usage,
                "no value was given, and there is no terminal to ask for one",
            )
            .hint("give `-` to read it from standard input, or --from-file FILE")),
            (Some(_), Some(_)) => Err(Failure::new(
                FailureKind::Usage,
                "the value was given twice: as an argument and by --from-file",
            )),
        }
    }

    /// Reads the value of the secret `name`. One final newline of standard input or of a file is removed.
    pub(crate) fn read(self, name: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let bytes = match self {
            Self::Argument(value) => Zeroizing::new(value.as_bytes().to_vec()),
            Self::Stdin => {
                without_final_newline(read(Path::new("standard input"), io::stdin().lock(), MAX_VALUE)?)
            }
            Self::File(path) => {
                let file = File::open(&path).map_err(|error| Failure::file(&path, &error))?;
                without_final_newline(read(&path, file, MAX_VALUE)?)
            }
            Self::Terminal => prompt::ask(name)?,
        };
        if bytes.is_empty() {
            return Err(Failure::new(
                FailureKind::Usage,
                format_args!("the value of {name} is empty"),
            ));
        }
        Ok(bytes)
    }
}

/// Returns the field of `PutSecretRequest` for a value.
pub(crate) fn to_wire(value: &[u8]) -> Value {
    match std::str::from_utf8(value) {
        Ok(text) => Value::Text(text.to_owned()),
        Err(_) => Value::Data(value.to_vec()),
    }
}

/// Reads a text file that holds secrets; `-` is standard input.
pub(crate) fn read_text(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let bytes = if path == Path::new("-") {
        read(Path::new("standard input"), io::stdin().lock(), MAX_TEXT)?
    } else {
        let file = File::open(path).map_err(|error| Failure::file(path, &error))?;
        read(path, file, MAX_TEXT)?
    };
    if bytes.len() as u64 == MAX_TEXT {
        let message = format!(
            "{}: a file of secrets has less than {MAX_TEXT} bytes",
            path.display()
        );
        return Err(Failure::new(FailureKind::Usage, message));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(Failure::new(
            FailureKind::Usage,
            format_args!("{}: it is not UTF-8", path.display()),
        )),
    }
}

fn read(path: &Path, from: impl Read, at_most: u64) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // The capacity is enough for any value: a buffer that grows leaves copies of the value behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 * 1024 + 64));
    from.take(at_most)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::file(path, &error))?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_too_long_is_read_far_enough_to_be_refused() {
        let endless = io::repeat(b'x');
        let bytes = without_final_newline(read(Path::new("x"), endless, MAX_VALUE).unwrap());
        assert!(bytes.len() > 64 * 1024 && bytes.len() < 66 * 1024);
    }

    #[test]
    fn bytes_that_are_not_utf_8_stay_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("value");
        std::fs::write(&path, b"\xff\x00\n").unwrap();
        let value = ValueSource::File(path).read("X").unwrap();
        assert_eq!(value.as_slice(), b"\xff\x00");
        assert!(matches!(to_wire(&value), Value::Data(_)));
    }

    #[test]
    fn an_empty_value_is_refused_before_anything_is_sent() {
        let empty = ValueSource::Argument(Zeroizing::new(String::new()));
        let failure = empty.read("X").err().unwrap();
        assert_eq!(
            (failure.kind, failure.message.as_str()),
            (FailureKind::Usage, "the value of X is empty")
        );
    }
}
