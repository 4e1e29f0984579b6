//! Errors of `aerostack dev`.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use chassis::settings::Problems;
use vault_service::crypto::root_key_file;

use crate::{failure::FailureKind, pki::PkiError};

/// Longest time that the services may take to become ready.
pub(super) const STARTUP_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(crate) enum DevError {
    #[error("cannot make or change {}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// The directory holds files of somebody else.
    #[error("{} is not empty and was not made by `aerostack dev`; give it a directory of its own", .0.display())]
    ForeignDirectory(PathBuf),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    RootKey(#[from] root_key_file::RootKeyFileError),
    /// The root key is missing although there is a store.
    #[error(
        "{} is missing, and nothing that the vault stored can be read without it: put its copy back, or remove {} too to begin \
         anew", root_key.display(), store.display()
    )]
    RootKeyLost { root_key: PathBuf, store: PathBuf },
    /// A service refuses its settings, for example an address that is not loopback.
    #[error("{0}")]
    Settings(Problems),
    /// A listener was not opened. The error names its address, and `flags` are those that give another one.
    #[error("{error}{}", remedy(error, flags))]
    Listen { error: io::Error, flags: &'static str },
    #[error("the vault stopped")]
    Vault(#[from] vault_service::RunError),
    #[error("the injector stopped")]
    Injector(#[from] injector_service::RunError),
    #[error("the services did not become ready within {} s; the log says why", STARTUP_TIMEOUT.as_secs())]
    NotReady,
}

impl DevError {
    /// Returns the kind of the failure, which has the exit code.
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::File { .. } | Self::RootKey(_) => FailureKind::File,
            Self::ForeignDirectory(_) | Self::RootKeyLost { .. } => FailureKind::Refused,
            Self::Pki(error) => error.kind(),
            Self::Settings(_) => FailureKind::Usage,
            Self::Listen { .. } => FailureKind::Configuration,
            Self::Vault(_) | Self::Injector(_) => FailureKind::Internal,
            Self::NotReady => FailureKind::Unavailable,
        }
    }

    /// Returns a function that adds to an I/O error of a listener the `flags` that give the listener another address.
    pub(super) fn listening(flags: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Listen { error, flags }
    }

    /// Returns a function that adds `path` to an I/O error.
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File {
            path: path.to_owned(),
            source,
        }
    }
}

/// Returns what to do about an address in use. The probes of a service have a free port when the service has port 0.
fn remedy(error: &io::Error, flags: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "; most likely another `aerostack dev` runs, perhaps in this directory: stop it, or give another --dir and other \
             addresses ({flags}; port 0 is any free port)"
        ),
        _ => String::new(),
    }
}
