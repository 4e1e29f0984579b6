//! What commands print: tables for people, JSON for programs.

use std::{fmt::Write as _, io::Write as _};

use clap::{Args, ValueEnum};
use prost_types::Timestamp;
use serde::Serialize;
use tabwriter::TabWriter;

use crate::failure::{Failure, FailureKind};

/// How the result is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people. May change.
    #[default]
    Table,
    /// For programs: described in the documentation of the command line; members are only ever added.
    Json,
}

/// `--output`, of every command that prints a result.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArgs {
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

/// What a command has to say at its end.
#[derive(Debug, Default)]
pub struct Report {
    /// For standard output: the result.
    pub result: String,
    /// For standard error, a line each: what its reader should know besides.
    pub notes: Vec<String>,
    /// Set when all went well and yet the answer is no.
    pub is_negative: bool,
}

impl Report {
    /// Text for people, or the same as JSON.
    pub fn new<T: Serialize>(
        output: OutputArgs,
        model: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<Self, Failure> {
        let result = match output.output {
            Format::Table => text(model),
            Format::Json => json(model)?,
        };
        Ok(Self {
            result,
            ..Self::default()
        })
    }

    /// The same, with something to know besides.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
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

/// A table with aligned columns, two spaces apart. Cells are made harmless with [`printable`].
pub fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut lines = head.join("\t");
    lines.push('\n');
    for row in rows {
        // Without this a last cell that is empty would leave trailing spaces behind the one before it.
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

/// `name: value` lines, with the values in one column.
pub fn fields<const N: usize>(fields: [(&str, String); N]) -> String {
    let mut lines = String::new();
    for (name, value) in fields {
        let value = if value.is_empty() {
            "-".to_owned()
        } else {
            printable(&value)
        };
        // Writing to a string does not fail.
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

/// Text from elsewhere, harmless on a terminal: control characters and those that reorder a line are written as escapes.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for scalar in text.chars() {
        if scalar.is_control() || matches!(scalar, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            printable.extend(scalar.escape_default());
        } else {
            printable.push(scalar);
        }
    }
    printable
}

/// RFC 3339, UTC.
pub fn time(time: Option<Timestamp>) -> String {
    time.map(|time| time.to_string()).unwrap_or_default()
}

/// The date of a time in UTC.
pub fn date(time: &str) -> String {
    time.split('T').next().unwrap_or_default().to_owned()
}

/// Yes or no, in a table.
pub fn yes_or_no(it_is: bool) -> String {
    if it_is { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
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
    fn text_from_elsewhere_cannot_steer_a_terminal() {
        assert_eq!(
            printable("a\u{1b}[2Jb\tc\u{9b}d\u{202e}e é"),
            "a\\u{1b}[2Jb\\tc\\u{9b}d\\u{202e}e é"
        );
    }

    #[test]
    fn times_are_utc_and_dates_are_their_beginning() {
        let stamp = Timestamp {
            seconds: 1_795_464_000,
            nanos: 0,
        };
        assert_eq!(time(Some(stamp)), "2026-11-23T20:00:00Z");
        assert_eq!(date(&time(Some(stamp))), "2026-11-23");
        assert_eq!(time(None), "");
    }
}
