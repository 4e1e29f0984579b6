//! The errors of the registry.

use std::{io, path::PathBuf, sync::Arc};

use proto::{ServerName, WorkspaceName};

use super::server::SpecError;

/// The most bytes of a servers file or a catalog.
pub(crate) const MAX_FILE_SIZE: usize = 8 * 1024 * 1024;

/// The highest revision that a file may state, so that a next revision always exists.
pub(super) const MAX_REVISION: u64 = i64::MAX as u64;

/// The reason why a servers file or a catalog is not used. The messages name the line and the field, and repeat nothing
/// of the content: by mistake, the file may be one that holds secrets.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("it is not a regular file")]
    NotAFile,
    /// The file had servers and no longer exists.
    #[error("it is gone; for no servers write a file with `version: 1` and `servers: []`")]
    Gone,
    #[error("it changed while it was read; replace it in one step (write another file, and rename that)")]
    ChangedDuringRead,
    #[error("it is larger than {} MiB", MAX_FILE_SIZE >> 20)]
    TooLarge,
    #[error("it is not UTF-8")]
    NotUtf8,
    #[error("version: it is {0}, and this release reads version 1: use the release that wrote it")]
    Version(u64),
    /// The file is not YAML, or has other fields than expected. Lines and columns count from 1; 0 means unknown.
    #[error("line {line}, column {column}: {problem}")]
    Yaml { line: u64, column: u64, problem: String },
    /// One entry is not a valid server. `line` is the first line of the entry, and `number` counts from 1.
    #[error("line {line}, server {number}: {error}")]
    Entry {
        line: u64,
        number: usize,
        error: EntryError,
    },
    /// `line` is the first line of the second entry.
    #[error("line {line}: there is a server {workspace}/{name} above already")]
    SameName {
        line: u64,
        workspace: WorkspaceName,
        name: ServerName,
    },
    /// `line` is the first line of the second entry.
    #[error("line {line}: uid: another server has it already; leave it out of a copied entry")]
    SameUid { line: u64 },
}

/// The reason why an entry of the servers file is not a valid server. Like [`FileError`], the messages repeat nothing of
/// the entry but names of secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("workspace: {0}")]
    Workspace(proto::LabelError),
    #[error("name: {0}")]
    Name(proto::LabelError),
    #[error("{0}: a uid is a UUID in lower case; leave it out and one is made")]
    Uid(&'static str),
    #[error("{0}: a time is written like 2026-01-31T12:00:00Z")]
    Time(&'static str),
    #[error("revision: it is at least 1 and at most {MAX_REVISION}; leave it out and one is made")]
    Revision,
    #[error(transparent)]
    Spec(#[from] SpecError),
}

/// The reason why the registry did not do what a caller asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("{}: the servers file is not valid", path.display())]
    Invalid { path: PathBuf, source: Arc<FileError> },
    #[error("there is no server {0}/{1}")]
    NoServer(WorkspaceName, ServerName),
    #[error("there is a server {0}/{1} already")]
    ServerExists(WorkspaceName, ServerName),
    #[error("the revision given is not the current one; read it again and decide again")]
    RevisionMismatch,
    /// Another process changed the file during each try.
    #[error("the servers file is being changed by others; try again")]
    Contended,
    #[error(
        "the servers file cannot be replaced: it or its directory is read-only, or it is a mount of its own; change \
         it where it comes from"
    )]
    ReadOnly(#[source] Option<io::Error>),
    #[error("the disk of the servers file is full; nothing was changed")]
    Full(#[source] io::Error),
    #[error("the servers file could not be written")]
    Write(#[source] io::Error),
    #[error("the servers file would be larger than {} MiB; remove servers first", MAX_FILE_SIZE >> 20)]
    TooLarge,
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// The YAML of the servers parses to other servers.
    #[error("the servers could not be written so that they read back the same")]
    Unfaithful,
}

/// The limit of a workspace that a change would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    #[error("the workspace has {0} servers, and no workspace may have more; remove one first")]
    Servers(usize),
    #[error(
        "the servers of the workspace would take more than {0} bytes of the servers file; remove servers, or shorten what \
         they have in tls.ca_pem, allowed_origins and description"
    )]
    Bytes(usize),
}

/// Classifies an error of writing the file.
impl From<io::Error> for RegistryError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, ResourceBusy, StorageFull};
        match error.kind() {
            // `rename` onto a mount point fails with EBUSY.
            ReadOnlyFilesystem | PermissionDenied | ResourceBusy => Self::ReadOnly(Some(error)),
            StorageFull | QuotaExceeded => Self::Full(error),
            _ => Self::Write(error),
        }
    }
}
