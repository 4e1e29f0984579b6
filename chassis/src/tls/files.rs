//! Certificates, keys and CAs as they are read from PEM files.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    Error, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    server::{
        ClientCertVerifierBuilder, ParsedCertificate, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{DEVELOPMENT_ORGANIZATION, provider};
use crate::{caller, expiry};
use proto::Principal;

/// The error of a TLS setup. Each variant names the file at fault.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A file has no PEM section of the expected kind.
    #[error("{path}: no {what} in PEM form was found", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The expected kind.
        what: &'static str,
    },
    /// The private key can be read by others than its owner and group.
    #[error("{path}: others may read this private key; chmod it to 600 or 640", path = path.display())]
    KeyExposed {
        /// The file.
        path: PathBuf,
    },
    /// The private key does not belong to the certificate, for example because only one of the files was renewed.
    #[error(
        "{certificate} and {key} do not belong together: the key is the one of another certificate",
        certificate = certificate.display(), key = key.display()
    )]
    KeyMismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// rustls refused the certificates or the key.
    #[error("{path}: {source}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The error of rustls.
        source: Error,
    },
    /// A certificate that was renewed is not valid at this time.
    #[error("{path}: the certificate is valid from {from} until {until}, and not now", path = path.display())]
    NotValidNow {
        /// The file.
        path: PathBuf,
        /// The first moment at which the whole chain is valid.
        from: String,
        /// The last moment at which the whole chain is valid.
        until: String,
    },
    /// A certificate that was renewed names another principal, and the service keeps its principal as long as it runs.
    #[error(
        "{path}: the certificate names {found}, and not {expected}; restart the service to change its identity",
        path = path.display()
    )]
    OtherPrincipal {
        /// The file.
        path: PathBuf,
        /// The principal of the service.
        expected: Principal,
        /// The principal in the file, or a text that says that there is none.
        found: String,
    },
    /// A CA for development, on a listener that other machines reach.
    #[error(
        "{path} holds a development CA, which is for loopback addresses only; use a CA of your own",
        path = path.display()
    )]
    DevelopmentCa {
        /// The file.
        path: PathBuf,
    },
    /// The source of a certificate or of CAs has sent none yet.
    #[error("the source of this service's certificate has sent none yet")]
    NotYet,
}

/// A certificate chain and its private key.
#[derive(Debug)]
pub struct Identity {
    path: PathBuf,
    certified: Arc<CertifiedKey>,
}

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
        let certificates = certificates(chain)?;
        let pem = zeroize::Zeroizing::new(read(key)?);
        refuse_exposed(key)?;
        let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::Missing {
            path: key.to_owned(),
            what: "private key",
        })?;
        let certified = CertifiedKey::from_der(certificates, private, &provider());
        Ok(Self {
            path: chain.to_owned(),
            certified: Arc::new(certified.map_err(|error| unusable(chain, key, error))?),
        })
    }

    /// Returns the principal that the certificate names.
    pub fn principal(&self) -> Option<Principal> {
        caller::principal_of(&self.leaf()?)
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
        TlsError::Unusable {
            path: self.path.clone(),
            source,
        }
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
        source => TlsError::Unusable {
            path: chain.to_owned(),
            source,
        },
    }
}

/// The CAs in one file.
#[derive(Debug)]
pub struct Authorities {
    path: PathBuf,
    certificates: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates
    }
}

impl Authorities {
    /// Reads a PEM file with at least one CA.
    pub fn load(path: &Path) -> Result<Self, TlsError> {
        let certificates = certificates(path)?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            let added = roots.add(certificate.clone());
            added.map_err(|source| TlsError::Unusable {
                path: path.to_owned(),
                source,
            })?;
        }
        Ok(Self {
            path: path.to_owned(),
            certificates,
            roots: Arc::new(roots),
        })
    }

    /// Returns true when one of the CAs was made for development.
    pub fn has_development_ca(&self) -> bool {
        self.certificates.iter().any(|der| is_development(der))
    }

    /// Refuses a file with a development CA.
    pub(crate) fn without_development_ca(self) -> Result<Self, TlsError> {
        match self.has_development_ca() {
            true => Err(TlsError::DevelopmentCa { path: self.path }),
            false => Ok(self),
        }
    }

    /// Describes the CAs for the log.
    pub(crate) fn describe(&self) -> String {
        match self.certificates.len() {
            1 => "1 CA".to_owned(),
            number => format!("{number} CAs"),
        }
    }

    pub(super) fn roots(&self) -> Arc<RootCertStore> {
        self.roots.clone()
    }

    /// Returns an error of rustls as an error about this file.
    pub(super) fn error(&self, error: impl std::fmt::Display) -> TlsError {
        TlsError::Unusable {
            path: self.path.clone(),
            source: Error::General(error.to_string()),
        }
    }

    pub(super) fn client_verifier(
        &self,
        adjust: impl FnOnce(ClientCertVerifierBuilder) -> ClientCertVerifierBuilder,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let builder = WebPkiClientVerifier::builder_with_provider(self.roots(), provider());
        adjust(builder).build().map_err(|error| self.error(error))
    }

    /// Returns true when one of the CAs vouches for the chain of a client.
    pub(super) fn vouch_for_client(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return false;
        };
        let verifier = self.client_verifier(|required| required);
        verifier.is_ok_and(|verifier| {
            verifier
                .verify_client_cert(leaf, intermediates, UnixTime::now())
                .is_ok()
        })
    }

    /// Returns true when one of the CAs vouches for the chain of a server, whatever the chain names.
    pub(super) fn vouch_for_server(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return false;
        };
        verify_server_chain(&self.roots, leaf, intermediates, UnixTime::now()).is_ok()
    }
}

/// Verifies the chain of a server by `roots`, and not the name of the server.
pub(super) fn verify_server_chain(
    roots: &RootCertStore,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), Error> {
    let leaf = ParsedCertificate::try_from(leaf)?;
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms)
}

fn is_development(der: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return false;
    };
    certificate.subject().iter_organization().any(|organization| {
        organization
            .as_str()
            .is_ok_and(|text| text == DEVELOPMENT_ORGANIZATION)
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let missing = || TlsError::Missing {
        path: path.to_owned(),
        what: "certificate",
    };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|_| missing())?;
    if found.is_empty() {
        Err(missing())
    } else {
        Ok(found)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
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
