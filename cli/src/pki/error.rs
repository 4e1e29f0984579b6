//! Errors of certificates on disk.

use std::{
    io,
    path::{Path, PathBuf},
};

use chassis::pki::IssueError;

use crate::failure::FailureKind;

/// Errors of reading and making certificates and certificate authorities.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot read or write {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("there is no certificate authority in {dir}: `aerostack pki ca {dir}` makes one", dir = .0.display())]
    NoCa(PathBuf),
    /// The directory has a `ca.pem` without its key, so nothing can be issued.
    #[error("the CA has lost its key: remove {} to make a new one", .0.display())]
    CaWithoutKey(PathBuf),
    /// `ca.pem` differs from the certificate that this program makes with `ca-key.pem`.
    #[error("not a CA that this program makes for these names: remove {} to make a new one", .0.display())]
    CaForeign(PathBuf),
    /// The CA has expired, will expire soon, or is not valid yet.
    #[error("the CA is out of date: remove {} to make a new one", .0.display())]
    CaOutOfDate(PathBuf),
    #[error("cannot issue a certificate")]
    Issue(#[from] IssueError),
}

impl PkiError {
    /// Returns the kind of the failure, which has the exit code.
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Io { .. } => FailureKind::File,
            Self::NoCa(_) | Self::CaWithoutKey(_) | Self::CaForeign(_) | Self::CaOutOfDate(_) => {
                FailureKind::Configuration
            }
            Self::Issue(_) => FailureKind::Internal,
        }
    }

    /// Returns a function that adds `path` to an I/O error.
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}
