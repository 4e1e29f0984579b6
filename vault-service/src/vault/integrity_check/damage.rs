//! Descriptions of damage. No description contains a value.

use std::fmt;

use proto::SecretName;

/// A damaged or lost item. `Display` writes one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Name of the workspace; its uid when the name is lost; `store key` for the rotation of the store key.
    pub workspace: String,
    /// `None` for damage of the workspace itself.
    pub name: Option<SecretName>,
    pub version: Option<u64>,
    pub kind: DamageKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DamageKind {
    /// The metadata of a workspace or secret does not decode.
    #[error("its metadata is damaged")]
    Metadata,
    /// The active KEK of a workspace cannot be unwrapped.
    #[error("its key does not open: all its secrets are lost")]
    Key,
    /// A retired KEK of a workspace cannot be unwrapped.
    #[error("a retired key of it does not open: the secrets that still need this key are lost")]
    RetiredKey,
    /// A KEK of a workspace may be sound, and the file `keys` does not have its store key.
    #[error("a key of it needs a store key that the file `keys` does not have")]
    StoreKeyMissing,
    /// Only an older state of a workspace can be read.
    #[error("its settings and keys are older than acknowledged")]
    OlderWorkspace,
    /// A later state of a workspace, or its deletion, may be lost.
    #[error("its settings may be older than acknowledged: changes made after them cannot be read")]
    MaybeOlderWorkspace,
    /// The record is gone, or in a part of the store that cannot be read.
    #[error("its value cannot be read")]
    Unreadable,
    #[error("its value does not authenticate")]
    Unauthentic,
    /// The value belongs to another version than its metadata.
    #[error("its value is of version {0}")]
    AnotherVersion(u64),
    /// The value is sound, and its metadata is lost.
    #[error("its metadata is lost, and its value is intact")]
    Undescribed,
    #[error("its workspace is lost")]
    NoWorkspace,
    /// The current version is lost, and this older one is sound.
    #[error(
        "it is older than acknowledged: version {0} is lost, and this is the newest version that is intact"
    )]
    Older(u64),
    #[error("it may be older than acknowledged, or deleted: changes made after it cannot be read")]
    MaybeOlder,
    /// The log contradicts itself, or the stored count of secrets is lower than the number of secrets in the log.
    #[error("it may have been deleted: the part of the log that would show this cannot be read")]
    MaybeDeleted,
    #[error("its use count is lost")]
    UseCounters,
    /// A part of the remembered requests does not decode.
    #[error("remembered requests are lost: a retry of such a request makes the change again")]
    Request,
    #[error("the state of the rotation of its key is lost: the rotation begins anew")]
    Rotation,
    /// The last version number of a deleted secret is lost.
    #[error("it is deleted, and its last version number is lost")]
    LastVersion,
    /// The stored count is higher than the number of secrets that were found.
    #[error("it had {0} more secrets, whose names cannot be read")]
    Nameless(u64),
    /// The stored count is lower than the number of secrets that were found.
    #[error("its stored number of secrets is wrong")]
    Miscounted,
}

/// State of a damaged item in the repaired store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairOutcome {
    /// The repaired store has the item as acknowledged, except for the damage that the line names.
    Kept,
    /// The repaired store has an older state of the item.
    Older,
    Lost,
    /// The repaired store has the item only if the operator asked for doubtful items.
    Doubtful,
}

impl DamageKind {
    /// Returns the state of the damaged item in the repaired store.
    pub fn outcome(self) -> RepairOutcome {
        match self {
            Self::Undescribed
            | Self::MaybeOlder
            | Self::MaybeOlderWorkspace
            | Self::LastVersion
            | Self::Rotation
            | Self::Miscounted => RepairOutcome::Kept,
            Self::Older(_) | Self::OlderWorkspace => RepairOutcome::Older,
            Self::MaybeDeleted => RepairOutcome::Doubtful,
            Self::Metadata
            | Self::Key
            | Self::RetiredKey
            | Self::StoreKeyMissing
            | Self::Unreadable
            | Self::Unauthentic
            | Self::AnotherVersion(_)
            | Self::NoWorkspace
            | Self::UseCounters
            | Self::Request
            | Self::Nameless(_) => RepairOutcome::Lost,
        }
    }
}

impl fmt::Display for RepairOutcome {
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
            kind,
        } = self;
        f.write_str(workspace)?;
        if let Some(name) = name {
            write!(f, "/{name}")?;
        }
        if let Some(version) = version {
            write!(f, " version {version}")?;
        }
        write!(f, ": {kind}")
    }
}
