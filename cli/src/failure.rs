//! The failure of a command: one sentence, a hint for the next step, and an exit code for scripts.

use std::{error::Error, fmt, io, path::Path};

use proto::{Reason, reason::ERROR_DOMAIN};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Kinds of failures. Each has its own exit code, taken from sysexits(3) where that defines a fitting one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// No error, but a negative result: a service is not ready, or a call would be refused.
    Negative,
    /// `call --fail`: the upstream answered with an error. curl uses the same code.
    HttpError,
    /// The command line is wrong.
    Usage,
    /// The present state does not permit the request: a plan is used up, a workspace holds secrets, servers are read-only.
    Refused,
    NotFound,
    /// A service cannot be reached, or did not answer within the timeout.
    Unavailable,
    Internal,
    AlreadyExists,
    /// A local file or the terminal cannot be read or written.
    File,
    /// The resource was changed at the same time. The same command may succeed now.
    Conflict,
    /// The client is not authenticated, or does not have the role.
    NotAllowed,
    /// The addresses of the services or the certificates are missing or wrong.
    Configuration,
    /// Ctrl-C at a question. Shells use the same code.
    Interrupted,
}

impl FailureKind {
    /// Returns the exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Negative => 1,
            Self::HttpError => 22,
            Self::Usage => 64,
            Self::Refused => 65,
            Self::NotFound => 66,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::AlreadyExists => 73,
            Self::File => 74,
            Self::Conflict => 75,
            Self::NotAllowed => 77,
            Self::Configuration => 78,
            Self::Interrupted => 128 + 2,
        }
    }

    pub fn of(code: Code) -> Self {
        match code {
            Code::InvalidArgument | Code::OutOfRange => Self::Usage,
            Code::FailedPrecondition | Code::ResourceExhausted => Self::Refused,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::AlreadyExists,
            Code::Aborted => Self::Conflict,
            Code::Unauthenticated | Code::PermissionDenied => Self::NotAllowed,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Self::Unavailable,
            Code::Ok | Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => {
                Self::Internal
            }
        }
    }
}

#[derive(Debug)]
pub struct Failure {
    pub kind: FailureKind,
    /// One sentence, which never contains the value of a secret.
    pub message: String,
    /// The next step for the user, printed below the message.
    pub hint: Option<String>,
    /// The reason that a service gave.
    pub reason: Option<Reason>,
}

impl Failure {
    /// Returns true when the service knows the client, and the client has no role for the call. A client whose token has expired may
    /// have one.
    pub(crate) fn lacks_role(&self) -> bool {
        self.kind == FailureKind::NotAllowed && self.reason != Some(Reason::Unauthenticated)
    }

    pub fn new(kind: FailureKind, message: impl fmt::Display) -> Self {
        Self {
            kind,
            message: message.to_string(),
            hint: None,
            reason: None,
        }
    }

    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    pub fn file(path: &Path, error: &io::Error) -> Self {
        Self::new(FailureKind::File, format_args!("{}: {error}", path.display()))
    }

    /// Returns the failure for a status that `service` answered.
    pub fn of_status(service: &str, status: &Status) -> Self {
        let reason = reason(status);
        let failure = Self {
            reason,
            ..Self::new(
                FailureKind::of(status.code()),
                format_args!("{service}: {}", status.message()),
            )
        };
        match reason.and_then(hint_for) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// Returns the failure for a service that did not answer.
    pub fn unreachable(service: &str, address: &str, cause: &str) -> Self {
        // The texts are those of rustls, for the alert of the other side and for its own verdict.
        if cause.contains("alert: CertificateExpired") {
            let message =
                format!("the certificate of this client has expired, and {service} on {address} refuses it");
            return Self::new(FailureKind::Configuration, message).hint(
                "renew the certificate of --cert, which `aerostack dev` does when it starts, and start this program again",
            );
        }
        if cause.contains("alert: UnsupportedCertificate") {
            let message = format!(
                "the certificate of this client is not for clients (clientAuth is not in its extended key usage), and \
                 {service} on {address} refuses it"
            );
            return Self::new(FailureKind::Configuration, message)
                .hint("--cert names a client certificate; `aerostack pki issue admin` makes one");
        }
        if cause.contains("certificate expired") {
            let message = format!("the certificate of {service} on {address} has expired");
            return Self::new(FailureKind::Configuration, message)
                .hint("the operator of the service renews the certificate of its setting --tls-cert");
        }
        let message = format!("{service} on {address} cannot be reached: {cause}");
        if ["certificate", "UnknownCA", "received fatal alert"]
            .iter()
            .any(|tls| cause.contains(tls))
        {
            Self::new(FailureKind::Configuration, message).hint(
                "--ca must hold the authority of its certificate, --cert a certificate that it trusts; --vault-id and \
                 --injector-id say whom the certificate must name",
            )
        } else {
            Self::new(FailureKind::Unavailable, message).hint(
                "is it running there? `aerostack status` asks each service; --vault and --injector say where they are",
            )
        }
    }
}

/// Returns the reason in the details of a status. Reasons of other domains are ignored.
pub(crate) fn reason(status: &Status) -> Option<Reason> {
    let info = status.get_details_error_info()?;
    (info.domain == ERROR_DOMAIN).then(|| Reason::from_str_name(&format!("REASON_{}", info.reason)))?
}

/// Returns the innermost cause of a connection that failed, and `None` for a status that the service sent.
pub(crate) fn transport_cause(status: &Status) -> Option<String> {
    let mut cause: &dyn Error = status
        .source()
        .filter(|source| source.is::<tonic::transport::Error>())?;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Some(cause.to_string())
}

/// Returns the hint for a reason, if the hint is the same for every command.
fn hint_for(reason: Reason) -> Option<&'static str> {
    let hint = match reason {
        Reason::WorkspaceNotFound => {
            "`aerostack workspace list` shows what exists, `aerostack workspace create NAME` makes one"
        }
        Reason::SecretNotFound => "`aerostack workspace secret list WORKSPACE` shows what exists",
        Reason::ServerNotFound => "`aerostack workspace server list WORKSPACE` shows what exists",
        Reason::CatalogEntryNotFound => {
            "`aerostack workspace server catalog` shows what it has; or say where it is with --url"
        }
        Reason::ServerExists => {
            "change it with `aerostack workspace server update`, or give another name with --name"
        }
        Reason::PlanLimitReached => {
            "raise it with `aerostack workspace update WORKSPACE --plan PLAN`, or delete a secret; the vault's \
             --default-plan is for new workspaces"
        }
        Reason::UpstreamNotVerified => {
            "give the injector the CA of the upstream with --upstream-ca, or have an administrator of the workspace update \
             the server with --allow-bound-secrets"
        }
        Reason::WorkspaceReplaced => "remove the server and add it again, for the present workspace",
        Reason::RevisionMismatch | Reason::Conflict => {
            "somebody else changed it at the same time: look at it again, and repeat the command"
        }
        Reason::RegistryReadOnly => {
            "the injector's operator changes the servers in the file of its setting --servers, or where the file comes from"
        }
        Reason::Unauthenticated => {
            "give a client certificate (--cert and --key, or --dir), or a token that is valid now (--token-file for the vault, \
             --injector-token-file for the injector)"
        }
        Reason::PermissionDenied => {
            "the operator of the service grants roles to identities with its settings --admin, --editor and --viewer"
        }
        Reason::VaultNotEmpty => "restore it into a new vault, or delete this one's workspaces first",
        Reason::BackupDamaged => "take another copy of the backup, or an older one; nothing was changed",
        Reason::KeyNotLoaded => {
            "restart the vault with the root key that is needed too, as a further --root-key-file; `aerostack dev` takes no further \
             key, so use `vault-service`"
        }
        Reason::VaultUnavailable
        | Reason::StorageUnavailable
        | Reason::ShuttingDown
        | Reason::Overloaded
        | Reason::TokenKeysUnavailable => "try again; `aerostack status` shows the state of both services",
        _ => return None,
    };
    Some(hint)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use proto::Refusal;

    use super::*;

    #[test]
    fn every_kind_has_an_exit_code_of_its_own() {
        use FailureKind::{
            AlreadyExists, Configuration, Conflict, File, HttpError, Internal, Interrupted, Negative,
            NotAllowed, NotFound, Refused, Unavailable, Usage,
        };
        let kinds = [
            Negative,
            HttpError,
            Usage,
            Refused,
            NotFound,
            Unavailable,
            Internal,
            AlreadyExists,
            File,
            Conflict,
            NotAllowed,
            Configuration,
            Interrupted,
        ];
        let codes: std::collections::BTreeSet<u8> = kinds.into_iter().map(FailureKind::code).collect();
        assert_eq!(codes.len(), kinds.len());
        assert!(!codes.contains(&0));
    }

    #[test]
    fn a_refusal_keeps_its_message_and_gets_a_hint() {
        let status = Status::from(Refusal::new(Reason::WorkspaceNotFound, "there is no workspace w"));
        let failure = Failure::of_status("the vault", &status);
        assert_eq!(failure.kind, FailureKind::NotFound);
        assert_eq!(failure.message, "the vault: there is no workspace w");
        assert!(failure.hint.unwrap().contains("workspace create"));
    }

    #[test]
    fn an_expired_certificate_is_named_by_its_side() {
        let message = |cause| Failure::unreachable("the vault", "127.0.0.1:7150", cause).message;
        let own = "the certificate of this client has expired, and the vault on 127.0.0.1:7150 refuses it";
        assert_eq!(message("received fatal alert: CertificateExpired"), own);
        let foreign = message("invalid peer certificate: certificate expired: verified at time 2 (UNIX)");
        assert_eq!(
            foreign,
            "the certificate of the vault on 127.0.0.1:7150 has expired"
        );
    }

    #[test]
    fn a_reason_of_another_domain_is_ignored() {
        use tonic_types::ErrorDetails;
        let details = ErrorDetails::with_error_info("WORKSPACE_NOT_FOUND", "example.org", []);
        let status = Status::with_error_details(Code::NotFound, "no", details);
        assert_eq!(reason(&status), None);
    }
}
