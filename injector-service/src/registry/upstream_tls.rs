//! How an upstream's TLS differs from the ordinary.

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};

use super::server::SpecError;

/// How an upstream's TLS differs from the ordinary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The CAs to trust instead of the system's, PEM; empty for those.
    pub ca_pem: String,
    /// The name in its certificate, when it is not the URL's host.
    pub server_name: Option<String>,
}

impl UpstreamTls {
    /// Whether it can be as it is described.
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

    /// The CAs in `ca_pem`; none when there is none, or one that is not a CA's.
    pub fn roots(&self) -> Option<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.ca_pem.as_bytes()) {
            roots.add(certificate.ok()?).ok()?;
        }
        (!roots.is_empty()).then_some(roots)
    }
}
