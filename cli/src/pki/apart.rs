//! The PKI of a pair whose parts run apart, as in containers: one authority, and for each part a folder of its own with
//! no more in it than that part needs.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    time::SystemTime,
};

use super::{Ca, CaSpec, Identity, Leaf, PkiError, ensure_ca, ensure_leaf, file};

/// Who may read a folder: a user and a group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// The text is not an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an owner is UID:GID, two numbers such as 65532:65532")]
pub struct OwnerError;

impl FromStr for Owner {
    type Err = OwnerError;

    fn from_str(text: &str) -> Result<Self, OwnerError> {
        let (uid, gid) = text.split_once(':').ok_or(OwnerError)?;
        Ok(Self {
            uid: uid.parse().map_err(|_| OwnerError)?,
            gid: gid.parse().map_err(|_| OwnerError)?,
        })
    }
}

impl Owner {
    /// Whoever owns this folder.
    ///
    /// # Errors
    /// [`PkiError`], when there is no such folder.
    pub fn of(dir: &Path) -> Result<Self, PkiError> {
        file::owner(dir)
    }

    /// Gives him a file or folder.
    ///
    /// # Errors
    /// [`PkiError`], when the system does not let us.
    pub fn own(self, path: &Path) -> Result<(), PkiError> {
        file::give(path, self)
    }
}

/// An authority on disk, made or found.
pub struct Authority {
    ca: Ca,
    /// The certificate as it is stored: that of `ca` was signed anew.
    stored: Vec<u8>,
    now: SystemTime,
}

impl Authority {
    /// Where the certificate of the authority in `dir` is, once it was made.
    #[must_use]
    pub fn cert_in(dir: &Path) -> PathBuf {
        Identity::at(dir, "ca").cert
    }

    /// Finds the authority in `dir`, or makes it: it may issue for `names`, `localhost` and the loopback addresses.
    ///
    /// # Errors
    /// [`PkiError`]; one that cannot be used is never replaced.
    pub fn ensure(dir: &Path, names: Vec<String>) -> Result<Self, PkiError> {
        Self::ensure_at(dir, names, SystemTime::now())
    }

    pub(super) fn ensure_at(dir: &Path, names: Vec<String>, now: SystemTime) -> Result<Self, PkiError> {
        Self::ensure_as(dir, &CaSpec::apart(names, now), now)
    }

    /// Finds the authority in `dir`, or makes it: it may issue for any name.
    ///
    /// # Errors
    /// [`PkiError`]; one that cannot be used is never replaced.
    pub fn ensure_for_any_name(dir: &Path) -> Result<Self, PkiError> {
        let now = SystemTime::now();
        Self::ensure_as(dir, &CaSpec::for_any_name(now), now)
    }

    /// Finds the authority in `dir`, which [`Authority::ensure_for_any_name`] made.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn open_for_any_name(dir: &Path) -> Result<Self, PkiError> {
        match Self::cert_in(dir).exists() {
            true => Self::ensure_for_any_name(dir),
            false => Err(PkiError::NoCa(dir.to_owned())),
        }
    }

    fn ensure_as(dir: &Path, spec: &CaSpec, now: SystemTime) -> Result<Self, PkiError> {
        let _lock = file::private_dir(dir)?;
        let ca = ensure_ca(dir, spec, now)?;
        let stored = file::read_cert(&Self::cert_in(dir))?.unwrap_or_default();
        Ok(Self { ca, stored, now })
    }

    /// Makes what is missing or stale in `dir`: the leaf, its key, and the authority's certificate. They and the folder
    /// are then the owner's. Answers whether the leaf was made.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn identity(
        &self,
        dir: &Path,
        leaf: impl FnOnce(SystemTime) -> Leaf,
        owner: Option<Owner>,
    ) -> Result<bool, PkiError> {
        let _lock = file::private_dir(dir)?;
        let trusted = Self::cert_in(dir);
        if file::read_cert(&trusted)?.is_none_or(|found| found != self.stored) {
            file::write_cert(&trusted, &self.stored)?;
        }
        let (Identity { cert, key }, made) = ensure_leaf(dir, &self.ca, &leaf(self.now), self.now)?;
        if let Some(owner) = owner {
            [dir, &trusted, &cert, &key]
                .into_iter()
                .try_for_each(|path| owner.own(path))?;
        }
        Ok(made)
    }
}
