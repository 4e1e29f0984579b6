//! Clients that have not authenticated or hold no role use few resources and do not block other clients.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod wire;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use chassis::listen::HANDSHAKE_TIMEOUT;
use e2e::{
    Injector, Pair, Pki, Vault, eventually,
    frames::{self, SETTINGS},
    pair::server,
    pki,
};
use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::{Code, transport::Channel};
use tonic_types::StatusExt as _;

/// More handshakes than a listener allows at once.
const HANDSHAKES: usize = 1_100;
/// More connections than a listener allows to clients without a role.
const CONNECTIONS: usize = 300;
/// A time in which connections end only to make room, because every other timeout is longer.
const SOON: Duration = Duration::from_secs(8);

const WATCH: &str = "/grpc.health.v1.Health/Watch";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const STRANGER: &str = "spiffe://test/stranger";

async fn silent(address: SocketAddr) -> Vec<TcpStream> {
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    silent
}

async fn is_closed_soon(stream: &mut (impl AsyncRead + Unpin)) {
    const { assert!(SOON.as_secs() < HANDSHAKE_TIMEOUT.as_secs()) };
    let ended = timeout(SOON, stream.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "the oldest connection was not closed");
}

/// Checks that the client on `channel` gets an answer soon.
async fn is_served(channel: &Channel) {
    let call = wire::open(channel, CHECK, Bytes::new());
    timeout(SOON, call).await.expect("nobody is served").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_make_room_for_an_administrator() {
    let vault = Vault::start().await;
    let injector = Injector::start(vault.pki.clone(), vault.address).await;
    for (address, admin) in [
        (vault.address, vault.channel(pki::ADMIN)),
        (injector.address, injector.channel(pki::ADMIN)),
    ] {
        let mut silent = silent(address).await;
        is_closed_soon(&mut silent[0]).await;
        is_served(&admin).await;
    }
    injector.stop().await;
    vault.stop().await;
}

fn anonymous(pki: &Pki) -> Arc<ClientConfig> {
    Arc::new(wire::anonymous_tls(pki, &[&rustls::version::TLS13]))
}

/// Reads the other end's `SETTINGS_MAX_CONCURRENT_STREAMS` (RFC 9113, section 6.5.2).
async fn streams_at_once(stream: &mut (impl AsyncRead + Unpin)) -> u32 {
    let settings = frames::next(stream, SETTINGS).await.unwrap();
    let value = settings.payload.chunks(6).find(|setting| setting[..2] == [0, 3]);
    u32::from_be_bytes(value.unwrap()[2..].try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_a_role_get_few_connections_with_few_streams() {
    let vault = Vault::start().await;
    let stranger = vault.pki.tls(&vault.pki.principal(STRANGER), pki::VAULT);
    let admin = vault.pki.tls(&vault.pki.principal(pki::ADMIN), pki::VAULT);
    let mut first = Vec::new();
    for (tls, streams) in [(admin, 1_000), (anonymous(&vault.pki), 8), (stranger.clone(), 8)] {
        let mut connection = frames::connect_tls(vault.address, tls).await;
        assert_eq!(streams_at_once(&mut connection).await, streams);
        first.push(connection);
    }
    let mut later = Vec::new();
    for _ in 0..CONNECTIONS {
        later.push(frames::connect_tls(vault.address, stranger.clone()).await);
    }
    is_closed_soon(&mut first[1]).await;
    is_closed_soon(&mut first[2]).await;
    let kept = timeout(Duration::from_millis(100), first[0].read_to_end(&mut Vec::new())).await;
    assert!(kept.is_err(), "the administrator's connection was closed");
    is_served(&vault.channel(pki::ADMIN)).await;
    is_served(&wire::anonymous(&vault.pki, vault.address)).await;
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watches_of_a_principal_are_limited_without_effect_on_others() {
    let vault = Vault::start().await;
    let (admin, injector) = (vault.channel(pki::ADMIN), vault.channel(pki::INJECTOR));
    let watch = async || wire::open(&admin, WATCH, Bytes::new()).await;
    let mut watches = Vec::new();
    for _ in 0..128 {
        watches.push(watch().await.unwrap());
    }
    let refused = watch().await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "LIMIT_EXCEEDED");
    wire::open(&admin, CHECK, Bytes::new()).await.unwrap();
    wire::open(&injector, WATCH, Bytes::new()).await.unwrap();
    watches.pop();
    eventually("a watch that ended makes room", async || watch().await.is_ok()).await;
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_the_health_service_is_short() {
    let vault = Vault::start().await;
    let anonymous = wire::anonymous(&vault.pki, vault.address);
    let long = Bytes::from(vec![0; 5_000]);
    let refused = wire::open(&anonymous, CHECK, long).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    vault.stop().await;
}

async fn ask(pair: &Pair, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(pair.injector.data_plane).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn status_line(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut line = vec![0; 12];
    let read = timeout(SOON, stream.read_exact(&mut line)).await;
    read.expect("no answer came").unwrap();
    String::from_utf8(line).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_of_the_data_plane_makes_room_and_a_busy_one_does_not() {
    let pair = Pair::start_with(
        |_| {},
        |settings| settings.limits.max_connections = "2".to_owned(),
    )
    .await;
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    pair.vault.workspace("dev").await;
    let url = format!("http://{}", upstream.local_addr().unwrap());
    pair.injector.add(server("dev", "api", &url, &[])).await;
    let mut busy = ask(&pair, "/dev/api/").await;
    let (mut its, _) = upstream.accept().await.unwrap();
    let mut idle = ask(&pair, "/dev/none/").await;
    assert_eq!(status_line(&mut idle).await, "HTTP/1.1 404");
    for _ in 0..3 {
        let mut newcomer = ask(&pair, "/dev/none/").await;
        assert_eq!(status_line(&mut newcomer).await, "HTTP/1.1 404");
        is_closed_soon(&mut idle).await;
        idle = newcomer;
    }
    its.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(status_line(&mut busy).await, "HTTP/1.1 200");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_make_room_on_a_data_plane_with_tls() {
    let pair = Pair::start_with(
        |_| {},
        |settings| {
            settings.data_plane_tls_cert.clone_from(&settings.tls.tls_cert);
            settings.data_plane_tls_key.clone_from(&settings.tls.tls_key);
        },
    )
    .await;
    let address = pair.injector.data_plane;
    let mut silent = silent(address).await;
    is_closed_soon(&mut silent[0]).await;
    let mut tls = wire::anonymous_tls(&pair.injector.pki, &[&rustls::version::TLS13]);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let connecting = TlsConnector::from(Arc::new(tls)).connect(address.ip().into(), stream);
    let mut stream = timeout(SOON, connecting)
        .await
        .expect("nobody is served")
        .unwrap();
    stream
        .write_all(b"GET /dev/none/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(status_line(&mut stream).await, "HTTP/1.1 404");
    pair.stop().await;
}
