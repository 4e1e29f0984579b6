//! TLS to upstreams: 1.3 or 1.2, with the system's CAs or the server's own.

use std::{path::Path, sync::Arc};

use proto::{Reason, Refusal, serve::tls::provider};
use rustls::{ClientConfig, RootCertStore, client::Resumption};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use url::Host;

use crate::registry::server::UpstreamTls;

/// The CAs of the system, and those of a file.
///
/// A system without CAs is fine: servers that need them are then refused when they are called.
pub fn system_roots(more: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "some of the system's CAs were not read");
    }
    roots.add_parsable_certificates(native.certs);
    if let Some(path) = more {
        let ca_pem = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let more = UpstreamTls {
            ca_pem,
            server_name: None,
        }
        .roots();
        roots.extend(
            more.ok_or_else(|| format!("{}: no CA in PEM form was found", path.display()))?
                .roots,
        );
    }
    Ok(roots)
}

/// A connector, and the name that the certificate must have.
pub(super) fn connector(
    tls: &UpstreamTls,
    host: &Host<String>,
    alpn: &[&[u8]],
    system: &Arc<RootCertStore>,
) -> Result<(TlsConnector, ServerName<'static>), Refusal> {
    let unusable = |what: &str| Refusal::new(Reason::UpstreamTlsFailed, format!("{what}; nothing was sent"));
    let roots = match tls.ca_pem.as_str() {
        "" if system.is_empty() => {
            return Err(unusable("this machine has no CAs to verify the upstream with"));
        }
        "" => system.clone(),
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
    let name = match (&tls.server_name, host) {
        (Some(name), _) => ServerName::try_from(name.clone()),
        (None, Host::Domain(name)) => ServerName::try_from(name.trim_end_matches('.').to_owned()),
        (None, Host::Ipv4(ip)) => Ok(ServerName::from(std::net::IpAddr::V4(*ip))),
        (None, Host::Ipv6(ip)) => Ok(ServerName::from(std::net::IpAddr::V6(*ip))),
    };
    let name = name.map_err(|_| unusable("the upstream's host is not a name that a certificate can have"))?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}
