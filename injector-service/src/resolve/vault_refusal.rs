//! The refusal of a call whose request the vault refused.

use proto::{Reason, Refusal, vault::v1::DecryptError};

/// Returns the refusal of a call for the vault's refusal of its request.
///
/// A reason that helps the reader is passed on with the vault's message: what to change, or that a later call may succeed
/// (those with the HTTP status 503). The other reasons are not about a decrypt, so the vault does not work as it should.
pub(super) fn vault_refusal(error: DecryptError) -> Refusal {
    let reason = error.reason();
    let DecryptError {
        code: _,
        reason: _,
        message,
    } = error;
    match reason {
        Reason::PermissionDenied => Refusal::new(
            Reason::VaultRefused,
            "the vault does not let this injector decrypt in this workspace (its setting --injector, or roles.injectors of the chart, grants that)",
        ),
        Reason::Unauthenticated => Refusal::new(
            Reason::VaultRefused,
            "the vault does not accept this injector's certificate or token, which may have expired",
        ),
        Reason::WorkspaceNotFound
        | Reason::WorkspaceReplaced
        | Reason::LimitExceeded
        | Reason::QuotaExceeded
        | Reason::RecordCorrupt
        | Reason::KeyNotLoaded
        | Reason::Sealed
        | Reason::SealingRequired
        | Reason::RootKeyProviderUnavailable
        | Reason::StorageUnavailable
        | Reason::StorageFull
        | Reason::AuditUnavailable
        | Reason::TokenKeysUnavailable
        | Reason::ShuttingDown
        | Reason::Overloaded
        | Reason::DeadlineExceeded => Refusal::new(reason, message),
        Reason::Unspecified
        | Reason::RequestMalformed
        | Reason::WorkspaceNameInvalid
        | Reason::ServerNameInvalid
        | Reason::SecretNameInvalid
        | Reason::SecretNameDuplicate
        | Reason::SecretValueSize
        | Reason::OriginInvalid
        | Reason::FieldMaskInvalid
        | Reason::PageTokenInvalid
        | Reason::ServerInvalid
        | Reason::SecretNotFound
        | Reason::ServerNotFound
        | Reason::WorkspaceExists
        | Reason::ServerExists
        | Reason::RevisionMismatch
        | Reason::Conflict
        | Reason::WorkspaceNotEmpty
        | Reason::PlanLimitReached
        | Reason::RegistryReadOnly
        | Reason::RegistryInvalid
        | Reason::CatalogInvalid
        | Reason::CatalogEntryNotFound
        | Reason::VaultUnavailable
        | Reason::VaultRefused
        | Reason::VaultAnswerInvalid
        | Reason::SecretRequiredMissing
        | Reason::SecretValueNotPlaceable
        | Reason::SecretNotForThisUpstream
        | Reason::HostInvalid
        | Reason::HostNotServed
        | Reason::BrowserRefused
        | Reason::TargetInvalid
        | Reason::PathInvalid
        | Reason::UriTooLong
        | Reason::MethodRefused
        | Reason::BodyInvalid
        | Reason::BodyTypeUnsupported
        | Reason::BodySigned
        | Reason::ExpectationFailed
        | Reason::MessageFlagInvalid
        | Reason::MessageEncodingUnsupported
        | Reason::HeadersTooLarge
        | Reason::BodyTimeout
        | Reason::BodyMissing
        | Reason::BodyTooLarge
        | Reason::TransferCodingUnsupported
        | Reason::UpstreamUnreachable
        | Reason::UpstreamTlsFailed
        | Reason::UpstreamAddressRefused
        | Reason::UpstreamProtocol
        | Reason::UpstreamRejectedCredential
        | Reason::UpstreamCertificateUntrusted
        | Reason::UpstreamCertificateNameMismatch
        | Reason::UpstreamNotTls
        | Reason::UpstreamClientCertificateRefused
        | Reason::UpstreamHeadTooLarge
        | Reason::UpstreamEchoedSecret
        | Reason::UpstreamEncodingUnsupported
        | Reason::VersionMismatch
        | Reason::RequestIdReused
        | Reason::VersionNotFound
        | Reason::RotationUnderWay
        | Reason::RootKeyFromFile
        | Reason::VaultNotEmpty
        | Reason::BackupUnderWay
        | Reason::BackupDamaged
        | Reason::RestoreWidensOrigins
        | Reason::RestoreExtendsExpiry
        | Reason::UpstreamNotVerified
        | Reason::OutcomeUnknown
        | Reason::StorageFullOutcomeUnknown
        | Reason::Internal => {
            tracing::error!(reason = reason.name(), message, "the vault refused a decrypt");
            Refusal::new(Reason::VaultAnswerInvalid, "the vault refused this decrypt")
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    /// Returns the refusal of a call for the vault's `reason`.
    fn refused(reason: Reason) -> Refusal {
        vault_refusal(DecryptError {
            code: 0,
            reason: reason.into(),
            message: "of the vault".to_owned(),
        })
    }

    #[test]
    fn a_state_of_the_vault_that_ends_by_itself_is_passed_on_with_503() {
        for reason in [
            Reason::RootKeyProviderUnavailable,
            Reason::StorageUnavailable,
            Reason::AuditUnavailable,
            Reason::TokenKeysUnavailable,
            Reason::ShuttingDown,
            Reason::Overloaded,
        ] {
            let passed_on = refused(reason);
            assert_eq!(passed_on, Refusal::new(reason, "of the vault"));
            assert_eq!(passed_on.reason.http_status(), StatusCode::SERVICE_UNAVAILABLE);
        }
    }

    #[test]
    fn a_reason_that_names_the_setting_to_change_is_passed_on() {
        for reason in [Reason::SealingRequired, Reason::Sealed, Reason::WorkspaceReplaced] {
            assert_eq!(refused(reason), Refusal::new(reason, "of the vault"));
        }
    }

    #[test]
    fn a_reason_that_is_not_about_a_decrypt_is_not_passed_on() {
        for reason in [Reason::Unspecified, Reason::Internal, Reason::UpstreamNotTls] {
            assert_eq!(refused(reason).reason, Reason::VaultAnswerInvalid);
        }
    }
}
