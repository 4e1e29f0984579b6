//! A certificate and its key in a folder: read, checked, and made anew when missing or stale.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use chassis::pki::{self, Ca, CaSpec, Leaf, issue};

use super::{error::PkiError, file};

/// A leaf that expires within this time is made anew. An authority that does is reported as out of date.
const RENEW_BEFORE: Duration = Duration::from_hours(30 * 24);

/// The paths of a certificate and of its private key (PKCS #8), both PEM.
#[derive(Debug, PartialEq, Eq)]
pub struct LeafFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl LeafFiles {
    pub(super) fn at(dir: &Path, name: &str) -> Self {
        Self {
            cert: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}-key.pem")),
        }
    }

    pub(super) fn write(&self, cert_pem: &str, key_pem: &str) -> Result<(), PkiError> {
        file::write_key(&self.key, key_pem)?;
        file::write_cert(&self.cert, cert_pem)
    }
}

/// Returns the authority in `dir`, made anew when the directory has none. An authority that cannot be used is never
/// replaced, because people may have put it into trust stores: the error names the folder to remove.
pub(super) fn ensure_ca(dir: &Path, spec: &CaSpec, now: SystemTime) -> Result<Ca, PkiError> {
    let files = LeafFiles::at(dir, "ca");
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

/// Returns the stored authority if it equals a certificate made anew from the stored key: with the same name, key and
/// constraints, or with the constraints that an earlier release gave. Another program's CA is thereby refused.
fn load_ca(dir: &Path, spec: &CaSpec, cert: &[u8], key: &[u8], now: SystemTime) -> Result<Ca, PkiError> {
    let foreign = || PkiError::CaForeign(dir.to_owned());
    let stored = pki::parse_certificate(cert).ok_or_else(foreign)?;
    let earlier = CaSpec {
        only_loopback_addresses: true,
        ..spec.clone()
    };
    let ca = [spec, &earlier]
        .into_iter()
        .filter_map(|spec| Ca::with_key(spec, key).ok())
        .find(|ca| pki::is_same_authority(&stored, ca.cert()))
        .ok_or_else(foreign)?;
    if !pki::ca_is_valid(&stored, &[now, now + RENEW_BEFORE]) {
        return Err(PkiError::CaOutOfDate(dir.to_owned()));
    }
    Ok(ca)
}

/// Returns the files of a leaf, and true when they had to be made.
pub(super) fn ensure_leaf(
    dir: &Path,
    ca: &Ca,
    leaf: &Leaf,
    now: SystemTime,
) -> Result<(LeafFiles, bool), PkiError> {
    let files = LeafFiles::at(dir, &leaf.name);
    let stored = file::read_cert(&files.cert)?.zip(file::read_key(&files.key)?);
    let times = [now, now + RENEW_BEFORE];
    let stale = !stored.is_some_and(|(cert, key)| pki::leaf_is_valid(ca.cert(), leaf, &cert, &key, &times));
    if stale {
        let issued = issue(ca, leaf)?;
        files.write(&issued.cert_pem, &issued.key_pem)?;
    }
    Ok((files, stale))
}
