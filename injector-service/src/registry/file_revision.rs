//! The name of a content of the servers file.

use std::{fmt, sync::Arc};

use sha2::{Digest as _, Sha256};

/// Bytes of the digest that the text shows. Two contents with the same text are not expected, and would do no harm.
const SHOWN: usize = 8;

/// Names the content of a servers file: injectors whose files have the same bytes have the same text. Empty for a file that
/// does not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FileRevision(Arc<str>);

impl FileRevision {
    pub(super) fn of(content: &[u8]) -> Self {
        let digest = Sha256::digest(content);
        let text: String = digest
            .iter()
            .take(SHOWN)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self(text.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FileRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
