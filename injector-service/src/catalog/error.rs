//! The errors of the catalog. The messages name lines, fields and entries, and repeat nothing else of the file.

use std::fmt;

use proto::LabelError;

use super::NotAnEntryName;
use crate::registry::{FileError, server::SpecError};

/// The most mistakes that one error lists, so that the answer to a call stays small.
const MAX_LISTED_MISTAKES: usize = 10;

/// The catalog cannot be used. The message omits the path of the file, because clients get this error.
#[derive(Debug, thiserror::Error)]
#[error("the catalog is not valid")]
pub struct CatalogError(#[from] CatalogProblem);

#[derive(Debug, thiserror::Error)]
pub(super) enum CatalogProblem {
    #[error("there is no such file; for no entries write one with `version: 1` and `servers: []`")]
    Absent,
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{0}")]
    Entries(Mistakes),
}

/// Every mistake in the entries, in the order of the file.
#[derive(Debug, Default)]
pub(super) struct Mistakes(pub(super) Vec<Mistake>);

#[derive(Debug, thiserror::Error)]
#[error("line {line}, {entry}: {error}")]
pub(super) struct Mistake {
    /// The first line of the entry.
    pub(super) line: u64,
    /// The name of the entry, or `entry NUMBER` when the name is invalid.
    pub(super) entry: String,
    pub(super) error: CatalogEntryError,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CatalogEntryError {
    #[error("name: {0}")]
    Name(#[from] NotAnEntryName),
    #[error("there is an entry of this name above already")]
    DuplicateName,
    #[error("default_name: {0}")]
    DefaultName(LabelError),
    #[error("secrets: an entry with injections has its secrets there")]
    SecretsBesideInjections,
    #[error("docs: it is not an https URL")]
    Docs,
    #[error(transparent)]
    Spec(#[from] SpecError),
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().take(MAX_LISTED_MISTAKES).enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{mistake}")?;
        }
        match self.0.len().saturating_sub(MAX_LISTED_MISTAKES) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}
