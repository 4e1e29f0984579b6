//! Verification of clients, which logs the certificates that it refuses.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{authorities::Authorities, error::TlsError, provider};
use crate::{caller, expiry, log_limit::LogLimit, telemetry::field};

/// The rule of a listener for client certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CertificateNeed {
    /// A client may come without a certificate. A certificate that it presents must verify all the same.
    Optional,
    Required,
}

/// Verifies clients by the CAs that are trusted for their names. TLS tells a refused client only the kind of the fault, so the
/// log of the service has the rest.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    authorities: Arc<Authorities>,
    /// Verifies by all CAs, whatever they are trusted for.
    by_all: Arc<dyn ClientCertVerifier>,
}

impl ClientVerifier {
    pub(super) fn new(authorities: Arc<Authorities>, need: CertificateNeed) -> Result<Self, TlsError> {
        let by_all = webpki(authorities.all_roots(), need).map_err(|error| authorities.error(error))?;
        Ok(Self { authorities, by_all })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.by_all.verify_client_cert(leaf, intermediates, now)?;
        if self.authorities.is_for_any_name() {
            return Ok(verified);
        }
        let roots = self.authorities.roots_for(leaf)?;
        webpki(roots, CertificateNeed::Required)?.verify_client_cert(leaf, intermediates, now)
    }
}

fn webpki(roots: Arc<RootCertStore>, need: CertificateNeed) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let builder = match need {
        CertificateNeed::Optional => builder.allow_unauthenticated(),
        CertificateNeed::Required => builder,
    };
    builder.build().map_err(|error| Error::General(error.to_string()))
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.by_all.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.by_all.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.by_all.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verify(end_entity, intermediates, now);
        verified.inspect_err(|error| log_refused(end_entity, error))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_all.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_all.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_all.supported_verify_schemes()
    }
}

/// Maximum number of characters of a name in a log line. A refused certificate can have names of any length.
const MAX_NAME: usize = 200;
/// Maximum number of names of a refused certificate in a log line.
const MAX_NAMES: usize = 8;

fn log_refused(leaf: &CertificateDer<'_>, error: &Error) {
    static LIMIT: LogLimit = LogLimit::for_strangers();
    let Some(suppressed) = LIMIT.admit(Instant::now()) else {
        return;
    };
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
        tracing::info!(%error, { field::SUPPRESSED } = suppressed, "client certificate refused: it cannot be read");
        return;
    };
    let names = caller::names_of(&certificate).into_iter().take(MAX_NAMES);
    let names: Vec<String> = names.map(|name| name.chars().take(MAX_NAME).collect()).collect();
    let expires = expiry::text(caller::not_after(&certificate).unwrap_or(SystemTime::UNIX_EPOCH));
    tracing::info!(?names, expires, %error, { field::SUPPRESSED } = suppressed, "client certificate refused");
}
