//! The vault closes a connection over which a value was put, and no client on the connection loses a call by that.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use e2e::{
    Vault, eventually,
    frames::{
        self, ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, NO_ERROR, PING, field, frame,
    },
    pki,
};
use futures_util::future::join_all;
use prost::Message;
use proto::vault::v1::{
    DecryptCall, DecryptRequest, DecryptStreamRequest, ListSecretsRequest, PutSecretRequest,
    decrypt_service_client::DecryptServiceClient, put_secret_request::Value,
    secret_service_client::SecretServiceClient,
};
use tokio::{
    io::{AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};

const PUT: &str = "/vault.v1.SecretService/PutSecret";
const LIST: &str = "/vault.v1.SecretService/ListSecrets";
/// The promised time until the connection is closed.
const SOON: Duration = Duration::from_secs(1);
/// The last stream in a first GOAWAY frame, after which the server still accepts calls that are under way (RFC 9113,
/// section 6.8).
const NO_STREAM_YET: u32 = 0x7fff_ffff;

async fn vault() -> Vault {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault
}

fn value(workspace: &str, name: &str) -> PutSecretRequest {
    PutSecretRequest {
        workspace: workspace.to_owned(),
        name: name.to_owned(),
        value: Some(Value::Text("canary-51c0".to_owned())),
        ..Default::default()
    }
}

fn all() -> ListSecretsRequest {
    ListSecretsRequest {
        workspace: "w".to_owned(),
        ..Default::default()
    }
}

// ---- frames that a client receives ----

struct Raw(TlsStream<TcpStream>);

impl Raw {
    async fn to(vault: &Vault, principal: &str) -> Self {
        let tls = vault.pki.tls(&vault.pki.principal(principal), pki::VAULT);
        Self(frames::connect_tls(vault.address, tls).await)
    }

    async fn begin(&mut self, stream: u32, path: &str) {
        let head = [
            frames::request("POST", path),
            field("content-type", "application/grpc"),
            field("te", "trailers"),
        ];
        self.send(&frame(HEADERS, END_HEADERS, stream, &head.concat()))
            .await;
    }

    async fn call(&mut self, stream: u32, path: &str, message: &impl Message) {
        self.begin(stream, path).await;
        self.send(&frame(DATA, END_STREAM, stream, &wire(message))).await;
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn next(&mut self, kind: u8) -> Option<Frame> {
        frames::next(&mut self.0, kind).await
    }

    /// Returns true when a call gets a message, and false when it gets a refusal.
    async fn is_answered(&mut self, stream: u32) -> bool {
        let mut message = false;
        loop {
            let read = timeout(e2e::PATIENCE, frames::read(&mut self.0)).await;
            let frame = read.expect("no answer came").unwrap();
            assert_ne!(frame.kind, GOAWAY, "closed while a call is under way");
            if frame.stream == stream {
                message |= frame.kind == DATA;
                if frame.flags & END_STREAM != 0 {
                    return message;
                }
            }
        }
    }

    async fn expect_first_goaway(&mut self) {
        let first = self.next(GOAWAY).await.expect("closed without a word");
        assert_eq!((last_stream(&first), first.code()), (NO_STREAM_YET, NO_ERROR));
    }

    /// Acknowledges the vault's PING, and waits until the connection is closed.
    async fn expect_close(mut self, last: u32) {
        let ping = self.next(PING).await.unwrap();
        self.send(&frame(PING, ACK, 0, &ping.payload)).await;
        let second = self.next(GOAWAY).await.unwrap();
        assert_eq!((last_stream(&second), second.code()), (last, NO_ERROR));
        assert!(self.next(GOAWAY).await.is_none());
    }
}

fn last_stream(goaway: &Frame) -> u32 {
    u32::from_be_bytes(goaway.payload[..4].try_into().unwrap())
}

fn wire(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &message].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_over_which_a_value_was_put_is_closed_within_a_second() {
    let vault = vault().await;
    let puts = [
        (pki::ADMIN, "w", true),
        // The value came nonetheless.
        (pki::ADMIN, "unknown", false),
        (pki::INJECTOR, "w", false),
        ("spiffe://test/stranger", "w", false),
    ];
    for (principal, workspace, taken) in puts {
        let mut connection = Raw::to(&vault, principal).await;
        connection.call(1, PUT, &value(workspace, "NAME")).await;
        assert_eq!(connection.is_answered(1).await, taken, "{principal}");
        let answered = Instant::now();
        connection.expect_first_goaway().await;
        connection.expect_close(1).await;
        assert!(answered.elapsed() < SOON, "{principal}: {:?}", answered.elapsed());
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_arrives_slowly_is_accepted() {
    let vault = vault().await;
    let mut connection = Raw::to(&vault, pki::ADMIN).await;
    connection.begin(1, PUT).await;
    let message = wire(&value("w", "NAME"));
    let (some, rest) = message.split_at(message.len() / 2);
    connection.send(&frame(DATA, 0, 1, some)).await;
    sleep(SOON).await;
    connection.send(&frame(DATA, END_STREAM, 1, rest)).await;
    assert!(connection.is_answered(1).await);
    connection.expect_first_goaway().await;
    connection.expect_close(1).await;
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_crosses_the_goaway_frame_is_answered() {
    let vault = vault().await;
    let mut connection = Raw::to(&vault, pki::ADMIN).await;
    connection.call(1, PUT, &value("w", "ONE")).await;
    assert!(connection.is_answered(1).await);
    connection.expect_first_goaway().await;
    let ping = connection.next(PING).await.unwrap();
    for (stream, name) in [(3, "TWO"), (5, "THREE")] {
        connection.call(stream, PUT, &value("w", name)).await;
        assert!(connection.is_answered(stream).await, "{name}");
    }
    connection.call(7, LIST, &all()).await;
    connection.send(&frame(PING, ACK, 0, &ping.payload)).await;
    let second = connection.next(GOAWAY).await.unwrap();
    assert_eq!((last_stream(&second), second.code()), (7, NO_ERROR));
    assert!(connection.is_answered(7).await);
    assert!(connection.next(GOAWAY).await.is_none());
    vault.stop().await;
}

/// The vault refuses a call at its deadline, like other gRPC servers (`PROTOCOL-HTTP2.md` of gRPC).
#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_at_the_deadline_of_its_client() {
    let vault = vault().await;
    let mut connection = Raw::to(&vault, pki::ADMIN).await;
    for (stream, path) in [(1, PUT), (3, LIST)] {
        let head = [
            frames::request("POST", path),
            field("content-type", "application/grpc"),
            field("grpc-timeout", "200m"),
        ];
        connection
            .send(&frame(HEADERS, END_HEADERS, stream, &head.concat()))
            .await;
        let began = Instant::now();
        assert!(!connection.is_answered(stream).await, "{path}");
        assert!(began.elapsed() >= Duration::from_millis(200), "{path}");
    }
    vault.stop().await;
}

// ---- calls of a client library ----

/// A TCP proxy before a vault, which counts its connections.
struct CountingProxy {
    address: SocketAddr,
    made: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl CountingProxy {
    async fn start(vault: &Vault) -> Self {
        let (listener, onward) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), vault.address);
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            made: Arc::default(),
            open: Arc::default(),
        };
        let (made, open) = (proxy.made.clone(), proxy.open.clone());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                made.fetch_add(1, SeqCst);
                open.fetch_add(1, SeqCst);
                let open = open.clone();
                tokio::spawn(async move {
                    let mut onward = TcpStream::connect(onward).await.unwrap();
                    onward.set_nodelay(true).unwrap();
                    stream.set_nodelay(true).unwrap();
                    // Either side may close the connection or reset it.
                    let _ = copy_bidirectional(&mut stream, &mut onward).await;
                    open.fetch_sub(1, SeqCst);
                });
            }
        });
        proxy
    }

    fn channel(&self, vault: &Vault, principal: &str) -> Channel {
        let files = vault.pki.principal(principal);
        vault.pki.channel(&files, self.address, pki::VAULT)
    }

    fn connections(&self) -> (usize, usize) {
        (self.made.load(SeqCst), self.open.load(SeqCst))
    }

    async fn wait_until_closed(&self) {
        eventually("the connections are closed", async || self.connections().1 == 0).await;
    }
}

async fn put(channel: Channel, name: String) -> Result<(), Status> {
    let put = SecretServiceClient::new(channel)
        .put_secret(value("w", &name))
        .await;
    put.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_over_one_channel_never_fail() {
    const WRITERS: usize = 64;
    const ROUNDS: usize = 4;
    let vault = vault().await;
    let proxy = CountingProxy::start(&vault).await;
    let channel = proxy.channel(&vault, pki::ADMIN);
    for _ in 0..ROUNDS {
        for _ in 0..100 {
            put(channel.clone(), "ONE".to_owned()).await.unwrap();
        }
        let writers = (0..WRITERS).map(|writer| {
            let channel = channel.clone();
            async move {
                for _ in 0..20 {
                    put(channel.clone(), format!("S{writer}")).await?;
                }
                Ok::<_, Status>(())
            }
        });
        for written in join_all(writers).await {
            written.unwrap();
        }
        proxy.wait_until_closed().await;
    }
    // Puts that follow each other closely share a connection, so each round needs few of them.
    let (made, _) = proxy.connections();
    assert!((ROUNDS..5 * ROUNDS).contains(&made), "{made}");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_over_which_no_value_was_put_stays_open() {
    let vault = vault().await;
    vault.put("w", "NAME", "canary-51c0").await;
    let proxy = CountingProxy::start(&vault).await;
    let mut secrets = SecretServiceClient::new(proxy.channel(&vault, pki::ADMIN));
    let mut decrypts = DecryptServiceClient::new(proxy.channel(&vault, pki::INJECTOR));
    for _ in 0..3 {
        secrets.list_secrets(all()).await.unwrap();
        decrypts.decrypt(ask()).await.unwrap();
        sleep(SOON).await;
        assert_eq!(proxy.connections(), (2, 2));
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_on_the_connection_of_a_put_is_not_cut_off() {
    let vault = vault().await;
    vault.put("w", "NAME", "canary-51c0").await;
    let proxy = CountingProxy::start(&vault).await;
    let channel = proxy.channel(&vault, pki::INJECTOR);
    let (calls, queue) = mpsc::channel(1);
    let mut answers = DecryptServiceClient::new(channel.clone())
        .decrypt_stream(ReceiverStream::new(queue))
        .await
        .unwrap()
        .into_inner();
    let refused = put(channel.clone(), "NAME".to_owned()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    for id in 0..3 {
        sleep(SOON).await;
        let request = Some(ask());
        let message = DecryptStreamRequest {
            calls: vec![DecryptCall { id, request }],
            recipient: None,
        };
        calls.send(message).await.unwrap();
        let message = timeout(e2e::PATIENCE, answers.message()).await.unwrap();
        assert_eq!(message.unwrap().unwrap().answers[0].id, id);
    }
    assert_eq!(proxy.connections(), (1, 1));
    drop((calls, answers));
    proxy.wait_until_closed().await;
    vault.stop().await;
}

fn ask() -> DecryptRequest {
    DecryptRequest {
        workspace: "w".to_owned(),
        names: vec!["NAME".to_owned()],
        ..Default::default()
    }
}
