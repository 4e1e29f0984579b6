//! Files of many secrets: dotenv, Kubernetes manifests and JSON objects.
//!
//! Every value ends in a buffer that is wiped. The parsers of JSON and YAML make copies of their own while they read: in the
//! binary `aerostack` these are wiped by the allocator when they are freed.
//!
//! No message quotes the text, because any part of it may be a value. Names are quoted only where the syntax proves that
//! they are names.

mod detect;
mod file;
mod format;
mod json;
mod kubernetes;
mod node;
mod yaml;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use self::file::ValueFault;
pub(crate) use self::{
    file::{FileFault, ImportEntry, ImportFile},
    format::{Format, FormatError},
};
use super::env_file::{self, EnvFileEntry, EnvFileError};

/// Reads the secrets of a text. Without a format, the text decides which one it has.
pub(crate) fn parse(text: &str, format: Option<Format>) -> Result<ImportFile, FormatError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let format = match format {
        Some(format) => format,
        None => detect::detect(text)?,
    };
    let file = match format {
        Format::Dotenv => dotenv(text),
        Format::Kubernetes => kubernetes::read(text),
        Format::Json => json::read(text),
    };
    match file.entries.is_empty() && file.faults.is_empty() {
        true => Err(FormatError::NoSecret(format)),
        false => Ok(file),
    }
}

fn dotenv(text: &str) -> ImportFile {
    let mut file = ImportFile::of(Format::Dotenv);
    let mut before: Option<EnvFileEntry> = None;
    for entry in env_file::read(text) {
        match entry {
            Ok(entry) if before.as_ref().is_some_and(|before| is_rest_of(before, &entry)) => file.fault(
                entry.line,
                "this looks like the last line of the value above: put quotes around a value of several lines, or write '' after \
                 `=` for an entry without a value",
            ),
            Ok(entry) => {
                file.entries.push(ImportEntry {
                    line: entry.line,
                    given: entry.given.clone(),
                    value: match entry.may_have_comment {
                        true => Err(ValueFault::Comment),
                        false => Ok(file::bytes_of(&entry.value)),
                    },
                    has_variable: entry.has_variable,
                });
                before = Some(entry);
            }
            Err(EnvFileError { line, fault }) => file.fault(line, fault),
        }
    }
    file
}

/// Returns true when an entry without a value is the last line of a base64 value that was wrapped without quotes, such as
/// `cmV0IHZhbHVl=`. Then the text before `=` is a part of that value, and the value of the line before is cut off.
fn is_rest_of(before: &EnvFileEntry, entry: &EnvFileEntry) -> bool {
    /// Programs that wrap base64 write lines of 64 or 76 characters. A person may choose a shorter one.
    const SHORTEST_LINE: usize = 20;
    let follows = before.line + 1 == entry.line && !before.is_quoted;
    if !follows || !entry.value.is_empty() || entry.is_quoted || before.value.len() < SHORTEST_LINE {
        return false;
    }
    let whole = Zeroizing::new(format!("{}{}=", before.value.as_str(), entry.given));
    STANDARD.decode(whole.as_bytes()).map(Zeroizing::new).is_ok()
}

#[cfg(test)]
mod tests;
