//! The CAs that the injector trusts for upstreams.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::RootCertStore;

use crate::registry::server::UpstreamTls;

/// The CAs of the system and of `--upstream-ca`.
#[derive(Debug, Clone)]
pub struct TrustedRoots(Arc<RootCertStore>);

impl PartialEq for TrustedRoots {
    fn eq(&self, other: &Self) -> bool {
        self.0.roots == other.0.roots
    }
}

impl TrustedRoots {
    /// Returns the system's CAs together with the CAs in `files`.
    ///
    /// A system without CAs is accepted here. Calls to servers that need these CAs are refused.
    pub(crate) fn load(files: &[PathBuf]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        for error in &native.errors {
            tracing::warn!(%error, "some of the system's CAs were not read");
        }
        roots.add_parsable_certificates(native.certs);
        for path in files {
            let of_file = read(path).map_err(|why| format!("{}: {why}", path.display()))?;
            roots.extend(of_file.roots);
        }
        Ok(Self(Arc::new(roots)))
    }

    /// Describes the CAs for the log.
    pub(crate) fn describe(&self) -> String {
        format!("{} CAs, with those of the system", self.0.len())
    }

    pub(super) fn store(&self) -> Arc<RootCertStore> {
        self.0.clone()
    }
}

fn read(path: &Path) -> Result<RootCertStore, String> {
    let tls = UpstreamTls {
        ca_pem: std::fs::read_to_string(path).map_err(|error| error.to_string())?,
        ..Default::default()
    };
    tls.roots()
        .ok_or_else(|| "no CA in PEM form was found".to_owned())
}
