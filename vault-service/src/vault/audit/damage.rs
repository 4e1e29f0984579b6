//! What is said of damage. Never a value.

use std::fmt;

use proto::SecretName;

/// Something that is damaged or gone. Shows as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The workspace: its name or, when that is lost, its uid; `root key` for that.
    pub workspace: String,
    /// The secret, unless it is the workspace itself.
    pub name: Option<SecretName>,
    /// The version, if it is known.
    pub version: Option<u64>,
    /// What is the matter.
    pub what: What,
}

/// What is the matter with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum What {
    /// Its description does not decode.
    #[error("its description is damaged")]
    Description,
    /// The key of a workspace.
    #[error("its key does not open: all its secrets are lost")]
    Key,
    /// A key of a workspace that was rotated.
    #[error("a key of it that is being rotated does not open: what is still under it is lost")]
    RetiredKey,
    /// A key of a workspace, which may be sound.
    #[error("a key of it needs a store key that the file `keys` does not hold")]
    StoreKeyMissing,
    /// Only an older state of a workspace can be read.
    #[error("its settings and keys are older than acknowledged")]
    OlderWorkspace,
    /// A later state of a workspace may be lost, or its deletion.
    #[error("its settings may be older than acknowledged: changes made after them cannot be read")]
    MaybeOlderWorkspace,
    /// The record is gone or in a part of the store that cannot be read.
    #[error("its value cannot be read")]
    Unreadable,
    /// The record is not authentic.
    #[error("its value does not authenticate")]
    Unauthentic,
    /// The value belongs to another version than its description.
    #[error("its value is of version {0}")]
    AnotherVersion(u64),
    /// The value is fine.
    #[error("its description is lost, its value is not")]
    Undescribed,
    /// The workspace is gone, and with it the key.
    #[error("its workspace is lost")]
    NoWorkspace,
    /// The current version is lost, and this older one is not.
    #[error("it is older than acknowledged: version {0} is lost, and this is the newest that is not")]
    Older(u64),
    /// A later version may be lost, or the deletion.
    #[error("it may be older than acknowledged, or deleted: changes made after it cannot be read")]
    MaybeOlder,
    /// The log contradicts itself, or counts fewer secrets than it has.
    #[error("it may have been deleted: the change that would tell cannot be read")]
    MaybeDeleted,
    /// How often and when it was used.
    #[error("what was known of its uses is lost")]
    Uses,
    /// What was answered to a request.
    #[error("what was answered to a request is lost: tried again, it is done again")]
    Request,
    /// How far a rotation is.
    #[error("how far the rotation of its key is, is lost: it begins anew")]
    Rotation,
    /// The last version number of a deleted secret.
    #[error("it is deleted, and its last version number is lost")]
    LastVersion,
    /// More secrets were counted than were found.
    #[error("{0} more secrets were in it, whose names cannot be read")]
    Nameless(u64),
    /// Fewer were counted.
    #[error("its secrets are miscounted")]
    Miscounted,
}

/// State of a damaged item in the repaired store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The repaired store has the item as acknowledged, except for the damage that the line names.
    Kept,
    /// The repaired store has an older state of the item.
    Older,
    /// The repaired store does not have the item.
    Lost,
    /// The repaired store has the item only if the operator asked for doubtful items.
    Doubtful,
}

impl What {
    /// Returns the state of the damaged item in the repaired store.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Undescribed
            | Self::MaybeOlder
            | Self::MaybeOlderWorkspace
            | Self::LastVersion
            | Self::Rotation
            | Self::Miscounted => Outcome::Kept,
            Self::Older(_) | Self::OlderWorkspace => Outcome::Older,
            Self::MaybeDeleted => Outcome::Doubtful,
            Self::Description
            | Self::Key
            | Self::RetiredKey
            | Self::StoreKeyMissing
            | Self::Unreadable
            | Self::Unauthentic
            | Self::AnotherVersion(_)
            | Self::NoWorkspace
            | Self::Uses
            | Self::Request
            | Self::Nameless(_) => Outcome::Lost,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept => "kept",
            Self::Older => "older",
            Self::Lost => "lost",
            Self::Doubtful => "doubtful",
        })
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            workspace,
            name,
            version,
            what,
        } = self;
        f.write_str(workspace)?;
        if let Some(name) = name {
            write!(f, "/{name}")?;
        }
        if let Some(version) = version {
            write!(f, " version {version}")?;
        }
        write!(f, ": {what}")
    }
}
