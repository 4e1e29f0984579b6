//! TLS to upstreams: 1.3 or 1.2, with the system's CAs or the server's own.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use proto::{Reason, Refusal, serve::tls::provider};
use rustls::{ClientConfig, RootCertStore, client::Resumption};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use url::Host;

use crate::registry::server::UpstreamTls;

/// Returns the system's CAs together with the CAs in `files`.
///
/// A system without CAs is fine: servers that need them are then refused when they are called.
pub fn trusted_roots(files: &[PathBuf]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "some of the system's CAs were not read");
    }
    roots.add_parsable_certificates(native.certs);
    for path in files {
        roots.extend(
            read_roots(path)
                .map_err(|why| format!("{}: {why}", path.display()))?
                .roots,
        );
    }
    Ok(roots)
}

fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    let tls = UpstreamTls {
        ca_pem: std::fs::read_to_string(path).map_err(|error| error.to_string())?,
        ..Default::default()
    };
    tls.roots()
        .ok_or_else(|| "no CA in PEM form was found".to_owned())
}

/// A connector, and the name that the certificate must have.
pub(super) fn connector(
    tls: &UpstreamTls,
    host: &Host<String>,
    alpn: &[&[u8]],
    trusted: &Arc<RootCertStore>,
) -> Result<(TlsConnector, ServerName<'static>), Refusal> {
    let unusable = |what: &str| Refusal::new(Reason::UpstreamTlsFailed, format!("{what}; nothing was sent"));
    let roots = match tls.ca_pem.as_str() {
        "" if trusted.is_empty() => {
            return Err(unusable("this machine has no CAs to verify the upstream with"));
        }
        "" => trusted.clone(),
        _ => Arc::new(
            tls.roots()
                .ok_or_else(|| unusable("the server's tls.ca_pem holds no CA"))?,
        ),
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|_| unusable("TLS could not be set up"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::disabled();
    let name = tls
        .certificate_name(host)
        .map_err(|_| unusable("the upstream's host is not a name that a certificate can have"))?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}
