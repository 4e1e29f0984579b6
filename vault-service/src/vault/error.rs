//! Why the vault did not do it.

use proto::{SecretName, WorkspaceName};

use crate::{
    crypto::{self, NoRandomness},
    store,
};

/// Why a store was not taken over. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is something in it, but no vault.
    #[error("the store is not empty, and holds no vault")]
    NotOurs,
    /// A layout that this release does not know.
    #[error(
        "the store has format {found}; this release reads format {supported}: use the release that wrote it"
    )]
    Format {
        /// What the store says.
        found: u32,
        /// What is known here.
        supported: u32,
    },
    /// It was made with another root key.
    #[error("the root key given has the id {given}, but this store was made with {needed}: give it that key")]
    OtherRootKey {
        /// The id of the key given.
        given: String,
        /// The id of the key that opens the store.
        needed: String,
    },
    /// What the store says of itself does not decode.
    #[error("the store's own description is damaged; restore a backup")]
    Corrupt(#[from] prost::DecodeError),
    /// It could not be read.
    #[error("the store could not be read")]
    Read(#[from] store::Fault),
    /// It could not be written.
    #[error("the store could not be initialised")]
    Write(#[from] store::CommitError),
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
    /// Other writes came between, again and again.
    #[error("other writes of the same thing came between; try again")]
    Conflict,
    /// Stored bytes do not decode or do not authenticate. One text, whatever the cause.
    #[error("a stored record is damaged")]
    Corrupt(#[source] Option<crypto::Corruption>),
    /// The key that a record names is not loaded.
    #[error("the key that a stored record needs is not loaded")]
    KeyNotLoaded,
    /// The disk is full.
    #[error("the vault's disk is full; nothing was changed")]
    Full(#[source] Option<store::CommitError>),
    /// The vault is being closed.
    #[error("the vault is shutting down")]
    Stopped,
    /// The store failed, or was closed.
    #[error("the vault's storage does not answer")]
    Storage(#[source] store::CommitError),
    /// The store could not be read.
    #[error("the vault's storage does not answer")]
    Read(#[from] store::Fault),
    /// No random bytes were to be had.
    #[error("the vault could not make a key")]
    Randomness(#[from] NoRandomness),
}

impl From<store::CommitError> for VaultError {
    fn from(error: store::CommitError) -> Self {
        match error {
            store::CommitError::Conflict => Self::Conflict,
            store::CommitError::Full(_) => Self::Full(Some(error)),
            store::CommitError::LimitReached
            | store::CommitError::Counter
            | store::CommitError::TooLarge
            | store::CommitError::Reserved
            | store::CommitError::Unreadable(_)
            | store::CommitError::Unavailable(_)
            | store::CommitError::Closed => Self::Storage(error),
        }
    }
}

impl From<crypto::OpenError> for VaultError {
    fn from(error: crypto::OpenError) -> Self {
        match error {
            crypto::OpenError::UnknownKey(_) => Self::KeyNotLoaded,
            crypto::OpenError::Corrupt(cause) => Self::Corrupt(Some(cause)),
        }
    }
}

impl From<prost::DecodeError> for VaultError {
    fn from(_: prost::DecodeError) -> Self {
        Self::Corrupt(None)
    }
}
