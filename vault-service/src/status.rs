//! Refusals of calls, from the errors of the vault and of parsers.

use std::error::Error as _;

use chassis::telemetry::chain;
use proto::{
    LabelError, Reason, Refusal,
    page::PageTokenError,
    secret_name::{DuplicateName, SecretNameError},
};

use crate::vault::{BackupError, VaultError};

/// Returns the refusal of a call that failed with `error`. Logs the source of the error, which the caller does not get.
pub(crate) fn refusal(error: VaultError) -> Refusal {
    let reason = match &error {
        VaultError::NoWorkspace(_) => Reason::WorkspaceNotFound,
        VaultError::WorkspaceExists(_) => Reason::WorkspaceExists,
        VaultError::WorkspaceNotEmpty(_) => Reason::WorkspaceNotEmpty,
        VaultError::WorkspaceReplaced(_) => Reason::WorkspaceReplaced,
        VaultError::RevisionMismatch => Reason::RevisionMismatch,
        VaultError::NoSecret(..) => Reason::SecretNotFound,
        VaultError::VersionMismatch { .. } => Reason::VersionMismatch,
        VaultError::NoVersion { .. } => Reason::VersionNotFound,
        VaultError::RequestIdReused => Reason::RequestIdReused,
        VaultError::AlreadyExpired => Reason::RequestMalformed,
        VaultError::RestoreWidensOrigins => Reason::RestoreWidensOrigins,
        VaultError::RestoreExtendsExpiry => Reason::RestoreExtendsExpiry,
        VaultError::PlanLimit { .. } => Reason::PlanLimitReached,
        VaultError::AnswerTooLarge => Reason::LimitExceeded,
        VaultError::QuotaExceeded => Reason::QuotaExceeded,
        VaultError::Conflict => Reason::Conflict,
        VaultError::Corrupt(_) => Reason::RecordCorrupt,
        VaultError::KeyNotLoaded => Reason::KeyNotLoaded,
        VaultError::Locked => Reason::Sealed,
        VaultError::RotationUnderWay => Reason::RotationUnderWay,
        VaultError::RootKeyFromFile => Reason::RootKeyFromFile,
        VaultError::Provider(_) => Reason::RootKeyProviderUnavailable,
        VaultError::Full(_) => Reason::StorageFull,
        VaultError::Restoring | VaultError::BackupUnderWay | VaultError::BackupOutpaced => {
            Reason::BackupUnderWay
        }
        VaultError::NotEmpty => Reason::VaultNotEmpty,
        VaultError::BackupOfOtherFormat(_) => Reason::RequestMalformed,
        VaultError::Backup(error) => backup_reason(error),
        VaultError::Stopped => Reason::ShuttingDown,
        VaultError::OutcomeUnknown(_) => Reason::OutcomeUnknown,
        VaultError::FullOutcomeUnknown(_) => Reason::StorageFullOutcomeUnknown,
        VaultError::StorageFailed(_)
        | VaultError::Storage(_)
        | VaultError::Read(_)
        | VaultError::KeyFile(_) => Reason::StorageUnavailable,
        VaultError::Randomness(_) => Reason::Internal,
    };
    if let Some(source) = error.source() {
        tracing::error!(%error, source = chain(source), "the vault could not serve a call");
    }
    Refusal::new(reason, error)
}

fn backup_reason(error: &BackupError) -> Reason {
    match error {
        BackupError::NotABackup | BackupError::Unsupported(_) => Reason::RequestMalformed,
        BackupError::OtherRootKey(_) => Reason::KeyNotLoaded,
        BackupError::Damaged(_) => Reason::BackupDamaged,
        BackupError::Read(_) => Reason::StorageUnavailable,
    }
}

pub(crate) fn workspace_name(error: LabelError) -> Refusal {
    Refusal::new(Reason::WorkspaceNameInvalid, format!("workspace: {error}"))
}

pub(crate) fn server_name(error: LabelError) -> Refusal {
    Refusal::new(Reason::ServerNameInvalid, format!("server: {error}"))
}

pub(crate) fn secret_name(error: SecretNameError) -> Refusal {
    Refusal::new(Reason::SecretNameInvalid, error)
}

pub(crate) fn duplicate_name(error: DuplicateName) -> Refusal {
    Refusal::new(Reason::SecretNameDuplicate, error)
}

pub(crate) fn page_token(error: PageTokenError) -> Refusal {
    Refusal::new(Reason::PageTokenInvalid, error)
}
