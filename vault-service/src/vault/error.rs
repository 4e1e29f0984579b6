//! Why the vault did not do it.

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

/// Why a store was not taken over. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store did not open.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The store has entries, but none of a vault.
    #[error("the store is not empty, and holds no vault")]
    NotOurs,
    /// A layout that this release does not know.
    #[error(
        "the store has format {found}; this release reads format {supported}: use the release that wrote it"
    )]
    Format {
        /// What the store says.
        found: u32,
        /// The format that this release supports.
        supported: u32,
    },
    /// The file `keys` is missing beside data that needs it.
    #[error(
        "the file `keys` of the store is missing, without which nothing in it can be decrypted: restore a backup"
    )]
    NoKeys,
    /// The file `keys` is of another time than the data beside it.
    #[error(
        "the store needs the store key {0}, which its file `keys` does not hold: one of them is an older copy; restore a \
         backup, or put back the two that belong together"
    )]
    OtherKeys(String),
    /// The file `keys` was not read.
    #[error("the store's keys could not be read")]
    Keys(#[source] VaultError),
    /// It needs a root key that was not given.
    #[error(
        "this store needs the root key {needed}, which wraps the keys of {workspaces} workspaces; given were {given}: \
         give it that key too"
    )]
    OtherRootKey {
        /// The ids of the keys given.
        given: String,
        /// The id of the key that is missing.
        needed: String,
        /// Number of workspaces in the store.
        workspaces: u64,
    },
    /// The root key that was given cannot be used.
    #[error("the root key could not be taken")]
    RootKey(#[from] UnsealError),
    /// What the store says of itself does not decode.
    #[error("the store's own description is damaged; restore a backup")]
    Corrupt(#[from] prost::DecodeError),
    /// It could not be read.
    #[error("the store could not be read")]
    Read(#[from] store::Fault),
    /// It could not be written.
    #[error("the store could not be initialised")]
    Write(#[from] store::CommitError),
    /// What a restore left by half could not be removed.
    #[error("what was restored by half could not be removed")]
    Recover(#[source] VaultError),
}

/// Why the vault stays sealed.
#[derive(Debug, thiserror::Error)]
pub enum UnsealError {
    /// The root key's provider did not give it.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The store could not be used.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// No such workspace.
    #[error("there is no workspace {0}")]
    NoWorkspace(WorkspaceName),
    /// The name is taken.
    #[error("there is a workspace {0} already")]
    WorkspaceExists(WorkspaceName),
    /// It holds secrets.
    #[error("workspace {0} holds secrets; delete them first, or use force")]
    WorkspaceNotEmpty(WorkspaceName),
    /// The workspace that the caller knows is gone; another has its name.
    #[error("workspace {0} was deleted and made anew: its uid is not the one given")]
    WorkspaceReplaced(WorkspaceName),
    /// Not the revision that the caller knows.
    #[error("the revision given is not the current one; read it again and decide anew")]
    RevisionMismatch,
    /// No such secret.
    #[error("workspace {0} has no secret {1}")]
    NoSecret(WorkspaceName, SecretName),
    /// Not the version that the caller knows.
    #[error(
        "the current version is {current} and not {expected} (0: there is none); read it again and decide anew"
    )]
    VersionMismatch {
        /// What it is; 0 when there is no such secret.
        current: u64,
        /// What the caller took it for.
        expected: u64,
    },
    /// The version is not there, or no more.
    #[error("workspace {workspace} keeps no version {version} of secret {name}")]
    NoVersion {
        /// Which workspace.
        workspace: WorkspaceName,
        /// Which secret.
        name: SecretName,
        /// Which version.
        version: u64,
    },
    /// The id was given to another request.
    #[error(
        "this request_id was given to another request, or before the workspace's key was rotated; look what became of \
         it, and use a new one"
    )]
    RequestIdReused,
    /// What was asked for would be gone at once.
    #[error("it would have expired already; give it an expiry in the future")]
    AlreadyExpired,
    /// The restored value could go where a version since may not.
    #[error(
        "the version to restore and the versions since have no upstream origins in common; put the value anew, or have \
         an administrator restore it with allow_wider_origins"
    )]
    RestoreWidensOrigins,
    /// The restored value would last longer than it was to.
    #[error(
        "a restored version expires no later than it did and than every version since, and one of these times is over or \
         is earlier than asked for; put the value anew, or have an administrator restore it with allow_later_expiry"
    )]
    RestoreExtendsExpiry,
    /// The plan allows no more names.
    #[error(
        "workspace {workspace} has the {limit} secrets that its plan allows; delete one, or change the plan"
    )]
    PlanLimit {
        /// Which workspace.
        workspace: WorkspaceName,
        /// How many its plan allows.
        limit: u64,
    },
    /// Values together are larger than an answer may be.
    #[error(
        "the values asked for are together larger than {} bytes; ask for fewer at once",
        super::MAX_ANSWER
    )]
    AnswerTooLarge,
    /// The principal has as much under way as one principal may.
    #[error("too much of what this identity asked for is under way; try again, with fewer calls at once")]
    QuotaExceeded,
    /// Other writes came between, again and again.
    #[error("other writes of the same thing came between; try again")]
    Conflict,
    /// Stored bytes do not decode or do not authenticate. One text, whatever the cause.
    #[error("a stored record is damaged")]
    Corrupt(#[source] Option<crypto::Corruption>),
    /// The key that a record names is not loaded.
    #[error("the key that a stored record needs is not loaded")]
    KeyNotLoaded,
    /// The root key is not there yet.
    #[error("the vault is sealed: its root key's provider does not answer; it unseals by itself")]
    Sealed,
    /// A rotation of this key has not ended.
    #[error(
        "a rotation of this key is under way; see its progress, and what holds it up, in the status of the keys"
    )]
    RotationUnderWay,
    /// The active root key is not the vault's to make.
    #[error("the root key comes from a file: give the vault a new one before it, and restart the vault")]
    RootKeyFromFile,
    /// The root key's provider does not work.
    #[error("the root key's provider does not answer; nothing was changed")]
    Provider(#[source] ProviderError),
    /// The disk is full.
    #[error("the vault's disk is full; nothing was changed")]
    Full(#[source] Option<store::CommitError>),
    /// Another backup is being made or restored.
    #[error("another backup is being made or restored; try again when it is done")]
    BackupUnderWay,
    /// Whoever takes a backup takes it too slowly.
    #[error(
        "the vault changes faster than the backup is taken; try again at a quieter time, or over a faster connection"
    )]
    BackupOutpaced,
    /// A backup is restored into an empty vault only.
    #[error("the vault has workspaces; a backup is restored into an empty vault only")]
    NotEmpty,
    /// A backup that cannot be restored; nothing was changed.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A backup with a layout that this release does not know.
    #[error(
        "the backup was made of a store of format {0}, which this release does not know; use the release that made it"
    )]
    BackupOfOtherFormat(u32),
    /// A backup is being restored.
    #[error("a backup is being restored, or was by half; nothing was changed")]
    Restoring,
    /// The vault is being closed.
    #[error("the vault is shutting down")]
    Stopped,
    /// The store failed while it wrote the change.
    #[error(
        "the vault's storage failed while it wrote this: a restart of the vault settles whether it was done, and until \
         then the vault serves what was there before"
    )]
    OutcomeUnknown(#[source] store::CommitError),
    /// The disk was full while the store wrote the change.
    #[error(
        "the vault's disk was full while it wrote this: make room and restart the vault, which settles whether it was \
         done; until then the vault serves what was there before"
    )]
    FullOutcomeUnknown(#[source] store::CommitError),
    /// The store failed earlier.
    #[error(
        "the vault's storage failed; nothing was changed, and nothing can be until the vault is restarted"
    )]
    Ended(#[source] store::CommitError),
    /// The store could not write the change, or was closed.
    #[error("the vault's storage did not take the change")]
    Storage(#[source] store::CommitError),
    /// The store could not be read.
    #[error("the vault's storage cannot be read")]
    Read(#[from] store::Fault),
    /// The store's file `keys` could not be read or replaced.
    #[error(transparent)]
    KeyFile(store::KeyFileError),
    /// No random bytes were to be had.
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
            store::CommitError::Unavailable(_) => Self::Ended(error),
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
