//! The CAs that the injector trusts for upstreams.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::RootCertStore;

use crate::registry::server::UpstreamTls;

/// The CAs of the system and of `--upstream-ca`.
#[derive(Debug, Clone)]
pub struct TrustedRoots {
    all: Arc<RootCertStore>,
    system: SystemRoots,
}

/// The CAs of the system, and the first error with which some of them were not read.
#[derive(Debug, Clone)]
struct SystemRoots {
    roots: Arc<RootCertStore>,
    error: Option<String>,
}

impl PartialEq for TrustedRoots {
    fn eq(&self, other: &Self) -> bool {
        self.all.roots == other.all.roots
    }
}

impl TrustedRoots {
    /// Returns the system's CAs together with the CAs in `files`.
    ///
    /// A system without CAs is accepted here. Calls to servers that need these CAs are refused.
    pub(crate) fn load(files: &[PathBuf]) -> Result<Self, String> {
        Self::with_files(SystemRoots::load(), files)
    }

    fn with_files(system: SystemRoots, files: &[PathBuf]) -> Result<Self, String> {
        let mut all = RootCertStore::clone(&system.roots);
        for path in files {
            let of_file = read(path).map_err(|why| format!("{}: {why}", path.display()))?;
            all.extend(of_file.roots);
        }
        Ok(Self {
            all: Arc::new(all),
            system,
        })
    }

    /// Decides whether `new` may take the place of `self`. The loss of a CA of the system is accepted only when all CAs of the
    /// system were read, and there are some: otherwise the files may be in the middle of a change, and are read again.
    pub(crate) fn check_replacement(&self, new: &Self) -> Result<(), String> {
        let remaining = &new.system.roots.roots;
        let is_lost = |root| !remaining.contains(root);
        if !self.system.roots.roots.iter().any(is_lost) {
            return Ok(());
        }
        match &new.system.error {
            Some(error) => Err(format!("some of the system's CAs were not read: {error}")),
            None if remaining.is_empty() => Err("the system has no CAs any more".to_owned()),
            None => Ok(()),
        }
    }

    /// Returns the first error with which some of the system's CAs were not read.
    pub(crate) fn system_error(&self) -> Option<&str> {
        self.system.error.as_deref()
    }

    /// Describes the CAs for the log.
    pub(crate) fn describe(&self) -> String {
        format!("{} CAs, with those of the system", self.all.len())
    }

    pub(super) fn store(&self) -> Arc<RootCertStore> {
        self.all.clone()
    }
}

impl SystemRoots {
    fn load() -> Self {
        let native = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(native.certs);
        Self {
            roots: Arc::new(roots),
            error: native.errors.first().map(ToString::to_string),
        }
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::time::SystemTime;

    use chassis::pki::{Ca, CaSpec};

    use super::*;

    fn authority() -> Ca {
        Ca::generate(&CaSpec::for_any_name(SystemTime::now())).unwrap()
    }

    fn roots(system: &[&Ca], error: Option<&str>, files: &[PathBuf]) -> TrustedRoots {
        let mut roots = RootCertStore::empty();
        for ca in system {
            roots.add(ca.cert().clone()).unwrap();
        }
        let system = SystemRoots {
            roots: Arc::new(roots),
            error: error.map(str::to_owned),
        };
        TrustedRoots::with_files(system, files).unwrap()
    }

    #[test]
    fn a_read_that_lost_cas_of_the_system_replaces_nothing() {
        let (one, other) = (authority(), authority());
        let current = roots(&[&one, &other], None, &[]);
        let partly = roots(&[&one], Some("permission denied"), &[]);
        assert_eq!(
            current.check_replacement(&partly).unwrap_err(),
            "some of the system's CAs were not read: permission denied"
        );
        let empty = roots(&[], None, &[]);
        assert_eq!(
            current.check_replacement(&empty).unwrap_err(),
            "the system has no CAs any more"
        );
    }

    #[test]
    fn a_ca_that_the_system_no_longer_has_is_no_longer_trusted() {
        let (one, other) = (authority(), authority());
        let current = roots(&[&one, &other], None, &[]);
        assert_eq!(current.check_replacement(&roots(&[&one], None, &[])), Ok(()));
    }

    /// A link to nothing among the system's CAs is an error of every read.
    #[test]
    fn a_lasting_error_of_the_system_stops_no_change_of_upstream_ca() {
        let (one, own) = (authority(), authority());
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, own.cert_pem()).unwrap();
        let current = roots(&[&one], Some("no such file"), &[]);
        let changed = roots(&[&one], Some("no such file"), &[file]);
        assert_ne!(current, changed);
        assert_eq!(current.check_replacement(&changed), Ok(()));
        let (none, still_none) = (roots(&[], None, &[]), roots(&[], Some("no such file"), &[]));
        assert_eq!(none.check_replacement(&still_none), Ok(()));
    }
}
