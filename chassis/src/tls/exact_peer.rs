//! Verification of a server by the principal in its certificate.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authorities::Authorities;
use crate::caller;
use proto::Principal;

/// Verifies the certificate chain of a server, and compares the certificate's principal with `peer`. The host that was
/// dialled is not compared, so that a vault can be identified by its SPIFFE ID.
#[derive(Debug)]
pub(super) struct ExactPeer {
    pub(super) authorities: Arc<Authorities>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    pub(super) peer: Principal,
}

/// The server's certificate is valid, but names another principal.
#[derive(thiserror::Error)]
#[error("the certificate names {}, and not {expected}", list(.names))]
pub struct WrongPeer {
    expected: Principal,
    names: Vec<String>,
}

/// rustls prints the error of a verifier with `Debug`.
impl fmt::Debug for WrongPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => "nobody".to_owned(),
        names => names.join(", "),
    }
}

impl ServerCertVerifier for ExactPeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.authorities.verify_server(end_entity, intermediates, now)?;
        let certificate = X509Certificate::from_der(end_entity).ok();
        let (named, names) = certificate
            .map(|(_, certificate)| (caller::principal_of(&certificate), caller::names_of(&certificate)))
            .unwrap_or_default();
        if named.as_ref() == Some(&self.peer) {
            return Ok(ServerCertVerified::assertion());
        }
        let wrong = WrongPeer {
            expected: self.peer.clone(),
            names,
        };
        Err(CertificateError::Other(OtherError(Arc::new(wrong))).into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
