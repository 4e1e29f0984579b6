//! Errors of `aerostack dev`.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use chassis::settings::Problems;
use vault_service::crypto::root_key_file;

use crate::pki::PkiError;

/// Longest time that the services may take to become ready.
pub(super) const STARTUP_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(crate) enum DevError {
    #[error("{path}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    /// The directory holds files of somebody else.
    #[error("{} is not empty and was not made by `aerostack dev`; give it a directory of its own", .0.display())]
    ForeignDirectory(PathBuf),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    RootKey(#[from] root_key_file::RootKeyFileError),
    /// A service refuses its settings, for example an address that is not loopback.
    #[error("{0}")]
    Settings(Problems),
    #[error("cannot listen on {0}")]
    Listen(#[source] io::Error),
    #[error("the vault stopped")]
    Vault(#[from] vault_service::RunError),
    #[error("the injector stopped")]
    Injector(#[from] injector_service::RunError),
    #[error("the services did not become ready within {} s; the log says why", STARTUP_TIMEOUT.as_secs())]
    NotReady,
}

impl DevError {
    /// Returns a function that adds `path` to an I/O error.
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File {
            path: path.to_owned(),
            source,
        }
    }
}
