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

pub(crate) use self::{
    file::{FileFault, ImportEntry, ImportFile},
    format::{Format, FormatError},
};
use super::env_file;

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
    for entry in env_file::read(text) {
        match entry {
            // The line may be the last one of a base64 value that was wrapped without quotes, such as `cmV0IHZhbHVl=`. Then the
            // text before `=` is a part of that value, and the value before it is cut off.
            Ok(env_file::EnvFileEntry {
                line,
                given: _,
                name: _,
                value,
                is_quoted: false,
            }) if value.is_empty() => file.fault(
                line,
                "there is nothing after `=`: write '' there for an entry without a value, or put quotes around a value of several \
                 lines",
            ),
            Ok(env_file::EnvFileEntry {
                line,
                given,
                name: _,
                value,
                is_quoted: _,
            }) => file.entries.push(ImportEntry {
                line,
                given,
                value: Ok(file::bytes_of(&value)),
            }),
            Err(env_file::EnvFileError { line, fault }) => file.fault(line, fault),
        }
    }
    file
}

#[cfg(test)]
mod tests;
