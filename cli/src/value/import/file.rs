//! The content of a file of secrets.

use std::fmt;

use zeroize::Zeroizing;

use super::format::Format;

/// The secrets of a file, and the parts of the file that are none.
pub(crate) struct ImportFile {
    pub(crate) format: Format,
    pub(crate) entries: Vec<ImportEntry>,
    /// Parts that could not be read. When there is one, no entry may be used: an entry may be a part of a value that was
    /// misread.
    pub(crate) faults: Vec<FileFault>,
    /// Parts that were left out because of their meaning.
    pub(crate) notes: Vec<String>,
}

/// One secret of a file.
pub(crate) struct ImportEntry {
    /// Number of the line in which the entry begins. For a block of text in YAML, the first line of the block.
    pub(crate) line: usize,
    /// The name as the file writes it, which may be no name of a secret.
    pub(crate) given: String,
    pub(crate) value: Result<Zeroizing<Vec<u8>>, ValueFault>,
    /// True when the value refers to a variable that other readers of the format replace.
    pub(crate) has_variable: bool,
}

/// The reason for which an entry has no value that can be put. The message never quotes the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueFault {
    #[error("the value is not text: write numbers, `true`, `false` and `null` in quotes")]
    NotText,
    #[error("the value is a list or an object, and not a text")]
    Nested,
    #[error("the value under `data` is not base64: write it there in base64, or under `stringData` as it is")]
    NotBase64,
    #[error(
        "`#` may begin a comment or belong to the value: put quotes around the value, or remove the comment"
    )]
    Comment,
}

/// A part of a file that could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FileFault {
    pub(crate) line: usize,
    pub(crate) message: String,
}

impl ImportFile {
    pub(super) fn of(format: Format) -> Self {
        Self {
            format,
            entries: Vec::new(),
            faults: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(super) fn fault(&mut self, line: usize, message: impl fmt::Display) {
        self.faults.push(FileFault {
            line,
            message: message.to_string(),
        });
    }
}

/// Copies a text into a buffer that is wiped.
pub(super) fn bytes_of(text: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(text.as_bytes().to_vec())
}
