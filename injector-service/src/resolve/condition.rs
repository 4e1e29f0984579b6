//! The condition of the connection to the vault. Each change is logged once, with advice for the operator.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chassis::{channel::ServiceAddress, readiness::ReadinessProblem, telemetry::chain, tls::WrongPeer};
use rustls::{CertificateError, Error as TlsError};
use tonic::{Code, Status};

use super::credentials::{InjectorIdentity, VaultCredentials};

/// The kind of a problem. A problem of the same kind with another text is not logged again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProblemKind {
    /// No connection could be made.
    Unreachable,
    /// The server at the vault's address does not speak TLS 1.3.
    NotTls,
    /// The injector does not accept the vault's certificate.
    VaultCertificate,
    /// The vault does not accept the injector's certificate.
    OwnCertificate,
    /// The injector has no valid token, or the vault does not accept it.
    OwnToken,
    /// The vault knows the injector and does not let it decrypt.
    NotAllowed,
    /// The server at the vault's address is no vault, or an old one.
    NotAVault,
    /// The stream was open and broke.
    Broken,
}

impl ProblemKind {
    /// Returns the problem without names.
    fn cause(self) -> &'static str {
        match self {
            Self::Unreachable => "the vault does not answer",
            Self::NotTls => "the server at the address of the vault does not speak TLS 1.3",
            Self::VaultCertificate => "the certificate of the vault is not accepted",
            Self::OwnCertificate => "the vault does not accept the certificate of the injector",
            Self::OwnToken => "the injector has no token that the vault accepts",
            Self::NotAllowed => "the vault does not let the injector decrypt",
            Self::NotAVault => "the server at the address of the vault is not a vault of this version",
            Self::Broken => "the connection to the vault broke",
        }
    }
}

/// A reason why the vault cannot be used.
#[derive(Debug, Clone)]
struct Problem {
    kind: ProblemKind,
    detail: String,
}

impl Problem {
    fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { kind, detail }
    }

    /// Returns the problem behind an error of the connection or of its TLS.
    fn of_connection(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
        match tls {
            None => Self::new(ProblemKind::Unreachable, error.to_string()),
            Some(TlsError::InvalidCertificate(CertificateError::Other(other)))
                if other.0.downcast_ref::<WrongPeer>().is_some() =>
            {
                Self::new(ProblemKind::VaultCertificate, other.to_string())
            }
            Some(error @ TlsError::InvalidCertificate(_)) => {
                Self::new(ProblemKind::VaultCertificate, error.to_string())
            }
            Some(error @ TlsError::AlertReceived(_)) => {
                Self::new(ProblemKind::OwnCertificate, error.to_string())
            }
            Some(error) => Self::new(ProblemKind::NotTls, error.to_string()),
        }
    }

    /// Returns the problem behind a stream that ended, which is `fault` when the status does not name a better one.
    fn of_stream(status: &Status, fault: Option<Self>, injector: &InjectorIdentity) -> Self {
        let kind = match (status.code(), injector) {
            (Code::PermissionDenied, _) => ProblemKind::NotAllowed,
            (Code::Unauthenticated, InjectorIdentity::Certificate(_)) => ProblemKind::OwnCertificate,
            (Code::Unauthenticated, InjectorIdentity::Token(_)) => ProblemKind::OwnToken,
            (Code::Unimplemented, _) => ProblemKind::NotAVault,
            _ => return fault.unwrap_or_else(|| Self::new(ProblemKind::Unreachable, chain(status))),
        };
        Self::new(kind, status.message())
    }
}

/// The latest problem of a worker thread's connection to the vault. The connector notes it, and the stream's driver logs
/// it. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionFault(Arc<Mutex<Option<Problem>>>);

impl ConnectionFault {
    pub(crate) fn note(&self, error: &io::Error) {
        *lock(&self.0) = Some(Problem::of_connection(error));
    }

    fn take(&self) -> Option<Problem> {
        lock(&self.0).take()
    }
}

/// The condition of the connection to the vault, which all worker threads share.
#[derive(Clone)]
pub(crate) struct VaultCondition(Arc<ConditionShared>);

struct ConditionShared {
    address: String,
    credentials: VaultCredentials,
    state: Mutex<VaultState>,
}

enum VaultState {
    Starting,
    Connected,
    Failing(Problem),
}

impl VaultCondition {
    pub(crate) fn new(vault: &ServiceAddress, credentials: &VaultCredentials) -> Self {
        Self(Arc::new(ConditionShared {
            address: vault.to_string(),
            credentials: credentials.clone(),
            state: Mutex::new(VaultState::Starting),
        }))
    }

    /// Returns the reason why the vault cannot be used, for `/readyz`.
    pub(crate) fn problem(&self) -> ReadinessProblem {
        let address = &self.0.address;
        let (cause, detail) = match &*lock(&self.0.state) {
            VaultState::Starting | VaultState::Connected => (
                ProblemKind::Unreachable.cause(),
                format!("the vault at {address} does not answer"),
            ),
            VaultState::Failing(problem) => (
                problem.kind.cause(),
                format!(
                    "the vault at {address} cannot be used: {}; {}",
                    problem.detail,
                    self.advice(problem.kind)
                ),
            ),
        };
        ReadinessProblem {
            cause,
            detail: Some(detail),
        }
    }

    pub(super) fn connected(&self, fault: &ConnectionFault) {
        // An earlier attempt may have left a fault.
        fault.take();
        let before = std::mem::replace(&mut *lock(&self.0.state), VaultState::Connected);
        if !matches!(before, VaultState::Connected) {
            tracing::info!(vault = self.0.address, "connected to the vault");
        }
    }

    pub(super) fn broke(&self, status: &Status, fault: &ConnectionFault) {
        let mut state = lock(&self.0.state);
        if matches!(*state, VaultState::Failing(_)) {
            return;
        }
        let detail = fault
            .take()
            .map_or_else(|| chain(status), |problem| problem.detail);
        tracing::warn!(
            vault = self.0.address,
            code = ?status.code(),
            error = detail,
            "the stream to the vault broke; opening another"
        );
        *state = VaultState::Failing(Problem::new(ProblemKind::Broken, detail));
    }

    pub(super) fn failed(&self, status: &Status, fault: &ConnectionFault) {
        let credentials = &self.0.credentials;
        let problem = Problem::of_stream(status, fault.take(), &credentials.injector);
        let mut state = lock(&self.0.state);
        if let VaultState::Failing(before) = &mut *state
            && before.kind == problem.kind
        {
            *before = problem;
            return;
        }
        tracing::warn!(
            vault = self.0.address,
            expected = %credentials.vault,
            presented = %credentials.presented(),
            code = ?status.code(),
            error = problem.detail,
            advice = self.advice(problem.kind),
            "the vault cannot be used; trying again"
        );
        *state = VaultState::Failing(problem);
    }

    /// Returns the step that gives the injector the role to decrypt in `workspaces`.
    pub(crate) fn needed_role(&self, workspaces: &str) -> String {
        const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
        let principal = self.0.credentials.presented();
        match principal.split_once('#') {
            Some((_, account)) if account.starts_with(SERVICE_ACCOUNT) => format!(
                "add {account}={workspaces} to roles.injectors in the values of the chart (--injector of the vault)"
            ),
            Some(_) | None => format!("start the vault with --injector {principal}={workspaces}"),
        }
    }

    fn advice(&self, kind: ProblemKind) -> String {
        let vault = &self.0.credentials.vault;
        match kind {
            ProblemKind::Unreachable => {
                "check that the vault runs and that --vault is its gRPC address, and that no network policy is between them"
                    .into()
            }
            ProblemKind::NotTls => {
                "check that --vault is the vault's gRPC address, not its metrics port".into()
            }
            ProblemKind::VaultCertificate => format!(
                "check that --vault-ca has the CA of the vault's certificate, that --vault-id {vault} is the vault's \
                 name, and that the certificate has not expired; a pod keeps the CAs of its creation, so create it again after \
                 a change of the CA"
            ),
            ProblemKind::OwnCertificate => {
                "check that --vault-cert has not expired and comes from a CA in the vault's --client-ca"
                    .into()
            }
            ProblemKind::OwnToken => {
                "check that --vault-token-file is renewed in time, and that its issuer and audience are those of a --jwt-issuer of \
                 the vault (tokens.issuer and tokens.audience in the values of the chart)"
                    .into()
            }
            ProblemKind::NotAllowed => self.needed_role("WORKSPACES"),
            ProblemKind::NotAVault => "check that --vault is the address of a vault of this version".into(),
            ProblemKind::Broken => "the vault may be restarting; see its log".into(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
