//! Verification of clients, which logs the certificates that it refuses.

use std::{sync::Arc, time::SystemTime};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{caller, expiry};

/// Verifies as `0` does. TLS tells a refused client only the kind of the fault, so the log of the service has the rest.
#[derive(Debug)]
pub(super) struct LoggingVerifier(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for LoggingVerifier {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now);
        verified.inspect_err(|error| log_refused(end_entity, error))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Characters of each name that a log line has: nobody vouches for the certificate.
const MAX_NAME: usize = 200;
/// Names of a refused certificate that a log line has.
const MAX_NAMES: usize = 8;

fn log_refused(leaf: &CertificateDer<'_>, error: &Error) {
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
        tracing::info!(%error, "client certificate refused: it cannot be read");
        return;
    };
    let names = caller::names_of(&certificate).into_iter().take(MAX_NAMES);
    let names: Vec<String> = names.map(|name| name.chars().take(MAX_NAME).collect()).collect();
    let expires = expiry::text(caller::not_after(&certificate).unwrap_or(SystemTime::UNIX_EPOCH));
    tracing::info!(?names, expires, %error, "client certificate refused");
}
