//! Why a catalog is not used. Names lines, fields and entries, and repeats nothing else of what stands there.

use std::fmt;

use super::NotAnEntryName;
use crate::registry::{FileError, server::SpecError};

/// The most mistakes that are told: as many as fit into the answer to a call.
const MOST: usize = 10;

/// The file is not a catalog. The message omits the file's path, because clients get this error.
#[derive(Debug, thiserror::Error)]
#[error("the catalog is not valid")]
pub struct CatalogError(#[from] Problem);

/// What is wrong with it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    /// Nothing at all.
    #[error("there is no such file; for no entries write one with `version: 1` and `servers: []`")]
    Absent,
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Some entries are none.
    #[error("{0}")]
    Entries(Mistakes),
}

/// Every mistake in the entries.
#[derive(Debug, Default)]
pub(super) struct Mistakes(pub(super) Vec<Mistake>);

/// One of them.
#[derive(Debug, thiserror::Error)]
#[error("line {line}, {entry}: {error}")]
pub(super) struct Mistake {
    /// Where the entry begins.
    pub(super) line: u64,
    /// Its name; its number when that is what is wrong.
    pub(super) entry: String,
    pub(super) error: EntryError,
}

/// Why one entry is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum EntryError {
    #[error("name: {0}")]
    Name(#[from] NotAnEntryName),
    #[error("there is an entry of this name above already")]
    Twice,
    /// Not a server that there can be.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().take(MOST).enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{mistake}")?;
        }
        match self.0.len().saturating_sub(MOST) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}
