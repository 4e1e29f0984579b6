//! The CAs of peers, as they are read from PEM files.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, Error, RootCertStore, client::verify_server_cert_signed_by_trust_anchor,
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    DEVELOPMENT_ORGANIZATION,
    error::{TlsError, unusable_at},
    identity::{SVID, certificates, read},
    provider,
};
use crate::caller;
use proto::Principal;

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
