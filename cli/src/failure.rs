//! How a command fails: one sentence, what to do next, and an exit code for scripts.

use std::{error::Error, fmt, io, path::Path};

use proto::{Reason, reason::ERROR_DOMAIN};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// What kind of failure it was. Each has an exit code of its own, after sysexits(3) where that has a fitting one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Nothing went wrong, but the answer is no: a service is not ready, a call would be refused.
    Negative,
    /// `call --fail`: the upstream answered with an error, as curl says it.
    HttpError,
    /// The command line, or something on it, is wrong.
    Usage,
    /// Refused as things stand: a plan is used up, a workspace holds secrets, servers are read-only.
    Refused,
    /// What it is about does not exist.
    NotFound,
    /// A service cannot be reached, or did not answer in time.
    Unavailable,
    /// A service failed.
    Internal,
    /// It exists already.
    AlreadyExists,
    /// A local file or the terminal.
    File,
    /// It was changed meanwhile: the same command may succeed now.
    Conflict,
    /// Who asks is not known, or may not do this.
    NotAllowed,
    /// Where the services are, or the certificates, is not known or wrong.
    Configuration,
    /// Ctrl-C at a question, as shells say it.
    Interrupted,
}

impl FailureKind {
    /// The exit code.
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

    /// The kind of a gRPC code.
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

/// Why a command did not do what it was told.
#[derive(Debug)]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// What was wrong, and where. Never a secret's value.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with nothing more to say.
    pub fn new(kind: FailureKind, message: impl fmt::Display) -> Self {
        Self {
            kind,
            message: message.to_string(),
            hint: None,
        }
    }

    /// The same, with what to do next.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// A file that could not be read or written.
    pub fn file(path: &Path, error: &io::Error) -> Self {
        Self::new(FailureKind::File, format_args!("{}: {error}", path.display()))
    }

    /// What `service` answered instead of doing it.
    pub fn of_status(service: &str, status: &Status) -> Self {
        let failure = Self::new(
            FailureKind::of(status.code()),
            format_args!("{service}: {}", status.message()),
        );
        match reason(status).and_then(next_step) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// Why `service` did not answer.
    pub fn unreachable(service: &str, address: &str, cause: &str) -> Self {
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

/// The reason that a service of ours gave.
pub fn reason(status: &Status) -> Option<Reason> {
    let info = status.get_details_error_info()?;
    (info.domain == ERROR_DOMAIN).then(|| Reason::from_str_name(&format!("REASON_{}", info.reason)))?
}

/// The innermost cause of a failure on our side of the wire.
pub fn transport(status: &Status) -> Option<String> {
    let mut cause: &dyn Error = status
        .source()
        .filter(|source| source.is::<tonic::transport::Error>())?;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Some(cause.to_string())
}

/// What helps against it, where that is the same for every command.
fn next_step(reason: Reason) -> Option<&'static str> {
    let next = match reason {
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
            "give the injector the CA with --upstream-ca, or allow it as an administrator with --allow-bound-secrets"
        }
        Reason::WorkspaceReplaced => "remove the server and add it again for the workspace of now",
        Reason::RevisionMismatch | Reason::Conflict => "look at it again, and repeat the command",
        Reason::RegistryReadOnly => "change the file that the injector was given with --servers",
        Reason::Unauthenticated => "give a client certificate: --cert and --key, or --dir",
        Reason::PermissionDenied => {
            "an administrator of the service grants roles to identities with --admin, --editor and --viewer"
        }
        Reason::VaultNotEmpty => "restore it into a new vault, or delete this one's workspaces first",
        Reason::BackupDamaged => "take another copy of the backup, or an older one; nothing was changed",
        Reason::KeyNotLoaded => "start the vault with the root key that is needed",
        Reason::VaultUnavailable | Reason::StorageUnavailable | Reason::ShuttingDown | Reason::Overloaded => {
            "`aerostack status` shows how the services are; try again"
        }
        _ => return None,
    };
    Some(next)
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
            Configuration, Conflict, Exists, File, HttpError, Internal, Interrupted, Negative, NotAllowed,
            NotFound, Refused, Unavailable, Usage,
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
    fn a_refusal_keeps_its_sentence_and_says_what_to_do() {
        let status = Status::from(Refusal::new(Reason::WorkspaceNotFound, "there is no workspace w"));
        let failure = Failure::of_status("the vault", &status);
        assert_eq!(failure.kind, FailureKind::NotFound);
        assert_eq!(failure.message, "the vault: there is no workspace w");
        assert!(failure.hint.unwrap().contains("workspace create"));
    }

    #[test]
    fn a_reason_of_somebody_else_is_not_ours() {
        use tonic_types::ErrorDetails;
        let details = ErrorDetails::with_error_info("WORKSPACE_NOT_FOUND", "example.org", []);
        let status = Status::with_error_details(Code::NotFound, "no", details);
        assert_eq!(reason(&status), None);
    }
}
