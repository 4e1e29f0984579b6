//! A certificate authority that gives each holder a folder of its own, with only the files that this holder needs.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use chassis::pki::{Ca, CaSpec, Leaf};

use super::{
    error::PkiError,
    file::{self, Owner},
    files::{LeafFiles, ensure_ca, ensure_leaf},
};

/// A certificate authority on disk.
pub struct Authority {
    ca: Ca,
    /// The stored certificate, which holders get: the one in `ca` was signed anew and differs in its signature.
    stored: Vec<u8>,
    now: SystemTime,
}

impl Authority {
    /// Returns the path of the certificate of the authority in `dir`. The file may not exist.
    #[must_use]
    pub fn cert_in(dir: &Path) -> PathBuf {
        LeafFiles::at(dir, "ca").cert
    }

    /// Finds the authority in `dir`, or makes one that may issue for `names`, `localhost` and any IP address.
    ///
    /// # Errors
    /// [`PkiError`]; an authority that cannot be used is never replaced.
    pub fn ensure(dir: &Path, names: Vec<String>) -> Result<Self, PkiError> {
        Self::ensure_at(dir, names, SystemTime::now())
    }

    pub(super) fn ensure_at(dir: &Path, names: Vec<String>, now: SystemTime) -> Result<Self, PkiError> {
        Self::ensure_as(dir, &CaSpec::for_names(names, now), now)
    }

    /// Finds the authority in `dir`, or makes one that may issue for any name.
    ///
    /// # Errors
    /// [`PkiError`]; an authority that cannot be used is never replaced.
    pub fn ensure_for_any_name(dir: &Path) -> Result<Self, PkiError> {
        let now = SystemTime::now();
        Self::ensure_as(dir, &CaSpec::for_any_name(now), now)
    }

    /// Finds the authority that [`Authority::ensure_for_any_name`] made in `dir`.
    ///
    /// # Errors
    /// [`PkiError`], for example when there is no authority in `dir`.
    pub fn open_for_any_name(dir: &Path) -> Result<Self, PkiError> {
        match Self::cert_in(dir).exists() {
            true => Self::ensure_for_any_name(dir),
            false => Err(PkiError::NoCa(dir.to_owned())),
        }
    }

    fn ensure_as(dir: &Path, spec: &CaSpec, now: SystemTime) -> Result<Self, PkiError> {
        let _lock = file::lock_private_dir(dir)?;
        let ca = ensure_ca(dir, spec, now)?;
        let stored = file::read_cert(&Self::cert_in(dir))?.unwrap_or_default();
        Ok(Self { ca, stored, now })
    }

    /// Makes the files in `dir` that are missing or stale: the leaf, its key, and the authority's certificate. The folder
    /// and the files are then given to `owner`. Returns true when the leaf was made.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn ensure_leaf(
        &self,
        dir: &Path,
        leaf: impl FnOnce(SystemTime) -> Leaf,
        owner: Option<Owner>,
    ) -> Result<bool, PkiError> {
        let _lock = file::lock_private_dir(dir)?;
        let trusted = Self::cert_in(dir);
        if file::read_cert(&trusted)?.is_none_or(|found| found != self.stored) {
            file::write_cert(&trusted, &self.stored)?;
        }
        let (LeafFiles { cert, key }, made) = ensure_leaf(dir, &self.ca, &leaf(self.now), self.now)?;
        if let Some(owner) = owner {
            [dir, &trusted, &cert, &key]
                .into_iter()
                .try_for_each(|path| owner.own(path))?;
        }
        Ok(made)
    }
}
