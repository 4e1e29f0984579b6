//! Every call gets its secrets as they are when it starts: after rotations, deletions and restarts of the vault.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up should say so at once"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use e2e::{
    Injector, PATIENCE, Pair, Pki, Upstream, Vault, eventually,
    pair::{send, server},
};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::{
    injector::v1::{AuthType, Protocol, Server},
    vault::v1::DeleteWorkspaceRequest,
};
use tokio::{net::TcpStream, time::timeout};

/// Starts an upstream that responds with the secret that it got.
async fn echo() -> Upstream {
    Upstream::answering(|seen| {
        let secret = seen.header("x-mcp-secret-token").unwrap_or("none").to_owned();
        Response::new(Full::from(secret))
    })
    .await
}

/// Starts a pair with the secret `TOKEN` and the server `dev/echo`, which gets the secret over `protocol`.
async fn dev(upstream: &Upstream, protocol: Protocol) -> Pair {
    let pair = Pair::start().await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", value(1)).await;
    let echo = server("dev", "echo", &upstream.url(), &["TOKEN"]);
    pair.injector
        .add(Server {
            protocol: protocol.into(),
            ..echo
        })
        .await;
    pair
}

/// Returns the value of a version. It is long, so that a test would notice half of a value.
fn value(version: u64) -> String {
    format!("{version}-{}", version.to_string().repeat(500))
}

/// Returns the version of a value, which must be whole.
fn version(text: &str) -> u64 {
    let version = text.split_once('-').unwrap().0.parse().unwrap();
    assert_eq!(text, value(version), "a value that nobody put");
    version
}

/// A persistent connection to the data plane.
enum Downstream {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Downstream {
    async fn connect(pair: &Pair, http2: bool) -> Self {
        let stream = TokioIo::new(TcpStream::connect(pair.injector.data_plane).await.unwrap());
        if http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            Self::Http1(sender)
        }
    }

    /// Sends a GET request to the server `echo`.
    async fn get(&mut self) -> (u16, String) {
        timeout(PATIENCE, self.unbounded_get())
            .await
            .expect("the call was never answered")
    }

    async fn unbounded_get(&mut self) -> (u16, String) {
        let request = |uri: &str| Request::get(uri).body(Full::default()).unwrap();
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await.expect("the connection is kept");
                let mut request = request("/dev/echo/");
                request.headers_mut().insert("host", "localhost".parse().unwrap());
                sender.send_request(request).await
            }
            Self::Http2(sender) => sender.send_request(request("http://localhost/dev/echo/")).await,
        };
        let response = response.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

fn refusal(response: &Response<Bytes>) -> (u16, &str) {
    let reason = response
        .headers()
        .get("x-aerostack-reason")
        .map_or("", |reason| reason.to_str().unwrap());
    (response.status().as_u16(), reason)
}

#[tokio::test]
async fn a_rotation_takes_effect_with_the_next_call() {
    for (protocol, http2) in [
        (Protocol::Http1, false),
        (Protocol::Http2, true),
        (Protocol::Http1, true),
    ] {
        let upstream = echo().await;
        let pair = dev(&upstream, protocol).await;
        let mut downstream = Downstream::connect(&pair, http2).await;
        for version in 1..=20 {
            pair.vault.put("dev", "TOKEN", value(version)).await;
            assert_eq!(downstream.get().await, (200, value(version)));
        }
        pair.stop().await;
    }
}

#[tokio::test]
async fn a_deletion_takes_effect_with_the_next_call() {
    let upstream = echo().await;
    let pair = dev(&upstream, Protocol::Auto).await;
    let mut downstream = Downstream::connect(&pair, false).await;
    for version in 1..=3 {
        pair.vault.put("dev", "TOKEN", value(version)).await;
        assert_eq!(downstream.get().await, (200, value(version)));
        pair.vault.delete("dev", "TOKEN").await;
        assert_eq!(downstream.get().await, (200, "none".to_owned()));
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_of_many_concurrent_calls_gets_a_whole_value_no_older_than_its_start() {
    const ROTATIONS: u64 = 60;
    let upstream = echo().await;
    let pair = dev(&upstream, Protocol::Auto).await;
    // The version of the last put that has returned.
    let current = Arc::new(AtomicU64::new(1));
    let mut callers = Vec::new();
    for number in 0..8 {
        let mut downstream = Downstream::connect(&pair, number % 2 == 0).await;
        let current = current.clone();
        callers.push(tokio::spawn(async move {
            let (mut calls, mut versions) = (0, std::collections::BTreeSet::new());
            loop {
                let at_start = current.load(Ordering::SeqCst);
                let (status, text) = downstream.get().await;
                assert_eq!(status, 200, "{text}");
                let got = version(&text);
                assert!(
                    got >= at_start,
                    "version {got}, though {at_start} had been put before the call"
                );
                // A put that has not returned may already be visible.
                assert!(got <= current.load(Ordering::SeqCst) + 1);
                calls += 1;
                versions.insert(got);
                if at_start == ROTATIONS {
                    return (calls, versions.len());
                }
            }
        }));
    }
    for version in 2..=ROTATIONS {
        pair.vault.put("dev", "TOKEN", value(version)).await;
        current.store(version, Ordering::SeqCst);
    }
    for caller in callers {
        let (calls, versions) = timeout(PATIENCE, caller).await.unwrap().unwrap();
        assert!(
            calls > 5 && versions > 5,
            "the calls ran beside the puts: {calls} calls saw {versions} versions"
        );
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_recreated_workspace_is_a_different_workspace() {
    let upstream = echo().await;
    let pair = dev(&upstream, Protocol::Auto).await;
    assert_eq!(pair.injector.get("/dev/echo/").await.body(), value(1).as_bytes());
    let request = DeleteWorkspaceRequest {
        name: "dev".into(),
        force: true,
        ..Default::default()
    };
    pair.vault.workspaces().delete_workspace(request).await.unwrap();
    assert_eq!(
        refusal(&pair.injector.get("/dev/echo/").await),
        (404, "WORKSPACE_NOT_FOUND")
    );

    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", value(2)).await;
    assert_eq!(
        refusal(&pair.injector.get("/dev/echo/").await),
        (502, "WORKSPACE_REPLACED")
    );
    assert_eq!(upstream.seen().len(), 1);
    // A server that is added now belongs to the new workspace.
    pair.injector
        .add(server("dev", "other", &upstream.url(), &["TOKEN"]))
        .await;
    assert_eq!(pair.injector.get("/dev/other/").await.body(), value(2).as_bytes());
    assert_eq!(
        refusal(&pair.injector.get("/dev/echo/").await),
        (502, "WORKSPACE_REPLACED")
    );
    pair.stop().await;
}

#[tokio::test]
async fn a_recreated_workspace_is_a_different_one_for_servers_of_a_file() {
    let upstream = echo().await;
    let pki = Pki::new();
    let vault = Vault::start_with(pki.clone(), |_| {}).await;
    vault.workspace("dev").await;
    vault.put("dev", "TOKEN", value(1)).await;
    let url = upstream.url();
    let written = move |settings: &mut injector_service::config::Settings| {
        let yaml = format!(
            "version: 1\nservers:\n- workspace: dev\n  name: echo\n  url: {url}\n  injections:\n  - secret: TOKEN\n"
        );
        std::fs::write(settings.servers.as_ref().unwrap(), yaml).unwrap();
    };
    let injector = Injector::start_with(pki, vault.address, written).await;
    injector.ready().await;
    assert_eq!(injector.get("/dev/echo/").await.body(), value(1).as_bytes());
    let request = DeleteWorkspaceRequest {
        name: "dev".into(),
        force: true,
        ..Default::default()
    };
    vault.workspaces().delete_workspace(request).await.unwrap();
    vault.workspace("dev").await;
    vault.put("dev", "TOKEN", value(2)).await;
    assert_eq!(
        refusal(&injector.get("/dev/echo/").await),
        (502, "WORKSPACE_REPLACED")
    );
    assert_eq!(upstream.seen().len(), 1);
    injector.stop().await;
    vault.stop().await;
}

#[tokio::test]
async fn calls_fail_without_the_vault_and_succeed_after_its_return() {
    let upstream = echo().await;
    let pki = Pki::new();
    let vault = Vault::start_with(pki.clone(), |settings| {
        settings.process.shutdown_grace = "100ms".into()
    })
    .await;
    // The worker threads of the injector have a stream to the vault each. A thread pauses for up to a second before it
    // connects again, which is less than the default time limit for the vault.
    let injector = Injector::start(pki.clone(), vault.address).await;
    injector.ready().await;
    vault.workspace("dev").await;
    vault.put("dev", "TOKEN", value(1)).await;
    for (name, auth_type, secrets) in [
        ("echo", AuthType::SecretHeaders, &["TOKEN"][..]),
        ("bearer", AuthType::Bearer, &["MISSING"]),
        ("bare", AuthType::SecretHeaders, &[]),
    ] {
        let described = server("dev", name, &upstream.url(), secrets);
        injector
            .add(Server {
                auth_type: auth_type.into(),
                ..described
            })
            .await;
    }
    assert_eq!(injector.get("/dev/echo/").await.body(), value(1).as_bytes());

    let (address, dir) = (vault.address, vault.dir.clone());
    vault.stop().await;
    let seen = upstream.seen().len();
    for path in ["/dev/echo/", "/dev/bearer/"] {
        let response = injector.get(path).await;
        assert_eq!(refusal(&response), (503, "VAULT_UNAVAILABLE"), "{path}");
        assert_eq!(response.headers()["retry-after"], "1");
        assert!(!String::from_utf8_lossy(response.body()).contains(&address.to_string()));
    }
    assert_eq!(upstream.seen().len(), seen);
    // A call without secrets does not need the vault.
    assert_eq!(injector.get("/dev/bare/").await.body(), "none");
    let readiness = send(injector.metrics, Request::get("/readyz"), "").await;
    assert_eq!(readiness.status(), 503);

    let vault = Vault::open(pki, dir, |settings| settings.listen = address.to_string()).await;
    eventually("the injector finds its vault again", async || {
        injector.get("/dev/echo/").await.status() == 200
    })
    .await;
    assert_eq!(
        upstream.last().header("x-mcp-secret-token"),
        Some(value(1).as_str())
    );
    vault.put("dev", "TOKEN", value(2)).await;
    assert_eq!(injector.get("/dev/echo/").await.body(), value(2).as_bytes());
    injector.ready().await;
    injector.stop().await;
    vault.stop().await;
}

#[tokio::test]
async fn an_injector_without_a_vault_sends_nothing() {
    let upstream = echo().await;
    let pki = Pki::new();
    // The vault's port accepts connections, and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = upstream.url();
    let written = move |settings: &mut injector_service::config::Settings| {
        let yaml = format!(
            "version: 1\nservers:\n- workspace: dev\n  name: echo\n  url: {url}\n  injections:\n  - secret: TOKEN\n"
        );
        std::fs::write(settings.servers.as_ref().unwrap(), yaml).unwrap();
        settings.limits.vault_timeout = "200ms".into();
    };
    let injector = Injector::start_with(pki, silent.local_addr().unwrap(), written).await;
    let started = std::time::Instant::now();
    let response = injector.get("/dev/echo/").await;
    assert_eq!(refusal(&response), (503, "VAULT_UNAVAILABLE"));
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(
        send(injector.metrics, Request::get("/readyz"), "").await.status(),
        503
    );
    assert_eq!(
        send(injector.metrics, Request::get("/livez"), "").await.status(),
        200
    );
    assert_eq!(upstream.seen().len(), 0);
    injector.stop().await;
}
