//! Output of the commands: tables for people, and JSON for programs.

use std::{fmt::Write as _, io::Write as _};

use clap::{Args, ValueEnum};
use prost_types::Timestamp;
use serde::Serialize;
use tabwriter::TabWriter;

use crate::failure::{Failure, FailureKind};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people; may change
    #[default]
    Table,
    /// For programs; later releases only add members
    Json,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// The format of the result
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: OutputFormat,
}

/// The result of a command that succeeded.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Text for standard output.
    pub result: String,
    /// Remarks for standard error, each a line.
    pub notes: Vec<String>,
    /// True for a negative result, which exits with [`FailureKind::Negative`](crate::failure::FailureKind::Negative).
    pub is_negative: bool,
}

impl Report {
    /// Formats `model` as JSON, or with `text` for people.
    pub(crate) fn new<T: Serialize>(
        output: OutputArgs,
        model: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<Self, Failure> {
        let result = match output.output {
            OutputFormat::Table => text(model),
            OutputFormat::Json => json(model)?,
        };
        Ok(Self {
            result,
            ..Self::default()
        })
    }

    /// Adds a remark.
    #[must_use]
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

fn json<T: Serialize>(model: &T) -> Result<String, Failure> {
    let mut text =
        serde_json::to_string_pretty(model).map_err(|error| Failure::new(FailureKind::Internal, error))?;
    text.push('\n');
    Ok(text)
}

/// Returns a table with aligned columns, two spaces apart. Control characters in cells are escaped.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut lines = head.join("\t");
    lines.push('\n');
    for row in rows {
        // An empty last cell would leave trailing spaces.
        let row = row.map(|cell| {
            if cell.is_empty() {
                "-".to_owned()
            } else {
                printable(&cell)
            }
        });
        lines.push_str(&row.join("\t"));
        lines.push('\n');
    }
    aligned(&lines)
}

/// Returns `name: value` lines, with the values in one column.
pub(crate) fn fields<'n>(fields: impl IntoIterator<Item = (&'n str, String)>) -> String {
    let mut lines = String::new();
    for (name, value) in fields {
        let value = if value.is_empty() {
            "-".to_owned()
        } else {
            printable(&value)
        };
        let _ = writeln!(lines, "{name}:\t{value}");
    }
    aligned(&lines)
}

fn aligned(lines: &str) -> String {
    let mut writer = TabWriter::new(Vec::new()).padding(2);
    let written = writer.write_all(lines.as_bytes()).and_then(|()| writer.flush());
    match (written, writer.into_inner().map(String::from_utf8)) {
        (Ok(()), Ok(Ok(text))) => text,
        _ => lines.to_owned(),
    }
}

/// Escapes control characters and the characters that change the direction of text, so that text from elsewhere cannot
/// send commands to the terminal, and is read in the order in which it is stored.
pub(crate) fn printable(text: &str) -> String {
    escaped(text, &[])
}

/// Does the same for text of several lines: line breaks and tabs stay.
pub(crate) fn printable_lines(text: &str) -> String {
    escaped(text, &['\n', '\r', '\t'])
}

fn escaped(text: &str, kept: &[char]) -> String {
    let mut printable = String::with_capacity(text.len());
    for scalar in text.chars() {
        if (scalar.is_control() && !kept.contains(&scalar)) || changes_direction(scalar) {
            printable.extend(scalar.escape_default());
        } else {
            printable.push(scalar);
        }
    }
    printable
}

/// Returns true for the invisible characters that change the direction of the text around them (Unicode, `Bidi_Control`).
fn changes_direction(scalar: char) -> bool {
    matches!(
        scalar,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// Returns a time in RFC 3339, in UTC. Absent times become an empty text.
pub(crate) fn time(time: Option<Timestamp>) -> String {
    time.map(|time| time.to_string()).unwrap_or_default()
}

/// Returns the date of an RFC 3339 time.
pub(crate) fn date(time: &str) -> String {
    time.split('T').next().unwrap_or_default().to_owned()
}

/// Returns an RFC 3339 time without the fraction of its second.
pub(crate) fn second(time: &str) -> String {
    let (second, _) = time.split_once(['.', 'Z']).unwrap_or((time, ""));
    format!("{second}Z")
}

pub(crate) fn yes_or_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["LONG_NAME_HERE", "2026-11-23"], ["X", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(
            table(["KEY", "CREATED"], rows),
            "KEY             CREATED\nLONG_NAME_HERE  2026-11-23\nX               -\n"
        );
    }

    #[test]
    fn text_from_elsewhere_cannot_control_a_terminal() {
        assert_eq!(
            printable("a\u{1b}[2Jb\tc\u{9b}d\u{202e}e é"),
            "a\\u{1b}[2Jb\\tc\\u{9b}d\\u{202e}e é"
        );
    }

    #[test]
    fn characters_that_change_the_direction_of_text_are_shown() {
        for code in [0x61c, 0x200e, 0x200f]
            .into_iter()
            .chain(0x202a..=0x202e)
            .chain(0x2066..=0x2069)
        {
            let scalar = char::from_u32(code).unwrap();
            let shown = format!("a\\u{{{code:x}}}b");
            assert_eq!(printable(&format!("a{scalar}b")), shown);
            assert_eq!(printable_lines(&format!("a{scalar}b")), shown);
        }
        assert_eq!(printable_lines("a\r\n\tb\u{1b}[2J"), "a\r\n\tb\\u{1b}[2J");
    }

    #[test]
    fn times_are_utc_and_dates_are_their_beginning() {
        let stamp = Timestamp {
            seconds: 1_795_464_000,
            nanos: 0,
        };
        assert_eq!(time(Some(stamp)), "2026-11-23T20:00:00Z");
        assert_eq!(date(&time(Some(stamp))), "2026-11-23");
        assert_eq!(second("2026-11-23T20:00:00.065539147Z"), "2026-11-23T20:00:00Z");
        assert_eq!(second(&time(Some(stamp))), "2026-11-23T20:00:00Z");
        assert_eq!(time(None), "");
    }
}
