//! The PKI of `aerostack dev`: one certificate authority and three leaves, kept in `DIR/pki`. That of a pair whose parts
//! run apart is made by the same rules, in [`apart`].
//!
//! The authority may be trusted by browsers and tools on the developer's machine, so it is worth
//! little to a thief: name constraints keep it to `localhost` and names beneath it, and its
//! organization tells the services to refuse it on any address but loopback. It constrains neither
//! SPIFFE IDs nor addresses: rustls-webpki refuses every URI beneath a CA that has URI constraints,
//! and BoringSSL every address beneath a CA that has address constraints.
//!
//! Everything here survives a crash at any line: files appear whole, by rename, and always the key
//! before its certificate, so that what is missing or does not match can be told and made again.

pub mod apart;
mod file;
mod fresh;
mod issue;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub use self::issue::{Ca, CaSpec, DEVELOPMENT_ORGANIZATION, IssueError, Issued, Leaf, Usage, issue};

/// The principal of the development vault.
pub const VAULT_ID: &str = "spiffe://aerostack.localhost/vault";
/// The principal of the development injector.
pub const INJECTOR_ID: &str = "spiffe://aerostack.localhost/injector";
/// The principal of the developer.
pub const ADMIN_ID: &str = "spiffe://aerostack.localhost/admin";

/// The principal of the one who sets up the demo of a pair whose parts run apart.
pub const DEMO_ID: &str = "spiffe://aerostack.localhost/demo";

/// What has less than this left is made again (a leaf) or reported (the authority).
const RENEW_BEFORE: Duration = Duration::from_hours(30 * 24);

/// The development PKI on disk: every file named here exists, and they belong together.
#[derive(Debug, PartialEq, Eq)]
pub struct DevPki {
    /// The certificate of the authority; its key lies beside it and nobody else needs it.
    pub ca: PathBuf,
    /// What the vault serves with.
    pub vault: Identity,
    /// What the injector serves its admin API with, and shows to the vault.
    pub injector: Identity,
    /// What the developer shows to both.
    pub admin: Identity,
}

/// The files of one leaf, both PEM.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate.
    pub cert: PathBuf,
    /// Its private key (PKCS #8).
    pub key: PathBuf,
}

/// Why there is no development PKI.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The file system said no.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// There is no authority to issue with.
    #[error("there is no certificate authority in {dir}: `aerostack pki ca {dir}` makes one", dir = .0.display())]
    NoCa(PathBuf),
    /// `ca.pem` is there, its key is not: nothing can be issued.
    #[error("the CA has lost its key: remove {} to make a new one", .0.display())]
    CaWithoutKey(PathBuf),
    /// `ca.pem` is not what this program makes with `ca-key.pem`.
    #[error("not a CA that this program makes for these names: remove {} to make a new one", .0.display())]
    CaForeign(PathBuf),
    /// Expired, about to expire, or from the future.
    #[error("the CA is out of date: remove {} to make a new one", .0.display())]
    CaOutOfDate(PathBuf),
    /// A certificate could not be made.
    #[error("cannot issue a certificate")]
    Issue(#[from] IssueError),
}

impl DevPki {
    /// Makes what is missing or stale in `dir/pki`, leaves the rest alone, and says where it is.
    ///
    /// # Errors
    /// [`PkiError`]; an authority that cannot be used is never replaced, because it may have been
    /// put into trust stores: the error says which folder to remove.
    pub fn ensure(dir: &Path) -> Result<DevPki, PkiError> {
        Self::ensure_at(dir, SystemTime::now())
    }

    fn ensure_at(dir: &Path, now: SystemTime) -> Result<DevPki, PkiError> {
        let dir = dir.join("pki");
        let _lock = file::private_dir(&dir)?;
        let ca = ensure_ca(&dir, &CaSpec::development(now), now)?;
        Ok(DevPki {
            vault: ensure_leaf(&dir, &ca, &Leaf::vault(now), now)?.0,
            injector: ensure_leaf(&dir, &ca, &Leaf::injector(now), now)?.0,
            admin: ensure_leaf(&dir, &ca, &Leaf::admin(now), now)?.0,
            ca: Identity::at(&dir, "ca").cert,
        })
    }
}

impl Identity {
    fn at(dir: &Path, name: &str) -> Identity {
        Identity {
            cert: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}-key.pem")),
        }
    }

    fn write(&self, cert_pem: &str, key_pem: &str) -> Result<(), PkiError> {
        file::write_key(&self.key, key_pem)?;
        file::write_cert(&self.cert, cert_pem)
    }
}

fn ensure_ca(dir: &Path, spec: &CaSpec, now: SystemTime) -> Result<Ca, PkiError> {
    let files = Identity::at(dir, "ca");
    match (file::read_cert(&files.cert)?, file::read_key(&files.key)?) {
        (None, _) => {
            let ca = Ca::generate(spec)?;
            files.write(&ca.cert_pem(), &ca.key_pem())?;
            Ok(ca)
        }
        (Some(_), None) => Err(PkiError::CaWithoutKey(dir.to_owned())),
        (Some(cert), Some(key)) => load_ca(dir, spec, &cert, &key, now),
    }
}

/// A certificate made anew from the key tells what the stored one must be: the same name, key and constraints, or those
/// that an earlier release gave it. So another program's CA is refused.
fn load_ca(dir: &Path, spec: &CaSpec, cert: &[u8], key: &[u8], now: SystemTime) -> Result<Ca, PkiError> {
    let foreign = || PkiError::CaForeign(dir.to_owned());
    let stored = fresh::parse(cert).ok_or_else(foreign)?;
    let earlier = CaSpec {
        only_loopback_addresses: true,
        ..spec.clone()
    };
    let ca = [spec, &earlier]
        .into_iter()
        .filter_map(|spec| Ca::with_key(spec, key).ok())
        .find(|ca| fresh::is_same_authority(&stored, ca.cert()))
        .ok_or_else(foreign)?;
    if !fresh::ca_is_fresh(&stored, now) {
        return Err(PkiError::CaOutOfDate(dir.to_owned()));
    }
    Ok(ca)
}

/// The files of a leaf, and whether they had to be made.
fn ensure_leaf(dir: &Path, ca: &Ca, leaf: &Leaf, now: SystemTime) -> Result<(Identity, bool), PkiError> {
    let files = Identity::at(dir, &leaf.name);
    let stored = file::read_cert(&files.cert)?.zip(file::read_key(&files.key)?);
    let stale = !stored.is_some_and(|(cert, key)| fresh::leaf_is_fresh(ca, leaf, &cert, &key, now));
    if stale {
        let issued = issue(ca, leaf)?;
        files.write(&issued.cert_pem, &issued.key_pem)?;
    }
    Ok((files, stale))
}
