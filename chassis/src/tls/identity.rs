//! A certificate chain and its key, as they are read from PEM files.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    Error,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject as _},
};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{
    error::{TlsError, unusable_at},
    provider,
};
use crate::{caller, expiry};
use proto::Principal;

/// A certificate chain and its private key.
#[derive(Debug)]
pub struct Identity {
    /// The file of the chain, or [`SVID`].
    path: PathBuf,
    principal: Option<Principal>,
    certified: Arc<CertifiedKey>,
}

/// Stands for a file in errors about a certificate or a bundle of a Workload API.
pub(super) const SVID: &str = "the answer of the Workload API";

/// Two identities are equal when their chains are: a certificate belongs to one key.
impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert
    }
}

impl Identity {
    /// Reads the chain and the key from PEM files. Refuses a key file that all users of the system may read, and a key that
    /// does not belong to the certificate.
    pub fn load(chain: &Path, key: &Path) -> Result<Self, TlsError> {
        let certificates = certificates(chain, &read(chain)?)?;
        let pem = Zeroizing::new(read(key)?);
        refuse_exposed(key)?;
        Self::new(chain, certificates, private_key(key, &pem)?).map_err(|error| unusable(chain, key, error))
    }

    /// Reads the chain and the key from PEM texts. Errors name `origin`, which stands for the file of both.
    pub fn from_pem(origin: &str, chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let path = Path::new(origin);
        let (certificates, private) = (certificates(path, chain)?, private_key(path, key)?);
        Self::new(path, certificates, private).map_err(|source| unusable_at(path, source))
    }

    /// Returns the identity of an X.509-SVID, whose first certificate is the leaf.
    pub(crate) fn of_svid(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, TlsError> {
        let path = Path::new(SVID);
        Self::new(path, chain, key).map_err(|source| unusable_at(path, source))
    }

    fn new(
        path: &Path,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, Error> {
        let certified = CertifiedKey::from_der(chain, key, &provider())?;
        let leaf = certified.cert.first();
        let leaf = leaf.and_then(|leaf| X509Certificate::from_der(leaf).ok());
        let principal = leaf.and_then(|(_, leaf)| caller::principal_of(&leaf));
        Ok(Self {
            path: path.to_owned(),
            principal,
            certified: Arc::new(certified),
        })
    }

    /// Returns the principal that the certificate names.
    pub fn principal(&self) -> Option<Principal> {
        self.principal.clone()
    }

    /// Returns the hosts that the certificate names: DNS names without a wildcard, and IP addresses. An IPv6 address is in brackets.
    pub fn hosts(&self) -> Vec<String> {
        let leaf = self.leaf();
        leaf.map_or_else(Vec::new, |certificate| caller::hosts_of(&certificate))
    }

    /// Returns the time at which a certificate of the chain expires first.
    pub fn not_after(&self) -> SystemTime {
        let expiries = self.parsed().filter_map(|parsed| caller::not_after(&parsed));
        // A chain without a readable certificate never gets this far: rustls refuses it.
        expiries.min().unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Describes the certificate for the log.
    pub(crate) fn describe(&self) -> String {
        let names = self
            .leaf()
            .map(|leaf| caller::names_of(&leaf))
            .unwrap_or_default();
        let expires = expiry::text(self.not_after());
        format!(
            "a certificate for {}, which expires at {expires}",
            names.join(", ")
        )
    }

    /// Refuses a chain with a certificate that is not valid at `now`.
    pub(crate) fn check_valid(&self, now: SystemTime) -> Result<(), TlsError> {
        let begins = self.parsed().filter_map(|parsed| caller::not_before(&parsed));
        let (from, until) = (begins.max().unwrap_or(SystemTime::UNIX_EPOCH), self.not_after());
        if from <= now && now <= until {
            return Ok(());
        }
        Err(TlsError::NotValidNow {
            path: self.path.clone(),
            from: expiry::text(from),
            until: expiry::text(until),
        })
    }

    /// Refuses a certificate that names another principal than `expected`.
    pub(crate) fn check_principal(&self, expected: &Principal) -> Result<(), TlsError> {
        let named = self.principal();
        if named.as_ref() == Some(expected) {
            return Ok(());
        }
        Err(TlsError::OtherPrincipal {
            path: self.path.clone(),
            expected: expected.clone(),
            found: named.map_or_else(|| "no principal".to_owned(), |principal| principal.to_string()),
        })
    }

    /// Returns an error of rustls as an error about this file.
    pub(super) fn error(&self, source: Error) -> TlsError {
        unusable_at(&self.path, source)
    }

    pub(super) fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(self.certified.clone()))
    }

    fn leaf(&self) -> Option<X509Certificate<'_>> {
        self.parsed().next()
    }

    fn parsed(&self) -> impl Iterator<Item = X509Certificate<'_>> {
        let chain = self.certified.cert.iter();
        chain.filter_map(|der| X509Certificate::from_der(der).ok().map(|(_, parsed)| parsed))
    }
}

fn unusable(chain: &Path, key: &Path, error: Error) -> TlsError {
    match error {
        Error::InconsistentKeys(_) => TlsError::KeyMismatch {
            certificate: chain.to_owned(),
            key: key.to_owned(),
        },
        source => unusable_at(chain, source),
    }
}

pub(super) fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.and_then(|found| match found.is_empty() {
        true => Err(pem::Error::NoItemsFound),
        false => Ok(found),
    });
    found.map_err(|error| pem_error(path, "certificate", error))
}

fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| pem_error(path, "private key", error))
}

fn pem_error(path: &Path, what: &'static str, error: pem::Error) -> TlsError {
    let path = path.to_owned();
    match error {
        pem::Error::NoItemsFound => TlsError::Missing { path, what },
        _ => TlsError::BrokenPem { path },
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn refuse_exposed(path: &Path) -> Result<(), TlsError> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path)
        .map_err(|source| TlsError::Read {
            path: path.to_owned(),
            source,
        })?
        .permissions()
        .mode();
    if mode & 0o007 == 0 {
        Ok(())
    } else {
        Err(TlsError::KeyExposed {
            path: path.to_owned(),
        })
    }
}
