//! TLS 1.3 or 1.2 to upstreams, verified by the system's CAs or by the CAs of the server's `tls.ca_pem`.

use std::sync::{Arc, OnceLock};

use proto::{Reason, Refusal};
use rustls::{
    ClientConfig,
    client::{Resumption, WebPkiServerVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use url::Host;

use super::{TrustedRoots, ecdsa::upstream_provider, fault::TlsFault, verify::UpstreamVerifier};
use crate::registry::server::UpstreamTls;

/// The configuration of the handshakes with one upstream.
pub(super) struct Tls {
    config: ClientConfig,
    verifier: UpstreamVerifier,
    name: ServerName<'static>,
}

impl Tls {
    pub(super) fn new(
        tls: &UpstreamTls,
        host: &Host<String>,
        alpn: &[&[u8]],
        trusted: Option<&TrustedRoots>,
    ) -> Result<Self, Refusal> {
        let unusable =
            |what: &str| Refusal::new(Reason::UpstreamTlsFailed, format!("{what}; nothing was sent"));
        let roots = match tls.ca_pem.as_str() {
            "" => trusted
                .map(TrustedRoots::store)
                .filter(|roots| !roots.is_empty())
                .ok_or_else(|| unusable("this machine has no CAs to verify the upstream with"))?,
            _ => Arc::new(
                tls.roots()
                    .ok_or_else(|| unusable("the server's tls.ca_pem holds no CA"))?,
            ),
        };
        let provider = Arc::new(upstream_provider());
        let verifier = UpstreamVerifier {
            webpki: WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                .build()
                .map_err(|_| unusable("the CAs to verify the upstream with cannot be used"))?,
            pinned: tls.certificates().into(),
            presented: Arc::default(),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|_| unusable("TLS could not be set up"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier.clone()))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.resumption = Resumption::disabled();
        let name = tls
            .certificate_name(host)
            .map_err(|_| unusable("the upstream's host is not a name that a certificate can have"))?;
        Ok(Self {
            config,
            verifier,
            name,
        })
    }

    /// Makes the handshake over `stream`, and presents `client_certificate` if the upstream asks for one.
    pub(super) async fn connect(
        &self,
        stream: TcpStream,
        client_certificate: Option<Arc<CertifiedKey>>,
    ) -> Result<TlsStream<TcpStream>, TlsFault> {
        let address = stream.peer_addr().ok();
        let presented = Arc::new(OnceLock::new());
        let verifier = UpstreamVerifier {
            presented: presented.clone(),
            ..self.verifier.clone()
        };
        let mut config = self.config.clone();
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        if let Some(certificate) = client_certificate {
            config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certificate));
        }
        TlsConnector::from(Arc::new(config))
            .connect(self.name.clone(), stream)
            .await
            .map_err(|error| TlsFault::new(error, address, presented.get().cloned()))
    }
}
