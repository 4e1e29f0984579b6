//! Why the registry could not do it.

use std::{io, path::PathBuf, sync::Arc};

use proto::{ServerName, WorkspaceName};
use serde_saphyr::Error as Yaml;

pub use super::file::EntryError;
use super::file::MAX_BYTES;

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

impl FileError {
    /// What the YAML library says, in words that repeat nothing of the file but names that look like fields.
    pub(super) fn of_yaml(error: &Yaml) -> Self {
        let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
        Self::Yaml {
            line,
            column,
            problem: problem(error),
        }
    }
}

fn problem(error: &Yaml) -> String {
    match error.without_snippet() {
        // The parser's own words name at most one character or bracket.
        Yaml::ExternalMessage { msg, .. } => format!("it is not YAML: {msg}"),
        Yaml::SerdeUnknownField { field, expected, .. } => {
            format!(
                "{} is not one of the fields {}",
                named("field", Some(field)),
                expected.join(", ")
            )
        }
        Yaml::SerdeUnknownVariant { expected, .. } => format!("it must be one of {}", expected.join(", ")),
        Yaml::SerdeMissingField { field, .. } => format!("field {field} is missing"),
        Yaml::DuplicateMappingKey { key, .. } => format!("{} is given twice", named("field", key.as_ref())),
        Yaml::SerdeInvalidType { expected, .. } | Yaml::SerdeInvalidValue { expected, .. } => {
            format!("it must be {expected}")
        }
        Yaml::Unexpected {
            expected: "sequence start",
            ..
        } => "it must be a list".to_owned(),
        Yaml::Unexpected {
            expected: "mapping start",
            ..
        } => "it must be `field: value` lines".to_owned(),
        Yaml::Unexpected { expected, .. } => format!("it must be {expected}"),
        Yaml::InvalidScalar { ty, .. } => format!("it must be of type {ty}"),
        Yaml::InvalidBooleanStrict { .. } => "it must be true or false".to_owned(),
        Yaml::NullIntoString { .. } => "it must be text, and is empty".to_owned(),
        Yaml::MultipleDocuments { .. } => "there must be one document".to_owned(),
        Yaml::Eof { .. } => "the file ends too early; it begins with `version: 1`".to_owned(),
        Yaml::Budget { .. } | Yaml::UnknownAnchor { .. } | Yaml::MergeKeyNotAllowed { .. } => {
            "anchors, aliases and merge keys are not read, nor more than one document, nor deep nesting"
                .to_owned()
        }
        Yaml::UnsupportedTag { .. } | Yaml::TaggedStructFieldName { .. } => "tags are not read".to_owned(),
        _ => "it is not as it must be".to_owned(),
    }
}

/// A key that looks like one of a field, by its name; else not.
fn named(what: &str, key: Option<&String>) -> String {
    let like_a_field = |key: &&String| {
        (1..=32).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    match key.filter(like_a_field) {
        Some(key) => format!("{what} {key}"),
        None => format!("a {what}"),
    }
}
