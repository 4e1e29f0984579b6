//! Verification of an upstream's certificate. It must come from a trusted CA and be for the expected name, or be one of
//! the very certificates in the server's `tls.ca_pem`.

use std::{
    fmt::Write as _,
    sync::{Arc, OnceLock},
};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{ASN1Time, FromDer as _, GeneralName, X509Certificate};

/// Characters of a certificate's description in a log line. The upstream chooses its certificate, so the length is bounded.
const MAX_DESCRIPTION: usize = 500;

#[derive(Debug, Clone)]
pub(super) struct UpstreamVerifier {
    pub(super) webpki: Arc<WebPkiServerVerifier>,
    /// The certificates of `tls.ca_pem`. Like curl, the verifier accepts one of them as the upstream's own certificate:
    /// the owner of its key is trusted already, and could have issued a certificate for the expected name. webpki would
    /// refuse the certificate when it is a CA, which is what `openssl req -x509` makes.
    pub(super) pinned: Arc<[CertificateDer<'static>]>,
    /// The description of the certificate that was refused in one handshake.
    pub(super) presented: Arc<OnceLock<String>>,
}

impl ServerCertVerifier for UpstreamVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = if self.pinned.contains(end_entity) {
            check_validity(end_entity, now)
                .map(|()| ServerCertVerified::assertion())
                .map_err(Error::from)
        } else {
            self.webpki
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        if verified.is_err() {
            self.presented.get_or_init(|| describe(end_entity));
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

fn check_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let now = ASN1Time::from_timestamp(seconds).map_err(|_| CertificateError::BadEncoding)?;
    if now < parsed.validity().not_before {
        return Err(CertificateError::NotValidYet);
    }
    if now > parsed.validity().not_after {
        return Err(CertificateError::Expired);
    }
    Ok(())
}

/// Describes a certificate, which is public, for the log.
fn describe(certificate: &CertificateDer<'_>) -> String {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return "a certificate that cannot be read".to_owned();
    };
    let mut text = format!(
        "subject {:?}, issuer {:?}, valid from {} until {}",
        parsed.subject().to_string(),
        parsed.issuer().to_string(),
        parsed.validity().not_before,
        parsed.validity().not_after
    );
    for name in alternative_names(&parsed) {
        // Writing to a string does not fail.
        let _ = write!(text, ", {name}");
    }
    text.chars().take(MAX_DESCRIPTION).collect()
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return vec!["no subject alternative names".to_owned()];
    };
    let names = extension.value.general_names.iter();
    names
        .map(|name| match name {
            GeneralName::DNSName(name) => format!("DNS {name:?}"),
            GeneralName::URI(uri) => format!("URI {uri:?}"),
            GeneralName::IPAddress(address) => format!("IP {}", ip(address)),
            _ => "another name".to_owned(),
        })
        .collect()
}

fn ip(octets: &[u8]) -> String {
    let v4 = <[u8; 4]>::try_from(octets).map(std::net::IpAddr::from);
    let v6 = <[u8; 16]>::try_from(octets).map(std::net::IpAddr::from);
    v4.or(v6)
        .map_or_else(|_| "of a wrong length".to_owned(), |ip| ip.to_string())
}
