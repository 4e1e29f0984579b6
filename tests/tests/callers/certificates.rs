//! Callers that identify themselves by a client certificate.

use std::sync::Arc;

use chassis::tls::provider;
use e2e::{Pair, Pki, Upstream, pki::Files};
use http::Request;
use injector_service::config::Settings;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{CI, Tokens, WEB, outcome, over_http1, over_http2, pair, with_token};

const PROGRAM: &str = "spiffe://test/program";

fn secured(settings: &mut Settings, clients: &Pki) {
    settings.data_plane_tls_cert.clone_from(&settings.tls.tls_cert);
    settings.data_plane_tls_key.clone_from(&settings.tls.tls_key);
    settings.callers.data_plane_client_ca = Some(clients.ca_file());
    settings.callers.caller.push(format!("{PROGRAM}=dev/api"));
}

/// Connects over TLS, with a client certificate if there is one.
async fn connect(pair: &Pair, certificate: Option<&Files>, protocol: &[u8]) -> TlsStream<TcpStream> {
    let ca = CertificateDer::from_pem_slice(pair.injector.pki.ca_pem().as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(ca).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match certificate {
        None => config.with_no_client_auth(),
        Some(files) => {
            let chain = CertificateDer::pem_file_iter(&files.cert).unwrap();
            let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
            config
                .with_client_auth_cert(chain.map(Result::unwrap).collect(), key)
                .unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let address = pair.injector.data_plane;
    let stream = TcpStream::connect(address).await.unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(address.ip().into(), stream);
    connecting.await.unwrap()
}

#[tokio::test]
async fn a_certificate_identifies_a_caller_and_a_token_counts_more() {
    let (upstream, tokens) = (Upstream::start().await, Tokens::new());
    let clients = Pki::new();
    let pair = pair(&upstream, |settings| {
        tokens.configure(settings);
        settings.callers.caller.push("token:web=dev/other".into());
        secured(settings, &clients);
    })
    .await;
    let program = clients.principal(PROGRAM);
    let other = clients.principal("spiffe://test/other-program");
    for (certificate, token, expected) in [
        (None, None, (401, "UNAUTHENTICATED")),
        (None, Some(CI), (200, "")),
        (Some(&program), None, (200, "")),
        (Some(&other), None, (403, "PERMISSION_DENIED")),
        (Some(&other), Some(CI), (200, "")),
        (Some(&program), Some(WEB), (403, "PERMISSION_DENIED")),
        (Some(&program), Some("wrong"), (401, "UNAUTHENTICATED")),
    ] {
        let stream = connect(&pair, certificate, b"http/1.1").await;
        let answer = over_http1(stream, with_token("/dev/api/", token)).await;
        assert_eq!(outcome(&answer), expected, "{certificate:?} {token:?}");
    }
    // The certificates of the services' own CA are not those of callers.
    let stranger = pair.injector.pki.principal(PROGRAM);
    let mut refused = connect(&pair, Some(&stranger), b"http/1.1").await;
    // With TLS 1.3 a client learns only by its first read that its certificate was refused.
    let alert = refused.read_u8().await.unwrap_err().to_string();
    assert!(alert.contains("fatal alert"), "{alert}");
    pair.stop().await;
}

#[tokio::test]
async fn a_certificate_identifies_the_caller_of_every_http2_stream() {
    let (upstream, clients) = (Upstream::start().await, Pki::new());
    let pair = pair(&upstream, |settings| secured(settings, &clients)).await;
    let program = clients.principal(PROGRAM);
    let stream = connect(&pair, Some(&program), b"h2").await;
    let answer = over_http2(stream, Request::get("https://localhost/dev/api/")).await;
    assert_eq!(outcome(&answer), (200, ""));
    assert_eq!(upstream.last().header("x-mcp-secret-token"), Some("tok-1"));
    pair.stop().await;
}
