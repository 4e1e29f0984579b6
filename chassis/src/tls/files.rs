//! Certificates, keys and CAs as they are read from PEM files.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    CertificateError, Error, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    server::ParsedCertificate,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

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
    /// The file of the chain, or [`SVID`].
    path: PathBuf,
    principal: Option<Principal>,
    certified: Arc<CertifiedKey>,
}

/// Stands for a file in errors about a certificate or a bundle of a Workload API.
const SVID: &str = "the answer of the Workload API";

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

fn unusable_at(path: &Path, source: Error) -> TlsError {
    TlsError::Unusable {
        path: path.to_owned(),
        source,
    }
}

/// The CAs in one file, or the bundles of trust domains.
#[derive(Debug, Clone)]
pub struct Authorities {
    path: PathBuf,
    trust: Trust,
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.trust == other.trust
    }
}

/// The peers that CAs are trusted for.
#[derive(Debug, Clone, PartialEq)]
enum Trust {
    /// Peers with any name.
    Any(Bundle),
    /// Peers whose SPIFFE ID is in the trust domain of the bundle.
    TrustDomains(BTreeMap<String, Bundle>),
}

/// CAs that are trusted alike.
#[derive(Debug, Clone)]
struct Bundle {
    certificates: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
}

impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates
    }
}

impl Bundle {
    fn new(path: &Path, certificates: Vec<CertificateDer<'static>>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            let added = roots.add(certificate.clone());
            added.map_err(|source| unusable_at(path, source))?;
        }
        Ok(Self {
            certificates,
            roots: Arc::new(roots),
        })
    }
}

impl Authorities {
    /// Reads a PEM file with at least one CA.
    pub fn load(path: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            path: path.to_owned(),
            trust: Trust::Any(Bundle::new(path, certificates(path, &read(path)?)?)?),
        })
    }

    /// Returns the authorities of a Workload API: bundles, none of them empty, by the names of their trust domains.
    pub(crate) fn of_trust_domains(
        bundles: BTreeMap<String, Vec<CertificateDer<'static>>>,
    ) -> Result<Self, TlsError> {
        let path = PathBuf::from(SVID);
        let bundles = bundles
            .into_iter()
            .map(|(domain, certificates)| Ok((domain, Bundle::new(&path, certificates)?)));
        let trust = Trust::TrustDomains(bundles.collect::<Result<_, TlsError>>()?);
        Ok(Self { path, trust })
    }

    /// Returns true when one of the CAs was made for development.
    pub fn has_development_ca(&self) -> bool {
        let mut certificates = self.bundles().flat_map(|bundle| &bundle.certificates);
        certificates.any(|der| is_development(der))
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
        let number = self.bundles().map(|bundle| bundle.certificates.len()).sum();
        let cas = match number {
            1_usize => "1 CA".to_owned(),
            number => format!("{number} CAs"),
        };
        match &self.trust {
            Trust::Any(_) => cas,
            Trust::TrustDomains(bundles) => {
                let domains: Vec<&str> = bundles.keys().map(String::as_str).collect();
                format!("{cas} of {}", domains.join(", "))
            }
        }
    }

    fn bundles(&self) -> impl Iterator<Item = &Bundle> {
        let (any, domains) = match &self.trust {
            Trust::Any(bundle) => (Some(bundle), None),
            Trust::TrustDomains(bundles) => (None, Some(bundles.values())),
        };
        any.into_iter().chain(domains.into_iter().flatten())
    }

    /// Returns all CAs, whatever they are trusted for.
    pub(super) fn all_roots(&self) -> Arc<RootCertStore> {
        match &self.trust {
            Trust::Any(bundle) => bundle.roots.clone(),
            Trust::TrustDomains(bundles) => {
                let mut roots = RootCertStore::empty();
                roots.extend(bundles.values().flat_map(|bundle| bundle.roots.roots.clone()));
                Arc::new(roots)
            }
        }
    }

    /// Returns the CAs that are trusted for a peer with this certificate. By SPIFFE, a certificate must have exactly one URI, and
    /// come from the bundle of its own trust domain.
    pub(super) fn roots_for(&self, leaf: &CertificateDer<'_>) -> Result<Arc<RootCertStore>, Error> {
        let bundles = match &self.trust {
            Trust::Any(bundle) => return Ok(bundle.roots.clone()),
            Trust::TrustDomains(bundles) => bundles,
        };
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let domain = match caller::principal_of(&leaf) {
            Some(Principal::Spiffe(id)) => trust_domain(&id).map(ToOwned::to_owned),
            Some(_) | None => None,
        };
        let bundle = domain.and_then(|domain| bundles.get(&domain));
        Ok(bundle.ok_or(CertificateError::UnknownIssuer)?.roots.clone())
    }

    /// Returns true when the CAs are trusted for peers with any name.
    pub(super) fn is_for_any_name(&self) -> bool {
        matches!(self.trust, Trust::Any(_))
    }

    /// Returns an error of rustls as an error about this file.
    pub(super) fn error(&self, error: impl std::fmt::Display) -> TlsError {
        unusable_at(&self.path, Error::General(error.to_string()))
    }

    /// Verifies the chain of a server, and not the name of the server.
    pub(super) fn verify_server(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let (roots, algorithms) = (
            self.roots_for(leaf)?,
            provider().signature_verification_algorithms,
        );
        let leaf = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&leaf, &roots, intermediates, now, algorithms.all)
    }
}

/// Returns the trust domain of a SPIFFE ID, with or without a path.
pub(super) fn trust_domain(id: &str) -> Option<&str> {
    let rest = id.strip_prefix("spiffe://")?;
    let domain = rest.split_once('/').map_or(rest, |(domain, _)| domain);
    (!domain.is_empty()).then_some(domain)
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

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let missing = || TlsError::Missing {
        path: path.to_owned(),
        what: "certificate",
    };
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| missing())?;
    if found.is_empty() {
        Err(missing())
    } else {
        Ok(found)
    }
}

fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| TlsError::Missing {
        path: path.to_owned(),
        what: "private key",
    })
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
