//! The reasons for which a service refuses a call, each with one gRPC code and one HTTP status.

use http::StatusCode;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::Reason;

/// Domain of every `google.rpc.ErrorInfo` of this project.
pub const ERROR_DOMAIN: &str = "aerostack";

impl Reason {
    /// Returns the gRPC code of this reason.
    pub fn code(self) -> Code {
        self.row().0
    }

    /// Returns the HTTP status of this reason on the data plane.
    pub fn http_status(self) -> StatusCode {
        self.row().1
    }

    /// Returns the text for `ErrorInfo.reason` and `x-aerostack-reason`, such as `SECRET_NAME_INVALID`.
    pub fn name(self) -> &'static str {
        let name = self.as_str_name();
        name.strip_prefix("REASON_").unwrap_or(name)
    }

    fn row(self) -> (Code, StatusCode) {
        const INVALID: (Code, StatusCode) = (Code::InvalidArgument, StatusCode::BAD_REQUEST);
        const NOT_FOUND: (Code, StatusCode) = (Code::NotFound, StatusCode::NOT_FOUND);
        const EXISTS: (Code, StatusCode) = (Code::AlreadyExists, StatusCode::CONFLICT);
        const ABORTED: (Code, StatusCode) = (Code::Aborted, StatusCode::CONFLICT);
        const PRECONDITION: (Code, StatusCode) = (Code::FailedPrecondition, StatusCode::BAD_GATEWAY);
        const UNAVAILABLE: (Code, StatusCode) = (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE);
        const EXHAUSTED: (Code, StatusCode) = (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS);
        const BAD_UPSTREAM: (Code, StatusCode) = (Code::Unavailable, StatusCode::BAD_GATEWAY);
        const INTERNAL: (Code, StatusCode) = (Code::Internal, StatusCode::INTERNAL_SERVER_ERROR);
        match self {
            Self::Unspecified | Self::Internal => INTERNAL,
            // gRPC's specification of compression demands this code.
            Self::MessageFlagInvalid => (Code::Internal, StatusCode::BAD_REQUEST),
            Self::MessageEncodingUnsupported => (Code::Unimplemented, StatusCode::UNSUPPORTED_MEDIA_TYPE),
            Self::RequestMalformed
            | Self::WorkspaceNameInvalid
            | Self::ServerNameInvalid
            | Self::SecretNameInvalid
            | Self::SecretNameDuplicate
            | Self::SecretValueSize
            | Self::OriginInvalid
            | Self::FieldMaskInvalid
            | Self::PageTokenInvalid
            | Self::ServerInvalid
            | Self::HostInvalid
            | Self::TargetInvalid
            | Self::PathInvalid
            | Self::BodyInvalid
            | Self::BodySigned
            | Self::BodyMissing => INVALID,
            Self::Unauthenticated => (Code::Unauthenticated, StatusCode::UNAUTHORIZED),
            Self::PermissionDenied | Self::BrowserRefused => (Code::PermissionDenied, StatusCode::FORBIDDEN),
            Self::WorkspaceNotFound
            | Self::SecretNotFound
            | Self::ServerNotFound
            | Self::CatalogEntryNotFound
            | Self::VersionNotFound => NOT_FOUND,
            Self::WorkspaceExists | Self::ServerExists | Self::RequestIdReused => EXISTS,
            Self::RevisionMismatch | Self::Conflict | Self::VersionMismatch | Self::BackupUnderWay => ABORTED,
            Self::WorkspaceNotEmpty
            | Self::VaultNotEmpty
            | Self::WorkspaceReplaced
            | Self::SealingRequired
            | Self::KeyNotLoaded
            | Self::Sealed
            | Self::RotationUnderWay
            | Self::RootKeyFromFile
            | Self::RestoreWidensOrigins
            | Self::RestoreExtendsExpiry
            | Self::RegistryReadOnly
            | Self::RegistryInvalid
            | Self::CatalogInvalid
            | Self::VaultRefused
            | Self::SecretRequiredMissing
            | Self::SecretValueNotPlaceable
            | Self::SecretNotForThisUpstream
            | Self::UpstreamNotVerified
            | Self::UpstreamRejectedCredential
            | Self::UpstreamEchoedSecret
            | Self::UpstreamAddressRefused => PRECONDITION,
            Self::PlanLimitReached
            | Self::StorageFull
            | Self::StorageFullOutcomeUnknown
            | Self::LimitExceeded
            | Self::QuotaExceeded => EXHAUSTED,
            Self::RecordCorrupt | Self::BackupDamaged | Self::VaultAnswerInvalid => {
                (Code::DataLoss, StatusCode::BAD_GATEWAY)
            }
            Self::StorageUnavailable
            | Self::OutcomeUnknown
            | Self::ShuttingDown
            | Self::Overloaded
            | Self::VaultUnavailable
            | Self::RootKeyProviderUnavailable
            | Self::AuditUnavailable
            | Self::TokenKeysUnavailable => UNAVAILABLE,
            Self::DeadlineExceeded => (Code::DeadlineExceeded, StatusCode::GATEWAY_TIMEOUT),
            Self::HostNotServed => (Code::InvalidArgument, StatusCode::MISDIRECTED_REQUEST),
            Self::BodyTooLarge => (Code::ResourceExhausted, StatusCode::PAYLOAD_TOO_LARGE),
            Self::UriTooLong => (Code::ResourceExhausted, StatusCode::URI_TOO_LONG),
            Self::HeadersTooLarge => (
                Code::ResourceExhausted,
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            ),
            Self::UpstreamHeadTooLarge => (Code::ResourceExhausted, StatusCode::BAD_GATEWAY),
            Self::BodyTimeout => (Code::DeadlineExceeded, StatusCode::REQUEST_TIMEOUT),
            Self::MethodRefused => (Code::InvalidArgument, StatusCode::METHOD_NOT_ALLOWED),
            Self::BodyTypeUnsupported => (Code::InvalidArgument, StatusCode::UNSUPPORTED_MEDIA_TYPE),
            Self::ExpectationFailed => (Code::InvalidArgument, StatusCode::EXPECTATION_FAILED),
            Self::TransferCodingUnsupported => (Code::Unimplemented, StatusCode::NOT_IMPLEMENTED),
            Self::UpstreamUnreachable
            | Self::UpstreamTlsFailed
            | Self::UpstreamCertificateUntrusted
            | Self::UpstreamCertificateNameMismatch
            | Self::UpstreamNotTls
            | Self::UpstreamClientCertificateRefused
            | Self::UpstreamEncodingUnsupported
            | Self::UpstreamProtocol => BAD_UPSTREAM,
        }
    }
}

/// A refusal as the caller sees it. The message must not contain the value of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Determines the gRPC code and the HTTP status.
    pub reason: Reason,
    /// A sentence for people: the problem, its place, and what to do about it.
    pub message: String,
}

impl Refusal {
    /// Makes a refusal for `reason`, explained by `message`.
    pub fn new(reason: Reason, message: impl ToString) -> Self {
        Self {
            reason,
            message: message.to_string(),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let details = ErrorDetails::with_error_info(refusal.reason.name(), ERROR_DOMAIN, []);
        Status::with_error_details(refusal.reason.code(), refusal.message, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Code, status and names of all reasons. Clients rely on them, so a row never changes.
    const PUBLISHED: &[(Code, u16, &str)] = &[
        (
            Code::InvalidArgument,
            400,
            "REQUEST_MALFORMED WORKSPACE_NAME_INVALID SERVER_NAME_INVALID SECRET_NAME_INVALID \
             SECRET_NAME_DUPLICATE SECRET_VALUE_SIZE ORIGIN_INVALID FIELD_MASK_INVALID PAGE_TOKEN_INVALID \
             SERVER_INVALID HOST_INVALID TARGET_INVALID PATH_INVALID BODY_INVALID BODY_SIGNED BODY_MISSING",
        ),
        (Code::Internal, 400, "MESSAGE_FLAG_INVALID"),
        (Code::Unauthenticated, 401, "UNAUTHENTICATED"),
        (Code::PermissionDenied, 403, "PERMISSION_DENIED BROWSER_REFUSED"),
        (
            Code::NotFound,
            404,
            "WORKSPACE_NOT_FOUND SECRET_NOT_FOUND SERVER_NOT_FOUND CATALOG_ENTRY_NOT_FOUND VERSION_NOT_FOUND",
        ),
        (Code::InvalidArgument, 405, "METHOD_REFUSED"),
        (Code::DeadlineExceeded, 408, "BODY_TIMEOUT"),
        (
            Code::AlreadyExists,
            409,
            "WORKSPACE_EXISTS SERVER_EXISTS REQUEST_ID_REUSED",
        ),
        (
            Code::Aborted,
            409,
            "REVISION_MISMATCH CONFLICT VERSION_MISMATCH BACKUP_UNDER_WAY",
        ),
        (Code::ResourceExhausted, 413, "BODY_TOO_LARGE"),
        (Code::ResourceExhausted, 414, "URI_TOO_LONG"),
        (Code::InvalidArgument, 415, "BODY_TYPE_UNSUPPORTED"),
        (Code::Unimplemented, 415, "MESSAGE_ENCODING_UNSUPPORTED"),
        (Code::InvalidArgument, 417, "EXPECTATION_FAILED"),
        (Code::InvalidArgument, 421, "HOST_NOT_SERVED"),
        (
            Code::ResourceExhausted,
            429,
            "PLAN_LIMIT_REACHED STORAGE_FULL STORAGE_FULL_OUTCOME_UNKNOWN LIMIT_EXCEEDED QUOTA_EXCEEDED",
        ),
        (Code::ResourceExhausted, 431, "HEADERS_TOO_LARGE"),
        (Code::Internal, 500, "UNSPECIFIED INTERNAL"),
        (
            Code::FailedPrecondition,
            502,
            "RESTORE_WIDENS_ORIGINS RESTORE_EXTENDS_EXPIRY \
             WORKSPACE_NOT_EMPTY WORKSPACE_REPLACED KEY_NOT_LOADED SEALING_REQUIRED REGISTRY_READ_ONLY \
             REGISTRY_INVALID CATALOG_INVALID VAULT_REFUSED SECRET_REQUIRED_MISSING \
             SECRET_VALUE_NOT_PLACEABLE SECRET_NOT_FOR_THIS_UPSTREAM UPSTREAM_ADDRESS_REFUSED SEALED \
             ROTATION_UNDER_WAY ROOT_KEY_FROM_FILE VAULT_NOT_EMPTY UPSTREAM_NOT_VERIFIED \
             UPSTREAM_REJECTED_CREDENTIAL UPSTREAM_ECHOED_SECRET",
        ),
        (Code::Unimplemented, 501, "TRANSFER_CODING_UNSUPPORTED"),
        (Code::ResourceExhausted, 502, "UPSTREAM_HEAD_TOO_LARGE"),
        (
            Code::DataLoss,
            502,
            "RECORD_CORRUPT BACKUP_DAMAGED VAULT_ANSWER_INVALID",
        ),
        (
            Code::Unavailable,
            502,
            "UPSTREAM_UNREACHABLE UPSTREAM_TLS_FAILED UPSTREAM_PROTOCOL UPSTREAM_CERTIFICATE_UNTRUSTED \
             UPSTREAM_CERTIFICATE_NAME_MISMATCH UPSTREAM_NOT_TLS UPSTREAM_CLIENT_CERTIFICATE_REFUSED \
             UPSTREAM_ENCODING_UNSUPPORTED",
        ),
        (
            Code::Unavailable,
            503,
            "STORAGE_UNAVAILABLE OUTCOME_UNKNOWN SHUTTING_DOWN OVERLOADED VAULT_UNAVAILABLE \
             ROOT_KEY_PROVIDER_UNAVAILABLE AUDIT_UNAVAILABLE TOKEN_KEYS_UNAVAILABLE",
        ),
        (Code::DeadlineExceeded, 504, "DEADLINE_EXCEEDED"),
    ];

    #[test]
    fn every_reason_has_the_code_and_the_status_that_it_always_had() {
        for reason in all_reasons() {
            let published = PUBLISHED
                .iter()
                .filter(|(_, _, names)| names.split(' ').any(|name| name == reason.name()))
                .map(|(code, status, _)| (*code, *status));
            let now = (reason.code(), reason.http_status().as_u16());
            assert_eq!(published.collect::<Vec<_>>(), [now], "{}", reason.name());
        }
    }

    /// Returns all reasons; their numbers are below 200.
    fn all_reasons() -> impl Iterator<Item = Reason> {
        (0..200).filter_map(|number| Reason::try_from(number).ok())
    }

    /// Returns the rows of docs/refusals.md: the reason, and its HTTP status and gRPC code.
    fn documented() -> Vec<(String, (String, String))> {
        let rows = include_str!("../../docs/refusals.md").lines();
        rows.filter(|line| line.starts_with("| `"))
            .map(|row| {
                let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
                assert!(cells.iter().all(|cell| !cell.is_empty()), "an empty cell: {row}");
                let [reason, status, code, _who, _causes, _remedy] = cells.try_into().expect("six cells");
                let plain = |cell: &str| cell.trim_matches('`').to_owned();
                (plain(reason), (status.to_owned(), plain(code)))
            })
            .collect()
    }

    /// Returns the name of a code in gRPC's specification, such as `INVALID_ARGUMENT`.
    fn code_name(code: Code) -> String {
        let mut name = String::new();
        for letter in format!("{code:?}").chars() {
            if letter.is_ascii_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_uppercase());
        }
        name
    }

    #[test]
    fn the_page_of_refusals_has_one_row_for_every_reason() {
        let mut expected: Vec<_> = all_reasons()
            .map(|reason| {
                let status = reason.http_status().as_u16().to_string();
                (reason.name().to_owned(), (status, code_name(reason.code())))
            })
            .collect();
        let mut found = documented();
        expected.sort();
        found.sort();
        let missing: Vec<_> = expected.iter().filter(|row| !found.contains(row)).collect();
        let wrong: Vec<_> = found.iter().filter(|row| !expected.contains(row)).collect();
        assert!(
            missing.is_empty() && wrong.is_empty(),
            "docs/refusals.md lacks {missing:?}, and has {wrong:?}"
        );
        assert_eq!(found.len(), expected.len(), "a reason has two rows");
    }

    #[test]
    fn a_refusal_becomes_a_status_with_error_info() {
        let status = Status::from(Refusal::new(Reason::SecretNotFound, "no secret X"));
        assert_eq!((status.code(), status.message()), (Code::NotFound, "no secret X"));
        let info = status.get_details_error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("SECRET_NOT_FOUND", "aerostack")
        );
    }
}
