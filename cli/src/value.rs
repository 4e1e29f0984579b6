//! Where the value of a secret comes from: standard input, a file, the terminal, or the command line; and what else is
//! said of it there.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
    path::{Path, PathBuf},
};

use jiff::{Span, tz::TimeZone};
use prost_types::Timestamp;
use proto::vault::v1::put_secret_request::Value;
use zeroize::Zeroizing;

use crate::{
    failure::{Failure, FailureKind},
    prompt,
};

/// The most that is read: more than any secret may have, so that one too long is seen to be.
const READ_AT_MOST: u64 = 64 * 1024 + 3;

/// The most bytes that are read of a file of many secrets.
const MAX_TEXT: u64 = 8 * 1024 * 1024;

/// Where a value comes from.
#[derive(Debug)]
pub enum Source {
    /// It was an argument.
    Argument(Zeroizing<String>),
    /// Standard input.
    Stdin,
    /// A file.
    File(PathBuf),
    /// Whoever sits at the terminal.
    Terminal,
}

impl Source {
    /// What the command line says: an argument (`-` is standard input), a file, or neither.
    pub fn of(argument: Option<String>, file: Option<PathBuf>) -> Result<Self, Failure> {
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

    /// Reads it. The final newline of standard input or a file is dropped.
    pub fn read(self, name: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let bytes = match self {
            Self::Argument(value) => Zeroizing::new(value.as_bytes().to_vec()),
            Self::Stdin => without_newline(read(
                Path::new("standard input"),
                io::stdin().lock(),
                READ_AT_MOST,
            )?),
            Self::File(path) => {
                let file = File::open(&path).map_err(|error| Failure::file(&path, &error))?;
                without_newline(read(&path, file, READ_AT_MOST)?)
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

/// The value as a put carries it.
pub fn on_the_wire(value: &[u8]) -> Value {
    match std::str::from_utf8(value) {
        Ok(text) => Value::Text(text.to_owned()),
        Err(_) => Value::Data(value.to_vec()),
    }
}

/// Reads a file of text that holds values; `-` is standard input.
pub fn read_text(path: &Path) -> Result<Zeroizing<String>, Failure> {
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

/// Reads `KEY=VALUE`; what is allowed in them, the vault says.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A point in time, such as `2027-01-31T00:00:00Z`.
pub fn time_at(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| {
        "a time is a date, a time of day and a time zone, such as 2027-01-31T00:00:00Z".to_owned()
    })
}

/// The time in a duration from now: `90d`, `12h`, `1h30m`.
pub fn time_in(text: &str) -> Result<Timestamp, String> {
    let wrong = |_| "a duration is a number and its unit: 90d for 90 days, 12h, 1h30m".to_owned();
    let duration: Span = text.parse().map_err(wrong)?;
    // Days are counted as UTC has them, all of 24 hours.
    let now = jiff::Timestamp::now().to_zoned(TimeZone::UTC);
    let then = now.checked_add(duration).map_err(wrong)?.timestamp();
    Ok(Timestamp {
        seconds: then.as_second(),
        nanos: 0,
    })
}

fn read(path: &Path, from: impl Read, at_most: u64) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // Of this size from the start: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 * 1024 + 64));
    from.take(at_most)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::file(path, &error))?;
    Ok(bytes)
}

/// One newline, `\n` or `\r\n`: `echo` and editors end text with it, and no header could carry it.
pub(crate) fn without_newline(mut bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn just_one_final_newline_is_dropped() {
        for (given, kept) in [
            ("a", "a"),
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\n\n", "a\n"),
            ("a\r", "a\r"),
            ("\n", ""),
            ("a\nb\n", "a\nb"),
            (" a ", " a "),
        ] {
            let dropped = without_newline(Zeroizing::new(given.as_bytes().to_vec()));
            assert_eq!(dropped.as_slice(), kept.as_bytes(), "{given:?}");
        }
    }

    #[test]
    fn a_duration_is_counted_from_now() {
        for (text, seconds) in [
            ("90d", 90 * 86_400),
            ("12h", 43_200),
            ("1h30m", 5_400),
            ("1 week", 604_800),
        ] {
            let then = time_in(text).unwrap().seconds;
            let expected = jiff::Timestamp::now().as_second() + seconds;
            assert!((expected - 5..=expected).contains(&then), "{text}");
        }
        for text in ["", "90", "d", "soon", "99999999999999d"] {
            assert!(time_in(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_label_is_a_key_and_a_value() {
        let pair = |key: &str, value: &str| Ok((key.to_owned(), value.to_owned()));
        assert_eq!(label("a/b=c"), pair("a/b", "c"));
        assert_eq!(label("a=b=c"), pair("a", "b=c"));
        assert_eq!(label("a="), pair("a", ""));
        assert!(label("a").is_err());
    }

    #[test]
    fn what_is_longer_than_any_secret_is_read_far_enough_to_be_refused() {
        let endless = io::repeat(b'x');
        let bytes = without_newline(read(Path::new("x"), endless, READ_AT_MOST).unwrap());
        assert!(bytes.len() > 64 * 1024 && bytes.len() < 66 * 1024);
    }

    #[test]
    fn bytes_that_are_no_text_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("value");
        std::fs::write(&path, b"\xff\x00\n").unwrap();
        let value = Source::File(path).read("X").unwrap();
        assert_eq!(value.as_slice(), b"\xff\x00");
        assert!(matches!(on_the_wire(&value), Value::Data(_)));
    }

    #[test]
    fn an_empty_value_is_refused_before_anything_is_sent() {
        let empty = Source::Argument(Zeroizing::new(String::new()));
        let failure = empty.read("X").err().unwrap();
        assert_eq!(
            (failure.kind, failure.message.as_str()),
            (FailureKind::Usage, "the value of X is empty")
        );
    }
}
