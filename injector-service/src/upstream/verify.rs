//! Who an upstream is: its certificate comes from a CA that is trusted, for the name that is expected; or it is the very
//! certificate that the server's `tls.ca_pem` has.

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

/// The most of a certificate's description that a log line gets: an upstream chooses what it presents.
const MAX_DESCRIPTION: usize = 500;

/// Verifies the certificates of one server's upstream.
#[derive(Debug, Clone)]
pub(super) struct Verifier {
    pub(super) webpki: Arc<WebPkiServerVerifier>,
    /// The certificates of `tls.ca_pem`. One that the upstream itself presents is accepted, as curl does: whoever has its
    /// key is trusted already, and could have issued a certificate for the name that is expected. webpki would refuse
    /// it, because `openssl req -x509` makes CAs.
    pub(super) pinned: Arc<[CertificateDer<'static>]>,
    /// Takes a description of the certificate that was presented in one handshake and refused.
    pub(super) presented: Arc<OnceLock<String>>,
}

impl ServerCertVerifier for Verifier {
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
            self.presented.get_or_init(|| description(end_entity));
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

/// Whether a certificate is valid at this time.
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

/// A certificate in a line for the log: it is public.
fn description(certificate: &CertificateDer<'_>) -> String {
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
