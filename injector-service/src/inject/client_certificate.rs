//! The client certificate of a server, which a secret holds in PEM form together with its key.

use std::sync::Arc;

use proto::{Reason, Refusal, SecretName, SecretValue};
use rustls::{crypto::CryptoProvider, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum CertificateError {
    #[error("has no certificate in PEM form")]
    NoCertificate,
    #[error("has no unencrypted private key in PEM form")]
    NoKey,
    #[error("has a private key of a kind that is not supported, or of another certificate")]
    UnsuitableKey,
}

/// Reads the value of the secret `name`: PEM with the client's certificate first, then the certificates of its issuers.
/// The key may stand anywhere.
pub fn client_certificate(
    name: &SecretName,
    value: &SecretValue,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, Refusal> {
    parse(value.expose(), provider).map(Arc::new).map_err(|error| {
        let message =
            format!("secret {name}, the client certificate of this server, {error}; nothing was sent");
        Refusal::new(Reason::UpstreamClientCertificateRefused, message)
    })
}

fn parse(pem: &[u8], provider: &CryptoProvider) -> Result<CertifiedKey, CertificateError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| CertificateError::NoCertificate)?;
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| CertificateError::NoKey)?;
    CertifiedKey::from_der(chain, key, provider).map_err(|_| CertificateError::UnsuitableKey)
}
