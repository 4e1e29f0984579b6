//! The certificates of `aerostack dev`.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use chassis::pki::{CaSpec, Leaf};

use super::{
    error::PkiError,
    file,
    files::{LeafFiles, ensure_ca, ensure_leaf},
};

/// One certificate authority and three leaves in `DIR/pki`. Every file that is named here exists.
#[derive(Debug, PartialEq, Eq)]
pub struct DevPki {
    /// The certificate of the authority. Its key is in the same folder, and only [`DevPki::ensure`] uses the key.
    pub ca: PathBuf,
    pub vault: LeafFiles,
    /// The injector serves its admin API with this certificate, and shows the same one to the vault.
    pub injector: LeafFiles,
    pub admin: LeafFiles,
}

impl DevPki {
    /// Makes the certificates in `dir/pki` that are missing or stale, and leaves the others alone.
    ///
    /// # Errors
    /// [`PkiError`], for example for an authority that cannot be used and is therefore kept.
    pub fn ensure(dir: &Path) -> Result<Self, PkiError> {
        Self::ensure_at(dir, SystemTime::now())
    }

    pub(super) fn ensure_at(dir: &Path, now: SystemTime) -> Result<Self, PkiError> {
        let dir = dir.join("pki");
        let _lock = file::lock_private_dir(&dir)?;
        let ca = ensure_ca(&dir, &CaSpec::development(now), now)?;
        Ok(Self {
            vault: ensure_leaf(&dir, &ca, &Leaf::vault(now), now)?.0,
            injector: ensure_leaf(&dir, &ca, &Leaf::injector(now), now)?.0,
            admin: ensure_leaf(&dir, &ca, &Leaf::admin(now), now)?.0,
            ca: LeafFiles::at(&dir, "ca").cert,
        })
    }
}
