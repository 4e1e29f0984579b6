//! A client certificate with its key, as a secret holds it.

use std::sync::Arc;

use proto::{Reason, Refusal, SecretName, SecretValue};
use rustls::{crypto::CryptoProvider, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// Why a value is no client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Unusable {
    #[error("has no certificate in PEM form")]
    NoCertificate,
    #[error("has no unencrypted private key in PEM form")]
    NoKey,
    #[error("has a private key of a kind that is not supported, or of another certificate")]
    Key,
}

/// Reads the value of the secret `name`: PEM, with the certificate first, then those of its issuers, and the key anywhere.
pub fn client_certificate(
    name: &SecretName,
    value: &SecretValue,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, Refusal> {
    parse(value.expose(), provider).map(Arc::new).map_err(|why| {
        let message =
            format!("secret {name}, the client certificate of this server, {why}; nothing was sent");
        Refusal::new(Reason::UpstreamClientCertificateRefused, message)
    })
}

fn parse(pem: &[u8], provider: &CryptoProvider) -> Result<CertifiedKey, Unusable> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| Unusable::NoCertificate)?;
    if chain.is_empty() {
        return Err(Unusable::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| Unusable::NoKey)?;
    CertifiedKey::from_der(chain, key, provider).map_err(|_| Unusable::Key)
}
