//! The condition of the connection to the vault: one log line for each change, with what the operator can do.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chassis::{channel::ServiceAddress, telemetry::chain, tls::WrongPeer};
use rustls::{CertificateError, Error as TlsError};
use tonic::{Code, Status};

use super::sealed::Identities;

/// The kinds of problems. Another kind is another condition; another text of the same kind is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// No connection could be made.
    Unreachable,
    /// What listens there does not speak TLS 1.3.
    NotTls,
    /// The injector does not accept the vault's certificate.
    VaultCertificate,
    /// The vault does not accept the injector's certificate.
    OwnCertificate,
    /// The vault knows the injector, and does not let it decrypt.
    NotAllowed,
    /// What listens there is no vault, or an old one.
    NotAVault,
    /// The connection broke.
    Broken,
}

/// Why the vault cannot be used.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    kind: Kind,
    detail: String,
}

impl Problem {
    fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { kind, detail }
    }

    /// The problem behind an error of the connection or of its TLS.
    fn of_connection(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
        match tls {
            None => Self::new(Kind::Unreachable, error.to_string()),
            Some(TlsError::InvalidCertificate(CertificateError::Other(other)))
                if other.0.downcast_ref::<WrongPeer>().is_some() =>
            {
                Self::new(Kind::VaultCertificate, other.to_string())
            }
            Some(error @ TlsError::InvalidCertificate(_)) => {
                Self::new(Kind::VaultCertificate, error.to_string())
            }
            Some(error @ TlsError::AlertReceived(_)) => Self::new(Kind::OwnCertificate, error.to_string()),
            Some(error) => Self::new(Kind::NotTls, error.to_string()),
        }
    }

    /// The problem behind a stream that ended, unless `fault` says it better.
    fn of_stream(status: &Status, fault: Option<Self>) -> Self {
        let kind = match status.code() {
            Code::PermissionDenied => Kind::NotAllowed,
            Code::Unauthenticated => Kind::OwnCertificate,
            Code::Unimplemented => Kind::NotAVault,
            _ => return fault.unwrap_or_else(|| Self::new(Kind::Unreachable, chain(status))),
        };
        Self::new(kind, status.message())
    }
}

/// A problem of one connection, noted where it shows and read where it is logged. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ConnectionFault(Arc<Mutex<Option<Problem>>>);

impl ConnectionFault {
    pub(crate) fn note(&self, error: &io::Error) {
        *lock(&self.0) = Some(Problem::of_connection(error));
    }

    fn take(&self) -> Option<Problem> {
        lock(&self.0).take()
    }
}

/// The condition of the connection to the vault, which all threads of the data plane share.
#[derive(Clone)]
pub struct VaultCondition(Arc<Shared>);

struct Shared {
    address: String,
    ends: Identities,
    now: Mutex<Now>,
}

enum Now {
    Starting,
    Connected,
    Failing(Problem),
}

impl VaultCondition {
    /// The condition before the first connection.
    pub fn new(vault: &ServiceAddress, ends: &Identities) -> Self {
        Self(Arc::new(Shared {
            address: vault.to_string(),
            ends: ends.clone(),
            now: Mutex::new(Now::Starting),
        }))
    }

    /// Why the vault cannot be used, for `/readyz`.
    pub fn problem(&self) -> String {
        let address = &self.0.address;
        match &*lock(&self.0.now) {
            Now::Starting | Now::Connected => format!("the vault at {address} does not answer"),
            Now::Failing(problem) => format!(
                "the vault at {address} cannot be used: {}; {}",
                problem.detail,
                self.advice(problem.kind)
            ),
        }
    }

    /// A stream to the vault is open.
    pub(super) fn connected(&self, fault: &ConnectionFault) {
        // Of an attempt that was repeated.
        fault.take();
        let before = std::mem::replace(&mut *lock(&self.0.now), Now::Connected);
        if !matches!(before, Now::Connected) {
            tracing::info!(vault = self.0.address, "connected to the vault");
        }
    }

    /// A stream to the vault broke that was open before.
    pub(super) fn broke(&self, status: &Status, fault: &ConnectionFault) {
        let mut now = lock(&self.0.now);
        if matches!(*now, Now::Failing(_)) {
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
        *now = Now::Failing(Problem::new(Kind::Broken, detail));
    }

    /// No stream could be opened.
    pub(super) fn failed(&self, status: &Status, fault: &ConnectionFault) {
        let problem = Problem::of_stream(status, fault.take());
        let mut now = lock(&self.0.now);
        if matches!(&*now, Now::Failing(before) if before.kind == problem.kind) {
            return;
        }
        tracing::warn!(
            vault = self.0.address,
            expected = %self.0.ends.vault,
            presented = %self.0.ends.injector,
            code = ?status.code(),
            error = problem.detail,
            advice = self.advice(problem.kind),
            "the vault cannot be used; trying on"
        );
        *now = Now::Failing(problem);
    }

    fn advice(&self, kind: Kind) -> String {
        let Identities { vault, injector } = &self.0.ends;
        match kind {
            Kind::Unreachable => "check that the vault runs and that --vault is its gRPC address".into(),
            Kind::NotTls => "check that --vault is the vault's gRPC address, not its metrics port".into(),
            Kind::VaultCertificate => format!(
                "check that --vault-ca has the CA of the vault's certificate, that --vault-id {vault} is the vault's \
                 name, and that the certificate has not expired"
            ),
            Kind::OwnCertificate => {
                "check that --vault-cert has not expired and comes from a CA in the vault's --client-ca"
                    .into()
            }
            Kind::NotAllowed => format!("start the vault with --injector {injector}=WORKSPACES"),
            Kind::NotAVault => "check that --vault is the address of a vault of this version".into(),
            Kind::Broken => "the vault may be restarting; see its log".into(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
