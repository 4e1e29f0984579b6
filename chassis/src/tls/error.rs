//! The error of a TLS setup.

use std::{
    io,
    path::{Path, PathBuf},
};

use proto::Principal;
use rustls::Error;

/// The error of a TLS setup. Each variant names the file at fault.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A file has no PEM section of the expected kind.
    #[error("{path}: no {what} in PEM form was found", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The expected kind.
        what: &'static str,
    },
    /// The PEM text of a file is broken. The fault is not named, because the text may be a key.
    #[error("{path}: its PEM text is broken or not complete; is the file still being written?", path = path.display())]
    BrokenPem {
        /// The file.
        path: PathBuf,
    },
    /// The private key can be read by others than its owner and group.
    #[error("{path}: others may read this private key; chmod it to 600 or 640", path = path.display())]
    KeyExposed {
        /// The file.
        path: PathBuf,
    },
    /// The private key does not belong to the certificate, for example because only one of the files was renewed.
    #[error(
        "{certificate} and {key} do not belong together: the key is the one of another certificate",
        certificate = certificate.display(), key = key.display()
    )]
    KeyMismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// rustls refused the certificates or the key.
    #[error("{path}: {source}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The error of rustls.
        source: Error,
    },
    /// A certificate that was renewed is not valid at this time.
    #[error("{path}: the certificate is valid from {from} until {until}, and not now", path = path.display())]
    NotValidNow {
        /// The file.
        path: PathBuf,
        /// The first moment at which the whole chain is valid.
        from: String,
        /// The last moment at which the whole chain is valid.
        until: String,
    },
    /// A certificate that was renewed names another principal, and the service keeps its principal as long as it runs.
    #[error(
        "{path}: the certificate names {found}, and not {expected}; restart the service to change its identity",
        path = path.display()
    )]
    OtherPrincipal {
        /// The file.
        path: PathBuf,
        /// The principal of the service.
        expected: Principal,
        /// The principal in the file, or a text that says that there is none.
        found: String,
    },
    /// A CA for development, on a listener that other machines reach.
    #[error(
        "{path} holds a development CA, which is for loopback addresses only; use a CA of your own",
        path = path.display()
    )]
    DevelopmentCa {
        /// The file.
        path: PathBuf,
    },
    /// The Workload API has not sent a certificate and CAs yet.
    #[error("no certificate and CAs have come from the Workload API yet")]
    NotReceived,
}

pub(super) fn unusable_at(path: &Path, source: Error) -> TlsError {
    TlsError::Unusable {
        path: path.to_owned(),
        source,
    }
}
