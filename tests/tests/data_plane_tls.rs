//! Tests of the data plane over TLS: calls, limits, and the handshake timeout.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chassis::tls::provider;
use e2e::{
    PATIENCE, Pair, Upstream,
    frames::{self, END_HEADERS, END_STREAM, GOAWAY, HEADERS, NO_ERROR, frame},
    pair::server,
};
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use injector_service::limits::LimitSettings;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const VALUE: &str = "canary-6e0d";

/// Starts both services, with TLS and these limits on the data plane and with the server `api` at `upstream`.
async fn pair(upstream: &str, limit: impl FnOnce(&mut LimitSettings)) -> Pair {
    let secured = |settings: &mut injector_service::config::Settings| {
        settings.data_plane_tls_cert.clone_from(&settings.tls.tls_cert);
        settings.data_plane_tls_key.clone_from(&settings.tls.tls_key);
        limit(&mut settings.limits);
    };
    let pair = Pair::start_with(|_| {}, secured).await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", VALUE).await;
    pair.injector
        .add(server("dev", "api", upstream, &["TOKEN"]))
        .await;
    pair
}

/// Returns the TLS configuration of a client that trusts the pair's CA and offers these protocols.
fn config(pair: &Pair, alpn: &[&str]) -> Arc<ClientConfig> {
    let ca = CertificateDer::from_pem_slice(pair.injector.pki.ca_pem().as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(ca).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

async fn connect(pair: &Pair, alpn: &[&str]) -> TlsStream<TcpStream> {
    let address = pair.injector.data_plane;
    let stream = TcpStream::connect(address).await.unwrap();
    let connecting = TlsConnector::from(config(pair, alpn)).connect(address.ip().into(), stream);
    connecting.await.unwrap()
}

/// Calls the server over the negotiated HTTP version.
async fn call(stream: TlsStream<TcpStream>) -> Response<Bytes> {
    let request = Request::get("https://localhost/dev/api/");
    let response = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => {
            let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            let (mut send, connection) = handshake.unwrap();
            tokio::spawn(connection);
            send.send_request(request.body(Full::<Bytes>::default()).unwrap())
                .await
        }
        _ => {
            let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let request = request.uri("/dev/api/").header("host", "localhost");
            send.send_request(request.body(Full::<Bytes>::default()).unwrap())
                .await
        }
    };
    let (parts, body) = response.unwrap().into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

/// Reads until the injector closes the connection, and returns how long that took.
async fn closed(stream: &mut TlsStream<TcpStream>) -> Duration {
    let started = Instant::now();
    // A connection may end with or without a TLS close_notify alert.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut Vec::new()))
        .await
        .expect("the connection was never closed");
    started.elapsed()
}

#[tokio::test]
async fn alpn_selects_the_http_version() {
    let upstream = Upstream::start().await;
    let pair = pair(&upstream.url(), |_| {}).await;
    for (offered, version) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["http/1.1", "h2"], Version::HTTP_2),
        (&["h2"], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let response = call(connect(&pair, offered).await).await;
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
        assert_eq!(upstream.last().header("x-mcp-secret-token"), Some(VALUE));
    }
    pair.stop().await;
}

#[tokio::test]
async fn cleartext_to_the_tls_listener_is_refused() {
    let upstream = Upstream::start().await;
    let pair = pair(&upstream.url(), |_| {}).await;
    let mut stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    let head = b"GET /dev/api/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"));
    assert_eq!(upstream.seen().len(), 0);
    pair.stop().await;
}

#[tokio::test]
async fn a_stalled_handshake_is_cut_off_and_delays_no_other_connection() {
    let upstream = Upstream::start().await;
    let pair = pair(&upstream.url(), |_| {}).await;
    let started = Instant::now();
    let mut silent = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    let mut begun = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    // The TLS record announces 512 bytes, which do not follow.
    begun.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    assert_eq!(call(connect(&pair, &["h2"]).await).await.status(), 200);
    for stalled in [&mut silent, &mut begun] {
        let _ = timeout(PATIENCE, stalled.read_to_end(&mut Vec::new()))
            .await
            .expect("it is waited for without an end");
    }
    assert!(started.elapsed() >= chassis::listen::HANDSHAKE_TIMEOUT);
    pair.stop().await;
}

#[tokio::test]
async fn timeouts_apply_over_tls() {
    let upstream = Upstream::start().await;
    let pair = pair(&upstream.url(), |limits| {
        limits.idle_timeout = "600ms".into();
        limits.head_timeout = "300ms".into();
    })
    .await;
    for alpn in ["http/1.1", "h2"] {
        let mut idle = connect(&pair, &[alpn]).await;
        assert!(closed(&mut idle).await >= Duration::from_millis(300), "{alpn}");
    }
    let mut slow = connect(&pair, &["http/1.1"]).await;
    slow.write_all(b"GET /dev/api/ HT").await.unwrap();
    closed(&mut slow).await;
    // Over HTTP/2 the client gets a GOAWAY frame before the connection is closed.
    let mut idle = frames::connect_tls(pair.injector.data_plane, config(&pair, &["h2"])).await;
    let call = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &frames::request("GET", "/dev/api/"),
    );
    idle.write_all(&call).await.unwrap();
    assert!(frames::next(&mut idle, HEADERS).await.is_some());
    let left = frames::next(&mut idle, GOAWAY).await.expect("it was not told");
    assert_eq!(left.code(), NO_ERROR);
    assert_eq!(upstream.seen().len(), 1);
    pair.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut_off_over_tls() {
    // The upstream answers with more bytes than fit into the buffers on the way.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let upstream = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        while stream.write_all(&[b'x'; 64 * 1024]).await.is_ok() {}
    });
    let pair = pair(&url, |limits| limits.write_timeout = "400ms".into()).await;
    let mut slow = connect(&pair, &["http/1.1"]).await;
    slow.write_all(b"GET /dev/api/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    timeout(PATIENCE, upstream)
        .await
        .expect("the upstream is never rid of it")
        .unwrap();
    drop(slow);
    pair.stop().await;
}

#[tokio::test]
async fn a_websocket_works_over_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 4096];
        let count = stream.read(&mut head).await.unwrap();
        assert!(String::from_utf8_lossy(&head[..count]).contains(VALUE));
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(switch).await.unwrap();
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    });
    let pair = pair(&url, |_| {}).await;
    let mut socket = connect(&pair, &["http/1.1"]).await;
    let asked =
        b"GET /dev/api/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    socket.write_all(asked).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, socket.read_u8()).await.unwrap().unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    for bytes in [&b"echo"[..], &[0, 255, 13, 10]] {
        socket.write_all(bytes).await.unwrap();
        let mut back = vec![0; bytes.len()];
        timeout(PATIENCE, socket.read_exact(&mut back))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(back, bytes);
    }
    drop(socket);
    pair.stop().await;
}
