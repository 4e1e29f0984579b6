//! A directory that is replaced as Kubernetes replaces the volume of a Secret.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;

use crate::{Pki, pki::Files};

/// A volume with `tls.crt`, `tls.key` and `ca.crt`. Each file is a link into the directory `..data`, which is itself a link.
pub struct SecretVolume {
    dir: TempDir,
    version: AtomicU32,
}

impl SecretVolume {
    /// Makes a volume with the certificate `leaf` and the CAs of `cas`.
    pub fn new(leaf: &Files, cas: &[&Pki]) -> Self {
        let volume = Self {
            dir: TempDir::new().unwrap(),
            version: AtomicU32::new(0),
        };
        volume.replace(leaf, cas);
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            symlink(Path::new("..data").join(file), volume.path(file)).unwrap();
        }
        volume
    }

    pub fn cert(&self) -> PathBuf {
        self.path("tls.crt")
    }

    pub fn key(&self) -> PathBuf {
        self.path("tls.key")
    }

    pub fn ca(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// Returns the certificate and the key.
    pub fn files(&self) -> Files {
        Files {
            cert: self.cert(),
            key: self.key(),
        }
    }

    /// Replaces all files in one step.
    pub fn replace(&self, leaf: &Files, cas: &[&Pki]) {
        let version = self.version.fetch_add(1, Ordering::Relaxed);
        let directory = self.path(&format!("..{version}"));
        fs::create_dir(&directory).unwrap();
        fs::copy(&leaf.cert, directory.join("tls.crt")).unwrap();
        let key = directory.join("tls.key");
        fs::copy(&leaf.key, &key).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let pem: String = cas.iter().map(|pki| pki.ca_pem()).collect();
        fs::write(directory.join("ca.crt"), pem).unwrap();
        let (new, data) = (self.path("..data_tmp"), self.path("..data"));
        symlink(&directory, &new).unwrap();
        fs::rename(new, data).unwrap();
        if let Some(before) = version.checked_sub(1) {
            fs::remove_dir_all(self.path(&format!("..{before}"))).unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}
