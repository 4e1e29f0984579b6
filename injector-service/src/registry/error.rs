//! Why the registry could not do it.

use std::{io, path::PathBuf, sync::Arc};

use proto::{ServerName, WorkspaceName};

pub use super::file::EntryError;
use super::{quota::QuotaError, yaml::MAX_BYTES};

/// Why a servers file is not used. Names the line and the field, and nothing of what stands there.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It could not be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// A directory, a pipe or the like.
    #[error("it is not a regular file")]
    NotAFile,
    /// It had servers, and is gone.
    #[error("it is gone; for no servers write a file with `version: 1` and `servers: []`")]
    Gone,
    /// It changed while it was read.
    #[error("it changed while it was read; replace it in one step (write another file, and rename that)")]
    Unsteady,
    /// More than would be read.
    #[error("it is larger than {} MiB", MAX_BYTES >> 20)]
    TooLarge,
    /// Not text.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// Of a release that is not this one.
    #[error("version: it is {0}, and this release reads version 1: use the release that wrote it")]
    Version(u64),
    /// Not YAML, or not of our layout.
    #[error("line {line}, column {column}: {problem}")]
    Yaml {
        /// From 1; 0 when it is not known.
        line: u64,
        /// From 1; 0 when it is not known.
        column: u64,
        /// What is wrong there.
        problem: String,
    },
    /// One entry is not a server.
    #[error("line {line}, server {number}: {error}")]
    Entry {
        /// Where the entry begins.
        line: u64,
        /// Which one, from 1.
        number: usize,
        /// What is wrong with it.
        error: EntryError,
    },
    /// Two entries have one name.
    #[error("line {line}: there is a server {workspace}/{name} above already")]
    SameName {
        /// Where the second begins.
        line: u64,
        /// Its workspace.
        workspace: WorkspaceName,
        /// Its name.
        name: ServerName,
    },
    /// Two entries have one uid.
    #[error("line {line}: uid: another server has it already; leave it out of a copied entry")]
    SameUid {
        /// Where the second begins.
        line: u64,
    },
}

/// Why the registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The file is not one of servers.
    #[error("{}: the servers file is not valid", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: Arc<FileError>,
    },
    /// No such server.
    #[error("there is no server {0}/{1}")]
    NoServer(WorkspaceName, ServerName),
    /// The name is taken.
    #[error("there is a server {0}/{1} already")]
    ServerExists(WorkspaceName, ServerName),
    /// Not the revision that the caller knows.
    #[error("the revision given is not the current one; read it again and decide anew")]
    RevisionMismatch,
    /// Changed from outside, again and again.
    #[error("the servers file is being changed by others; try again")]
    Contended,
    /// The file is mounted or marked read-only.
    #[error(
        "the servers file cannot be replaced: it or its directory is read-only, or it is a mount of its own; change \
         it where it comes from"
    )]
    ReadOnly(#[source] Option<io::Error>),
    /// No room for it.
    #[error("the disk of the servers file is full; nothing was changed")]
    Full(#[source] io::Error),
    /// It could not be written.
    #[error("the servers file could not be written")]
    Write(#[source] io::Error),
    /// There would be too much in it.
    #[error("the servers file would be larger than {} MiB; remove servers first", MAX_BYTES >> 20)]
    TooLarge,
    /// One workspace would exceed its share of the servers file.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// What would be written does not read back as what was meant.
    #[error("the servers could not be written so that they read back the same")]
    Unfaithful,
}

/// From an error of the operating system while writing.
impl From<io::Error> for RegistryError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, ResourceBusy, StorageFull};
        match error.kind() {
            // Busy is what renaming onto a mount is called.
            ReadOnlyFilesystem | PermissionDenied | ResourceBusy => Self::ReadOnly(Some(error)),
            StorageFull | QuotaExceeded => Self::Full(error),
            _ => Self::Write(error),
        }
    }
}
