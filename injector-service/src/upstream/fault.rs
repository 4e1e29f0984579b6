//! Failures of TLS with an upstream, by kind.

use std::{error::Error as StdError, io, net::SocketAddr};

use chassis::telemetry::{chain, field};
use proto::{CallId, Reason, Refusal};
use rustls::{AlertDescription, CertificateError, Error};

/// A failed handshake, or an alert by which the upstream refused the client certificate after the handshake.
#[derive(Debug, thiserror::Error)]
#[error("the upstream's TLS failed: {kind}")]
pub(super) struct TlsFault {
    kind: TlsFaultKind,
    address: Option<SocketAddr>,
    presented: Option<String>,
    /// True when the handshake had ended on the injector's side, so that the injector may already have sent a request.
    after_handshake: bool,
    source: io::Error,
}

/// The kind of a [`TlsFault`]. Its text says what the upstream did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum TlsFaultKind {
    #[error("its certificate comes from no CA that is trusted for this server")]
    UntrustedCa,
    #[error("its certificate is for other names than the server's host")]
    OtherName,
    #[error("its certificate has expired")]
    Expired,
    #[error("its certificate is not valid yet")]
    NotYetValid,
    #[error("its certificate is not one for servers")]
    OtherPurpose,
    #[error("its certificate is signed with an algorithm that is not supported")]
    Algorithm,
    #[error("its certificate cannot be read")]
    Unreadable,
    #[error("it does not speak TLS on this port")]
    NotTls,
    #[error("it closed the connection during the handshake")]
    Closed,
    #[error("it has no TLS version or cipher in common with the injector")]
    NothingInCommon,
    #[error("it has no certificate for this name")]
    NameUnknown,
    #[error("it supports no version of HTTP that the injector uses for this server")]
    NoProtocol,
    #[error("it requires a client certificate, which tls.client_cert_secret of the server can name")]
    ClientCertificateRequired,
    #[error("it refused the client certificate")]
    ClientCertificateRefused,
    #[error("the handshake failed")]
    Other,
}

impl TlsFault {
    /// Returns the fault of a failed handshake. `presented` describes the certificate that was refused, if one was.
    pub(super) fn new(source: io::Error, address: Option<SocketAddr>, presented: Option<String>) -> Self {
        Self {
            kind: TlsFaultKind::of_io(&source),
            address,
            presented,
            after_handshake: false,
            source,
        }
    }

    /// Returns the fault behind an error of a connection whose handshake had ended: in TLS 1.3 the server verifies the
    /// client certificate after the handshake has ended for the client.
    pub(super) fn find(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut causes = std::iter::successors(Some(error), |cause| StdError::source(*cause));
        let fault = causes.find_map(|cause| Self::about_client(cause.downcast_ref::<io::Error>()?, None))?;
        Some(Self {
            after_handshake: true,
            ..fault
        })
    }

    /// Returns the fault if `error` is an alert about the client certificate.
    pub(super) fn about_client(error: &io::Error, address: Option<SocketAddr>) -> Option<Self> {
        let kind = TlsFaultKind::of_io(error);
        let is_about_client = matches!(
            kind,
            TlsFaultKind::ClientCertificateRequired | TlsFaultKind::ClientCertificateRefused
        );
        is_about_client.then(|| Self {
            kind,
            address,
            presented: None,
            after_handshake: false,
            source: io::Error::new(error.kind(), error.to_string()),
        })
    }

    /// Logs the fault with its details for the call `call_id`, and returns the refusal for the downstream.
    pub(super) fn refusal(&self, call_id: &CallId) -> Refusal {
        tracing::info!(
            { field::CALL_ID } = call_id.as_str(),
            address = self.address.map(tracing::field::display),
            presented = self.presented.as_deref(),
            error = chain(self),
            after_handshake = self.after_handshake,
            "the TLS of an upstream failed"
        );
        let message = match self.after_handshake {
            true => self.to_string(),
            false => format!("{self}; nothing was sent"),
        };
        Refusal::new(self.kind.reason(), message)
    }
}

impl TlsFaultKind {
    fn of_io(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(error) => Self::of(error),
            None => match error.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe => Self::Closed,
                _ => Self::Other,
            },
        }
    }

    fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => Self::of_certificate(error),
            Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => Self::NotTls,
            Error::AlertReceived(alert) => Self::of_alert(*alert),
            Error::PeerIncompatible(_) => Self::NothingInCommon,
            Error::NoApplicationProtocol => Self::NoProtocol,
            _ => Self::Other,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::OtherName
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::OtherPurpose
            }
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Self::Algorithm,
            CertificateError::BadEncoding => Self::Unreadable,
            // For example a CA as the server's certificate that is not in `tls.ca_pem`.
            _ => Self::UntrustedCa,
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::CertificateRequired => Self::ClientCertificateRequired,
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            // The signature on the client certificate, or the one made by its key in the handshake, is wrong.
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied => Self::ClientCertificateRefused,
            AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity => Self::NothingInCommon,
            AlertDescription::UnrecognisedName => Self::NameUnknown,
            AlertDescription::NoApplicationProtocol => Self::NoProtocol,
            _ => Self::Other,
        }
    }

    fn reason(self) -> Reason {
        match self {
            Self::UntrustedCa => Reason::UpstreamCertificateUntrusted,
            Self::OtherName => Reason::UpstreamCertificateNameMismatch,
            Self::NotTls => Reason::UpstreamNotTls,
            Self::ClientCertificateRequired | Self::ClientCertificateRefused => {
                Reason::UpstreamClientCertificateRefused
            }
            Self::Expired
            | Self::NotYetValid
            | Self::OtherPurpose
            | Self::Algorithm
            | Self::Unreadable
            | Self::Closed
            | Self::NothingInCommon
            | Self::NameUnknown
            | Self::NoProtocol
            | Self::Other => Reason::UpstreamTlsFailed,
        }
    }
}
