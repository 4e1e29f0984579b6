//! TLS settings of one upstream.

use std::net::IpAddr;

use proto::SecretName;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem::PemObject};
use url::Host;

use super::error::SpecError;

/// The TLS settings of one upstream. The default value trusts the CAs of the system and of `--upstream-ca`, and expects a
/// certificate for the URL's host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// CA certificates in PEM form to trust instead of the system's, or an empty string.
    pub ca_pem: String,
    /// The expected name in the upstream's certificate, when it differs from the URL's host.
    pub server_name: Option<String>,
    /// Allows secrets that are bound to origins although `Self::verifies` returns false. Only an administrator may set
    /// this field.
    pub allow_bound_secrets: bool,
    /// The secret with the certificate and key that the injector presents to the upstream.
    pub client_cert_secret: Option<SecretName>,
}

impl UpstreamTls {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        if !self.ca_pem.is_empty() {
            self.roots().ok_or(SpecError::CaPem)?;
        }
        match &self.server_name {
            Some(name) => ServerName::try_from(name.as_str())
                .map(drop)
                .map_err(|_| SpecError::ServerName),
            None => Ok(()),
        }
    }

    /// Returns true when a field is set that has no meaning without TLS.
    pub(super) fn is_special(&self) -> bool {
        !self.ca_pem.is_empty() || self.server_name.is_some() || self.client_cert_secret.is_some()
    }

    /// Returns true when the upstream's certificate must come from a CA that the injector's operator trusts and must be
    /// valid for `host`. An editor chooses `ca_pem`, and may own the name in `server_name`, so neither proves the host.
    pub(super) fn verifies(&self, host: &Host<String>) -> bool {
        let names_the_host = || match (self.certificate_name(host), certificate_name(host)) {
            (Ok(expected), Ok(ordinary)) => expected == ordinary,
            (Err(_), _) | (_, Err(_)) => false,
        };
        self.ca_pem.is_empty() && (self.server_name.is_none() || names_the_host())
    }

    /// Returns the name that the certificate of the upstream at `host` must have.
    pub fn certificate_name(&self, host: &Host<String>) -> Result<ServerName<'static>, InvalidDnsNameError> {
        match &self.server_name {
            Some(name) => ServerName::try_from(name.clone()),
            None => certificate_name(host),
        }
    }

    /// Returns the certificates in `ca_pem`, or no certificates when one of them cannot be parsed.
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        let certificates = CertificateDer::pem_slice_iter(self.ca_pem.as_bytes());
        certificates.collect::<Result<_, _>>().unwrap_or_default()
    }

    /// Returns the CAs in `ca_pem`, or `None` when there is no certificate or one that is not a CA's.
    pub fn roots(&self) -> Option<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.ca_pem.as_bytes()) {
            roots.add(certificate.ok()?).ok()?;
        }
        (!roots.is_empty()).then_some(roots)
    }
}

fn certificate_name(host: &Host<String>) -> Result<ServerName<'static>, InvalidDnsNameError> {
    match host {
        Host::Domain(name) => ServerName::try_from(name.trim_end_matches('.').to_owned()),
        Host::Ipv4(ip) => Ok(ServerName::from(IpAddr::V4(*ip))),
        Host::Ipv6(ip) => Ok(ServerName::from(IpAddr::V6(*ip))),
    }
}
