//! Errors of the vault.

use std::io;

use proto::{SecretName, WorkspaceName};

use crate::{
    crypto::{
        self, NoRandomness,
        backup::BackupError,
        record::{EncryptError, ReencryptError},
    },
    root::ProviderError,
    store,
};

/// Reason for which a store was not opened as a vault. The store is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] store::StoreOpenError),
    /// The store has entries and no [`Meta`](super::stored::Meta).
    #[error("the store is not empty, and holds no vault")]
    NotAVault,
    #[error(
        "the store has format {found}; this release reads format {supported}: use the release that wrote it"
    )]
    Format { found: u32, supported: u32 },
    #[error(
        "the file `keys` of the store is missing, without which nothing in it can be decrypted: restore a backup"
    )]
    NoKeys,
    /// The file `keys` and the store are copies from different times.
    #[error(
        "the store needs the store key {0}, which its file `keys` does not hold: one of them is an older copy; restore a \
         backup, or put back the two that belong together"
    )]
    OtherKeys(String),
    #[error("the store's keys could not be read")]
    Keys(#[source] VaultError),
    #[error(
        "this store needs the root key {needed}, which wraps the keys of {workspaces} workspaces; the settings give only {given}: \
         add the needed key to them"
    )]
    OtherRootKey {
        /// Ids of the root keys that the providers have.
        given: String,
        needed: String,
        workspaces: u64,
    },
    #[error("the root key could not be loaded")]
    RootKey(#[from] UnlockError),
    #[error("the store's own description is damaged; restore a backup")]
    Corrupt(#[from] prost::DecodeError),
    #[error("the store could not be read")]
    Read(#[from] store::Fault),
    #[error("the store could not be initialised")]
    Write(#[from] store::CommitError),
    #[error("the entries of an interrupted restore could not be removed")]
    Recover(#[source] VaultError),
}

/// Reason for which the vault stays locked.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// Reason for which a call failed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("there is no workspace {0}")]
    NoWorkspace(WorkspaceName),
    #[error("there is a workspace {0} already")]
    WorkspaceExists(WorkspaceName),
    #[error("workspace {0} holds secrets; delete them first, or use force")]
    WorkspaceNotEmpty(WorkspaceName),
    #[error("workspace {0} was deleted and created again: its uid is not the given one")]
    WorkspaceReplaced(WorkspaceName),
    #[error("the revision given is not the current one; read it again and decide again")]
    RevisionMismatch,
    #[error("workspace {0} has no secret {1}")]
    NoSecret(WorkspaceName, SecretName),
    #[error(
        "the current version is {current} and not {expected} (0: there is none); read it again and decide again"
    )]
    VersionMismatch {
        /// Current version; 0 when the secret does not exist.
        current: u64,
        expected: u64,
    },
    #[error("workspace {workspace} keeps no version {version} of secret {name}")]
    NoVersion {
        workspace: WorkspaceName,
        name: SecretName,
        version: u64,
    },
    #[error(
        "this request_id was used for another request, or before the workspace's key was rotated; check the secret's versions, \
         and use a new request_id"
    )]
    RequestIdReused,
    /// The expiry of the new version has passed.
    #[error("the value would have expired already; give it an expiry in the future")]
    AlreadyExpired,
    /// The restored value could be sent to origins that a later version excludes.
    #[error(
        "the version to restore and all later versions have no upstream origins in common; put the value again, or have \
         an administrator restore it with allow_wider_origins"
    )]
    RestoreWidensOrigins,
    /// The restored value would expire later than it did, or than a later version does.
    #[error(
        "the restored value would have to expire at the earliest of its own expiry and those of all later versions, which has \
         passed or is earlier than asked for; put the value again, or have an administrator restore it with allow_later_expiry"
    )]
    RestoreExtendsExpiry,
    #[error(
        "workspace {workspace} has the {limit} secrets that its plan allows; delete one, or change the plan"
    )]
    PlanLimit { workspace: WorkspaceName, limit: u64 },
    #[error(
        "the requested values are together larger than {} bytes; request fewer at once",
        super::MAX_ANSWER
    )]
    AnswerTooLarge,
    #[error("too many calls of this identity are in progress; try again, with fewer calls at once")]
    QuotaExceeded,
    /// A write was attempted several times, and every attempt conflicted with another write.
    #[error("other calls changed the same data at the same time; try again")]
    Conflict,
    /// Stored bytes do not decode or do not authenticate. The message does not tell which.
    #[error("a stored record is damaged")]
    Corrupt(#[source] Option<crypto::Corruption>),
    #[error("the key that a stored record needs is not loaded")]
    KeyNotLoaded,
    /// The vault has no root key yet.
    #[error("the vault is locked: its root key's provider does not answer; it unlocks by itself")]
    Locked,
    #[error(
        "a rotation of this key is under way; the status of the keys (`aerostack key status`) shows its progress, and what \
         holds it up"
    )]
    RotationUnderWay,
    /// The active root key comes from an operator's file, so the vault cannot replace it.
    #[error(
        "the root key comes from a file, which the vault does not replace: restart the vault with --root-key-file NEW, \
         followed by --root-key-file with the present file"
    )]
    RootKeyFromFile,
    #[error("the root key's provider does not answer; nothing was changed")]
    Provider(#[source] ProviderError),
    #[error(
        "the vault's disk is full: a change that makes the store larger needs up to 32 MiB of free space; nothing was \
         changed; give the disk more room, or delete secrets"
    )]
    Full(#[source] Option<store::CommitError>),
    #[error("another backup is being made or restored; try again when it is done")]
    BackupUnderWay,
    /// The client of a backup reads more slowly than the store changes.
    #[error(
        "the vault changes faster than the backup is taken; try again at a quieter time, or over a faster connection"
    )]
    BackupOutpaced,
    #[error("the vault has workspaces; a backup is restored into an empty vault only")]
    NotEmpty,
    /// The backup cannot be restored. Nothing was changed.
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(
        "the backup was made of a store of format {0}, which this release does not know; use the release that made it"
    )]
    BackupOfOtherFormat(u32),
    #[error("a backup is being restored, or its restore was interrupted; nothing was changed")]
    Restoring,
    #[error("the vault is shutting down")]
    Stopped,
    /// The store failed while it wrote the change.
    #[error(
        "the vault's storage failed while it wrote the change: a restart of the vault decides whether the change is made, and \
         until then the vault serves the data from before"
    )]
    OutcomeUnknown(#[source] store::CommitError),
    /// The disk was full while the store wrote the change.
    #[error(
        "the vault's disk was full while it wrote the change: make room and restart the vault, which decides whether the change \
         is made; until then the vault serves the data from before"
    )]
    FullOutcomeUnknown(#[source] store::CommitError),
    /// The store failed in an earlier write.
    #[error(
        "the vault's storage failed; nothing was changed, and the vault accepts no changes until it is restarted"
    )]
    StorageFailed(#[source] store::CommitError),
    /// The store refused the change, or was closed.
    #[error("the vault's storage refused the change, or is closed; nothing was changed")]
    Storage(#[source] store::CommitError),
    #[error("the vault's storage cannot be read")]
    Read(#[from] store::Fault),
    /// The file `keys` could not be read or replaced.
    #[error(transparent)]
    KeyFile(store::KeyFileError),
    #[error("the vault could not make a key")]
    Randomness(#[from] NoRandomness),
}

impl From<store::CommitError> for VaultError {
    fn from(error: store::CommitError) -> Self {
        match error {
            store::CommitError::Conflict => Self::Conflict,
            store::CommitError::Full => Self::Full(Some(error)),
            store::CommitError::OutcomeUnknown(ref fault) if fault.is_full() => {
                Self::FullOutcomeUnknown(error)
            }
            store::CommitError::OutcomeUnknown(_) => Self::OutcomeUnknown(error),
            store::CommitError::Unavailable(_) => Self::StorageFailed(error),
            store::CommitError::ExclusiveWriter => Self::Restoring,
            store::CommitError::LimitReached
            | store::CommitError::Counter
            | store::CommitError::TooLarge
            | store::CommitError::Reserved
            | store::CommitError::Unreadable(_)
            | store::CommitError::Closed => Self::Storage(error),
        }
    }
}

impl From<store::KeyFileError> for VaultError {
    fn from(error: store::KeyFileError) -> Self {
        match error {
            store::KeyFileError::Files { doing: _, source }
                if matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                Self::Full(None)
            }
            error => Self::KeyFile(error),
        }
    }
}

impl From<crypto::DecryptionError> for VaultError {
    fn from(error: crypto::DecryptionError) -> Self {
        match error {
            crypto::DecryptionError::UnknownKey(_) => Self::KeyNotLoaded,
            crypto::DecryptionError::Corrupt(cause) => Self::Corrupt(Some(cause)),
        }
    }
}

impl From<EncryptError> for VaultError {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::NoRandomness(error) => Self::Randomness(error),
            EncryptError::Origins => Self::Corrupt(None),
        }
    }
}

impl From<ReencryptError> for VaultError {
    fn from(error: ReencryptError) -> Self {
        match error {
            ReencryptError::Decrypt(error) => error.into(),
            ReencryptError::Encrypt(error) => error.into(),
        }
    }
}

impl From<prost::DecodeError> for VaultError {
    fn from(_: prost::DecodeError) -> Self {
        Self::Corrupt(None)
    }
}
