//! Callers that identify themselves by a client certificate.

use std::sync::Arc;

use aerostack::pki::Leaf;
use chassis::tls::provider;
use e2e::{PATIENCE, Pair, Pki, SecretVolume, Upstream, pki::Files};
use http::Request;
use injector_service::config::Settings;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};
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

#[tokio::test]
async fn a_certificate_with_several_names_counts_when_exactly_one_of_them_may_call() {
    let (upstream, clients) = (Upstream::start().await, Pki::new());
    let pair = pair(&upstream, |settings| {
        secured(settings, &clients);
        settings.callers.caller.push("spiffe://test/second=dev/*".into());
    })
    .await;
    for (other, expected) in [
        ("spiffe://test/unknown", (200, "")),
        ("spiffe://test/second", (401, "UNAUTHENTICATED")),
    ] {
        let several = clients.leaf(&Leaf {
            uris: vec![PROGRAM.to_owned(), other.to_owned()],
            ..Pki::blank()
        });
        let stream = connect(&pair, Some(&several), b"http/1.1").await;
        let answer = over_http1(stream, with_token("/dev/api/", None)).await;
        assert_eq!(outcome(&answer), expected, "{other}");
    }
    pair.stop().await;
}

#[tokio::test]
async fn the_removal_of_a_ca_ends_the_open_connections_of_its_callers() {
    let (upstream, old, new) = (Upstream::start().await, Pki::new(), Pki::new());
    let leaf = old.principal(PROGRAM);
    let volume = SecretVolume::new(&leaf, &[&old, &new]);
    let pair = pair(&upstream, |settings| {
        secured(settings, &old);
        settings.callers.data_plane_client_ca = Some(volume.ca());
    })
    .await;
    let mut of_old = connect(&pair, Some(&leaf), b"http/1.1").await;
    let of_new = connect(&pair, Some(&new.principal(PROGRAM)), b"http/1.1").await;
    volume.replace(&leaf, &[&new]);
    let ended = timeout(PATIENCE, of_old.read_u8()).await;
    assert!(ended.expect("the connection is still open").is_err());
    let answer = over_http1(of_new, with_token("/dev/api/", None)).await;
    assert_eq!(outcome(&answer), (200, ""));
    pair.stop().await;
}
