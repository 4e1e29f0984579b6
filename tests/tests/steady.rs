//! The memory, descriptors, threads and tasks of the services do not grow with the number of calls.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use e2e::{Pair, eventually, pair::server, process};
use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use proto::injector::v1::{AuthType, Protocol, Server};
use tokio::{net::TcpListener, time::sleep};

/// The number of concurrent calls.
const AT_ONCE: usize = 20;

type Caller = Client<HttpConnector, Full<Bytes>>;

/// Starts an upstream that responds to each request after the request's end, and keeps no record of it. Requests for
/// `/together` get their response so late that other requests arrive first.
async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let calls = service_fn(|request: Request<Incoming>| async {
                if request.uri().path() == "/together" {
                    sleep(Duration::from_millis(50)).await;
                }
                let injected = request.headers().contains_key("x-mcp-secret-token");
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let injected = injected || body.windows(6).any(|bytes| bytes == b"canary");
                let status = if injected { 200 } else { 500 };
                let response = Response::builder().status(status).body(Full::<Bytes>::from("ok"));
                Ok::<_, Infallible>(response.unwrap())
            });
            let http = auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { http.serve_connection(TokioIo::new(stream), calls).await.is_ok() });
        }
    });
    address
}

#[derive(Debug)]
struct Resources {
    memory: usize,
    descriptors: usize,
    threads: usize,
    tasks: usize,
}

impl Resources {
    fn now() -> Self {
        Self {
            memory: process::resident(),
            descriptors: process::descriptors(),
            threads: process::threads(),
            tasks: process::tasks(),
        }
    }
}

/// The servers, named by their protocol or auth type.
const SERVERS: [&str; 3] = ["http1", "http2", "skill"];

async fn call(pair: &Pair, caller: &Caller, path: &str) {
    let request = Request::post(pair.injector.url(path))
        .header("content-type", "application/json")
        .body(Full::from("{\"a\":1}"))
        .unwrap();
    let response = caller.request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.into_body().collect().await.unwrap();
}

/// Opens as many connections of each kind as the test ever uses.
async fn connect_all(pair: &Pair, callers: &[Caller; 2]) {
    for server in SERVERS {
        for caller in callers {
            let path = format!("/dev/{server}/together");
            join_all((0..AT_ONCE).map(|_| call(pair, caller, &path))).await;
        }
    }
}

/// Makes calls with every combination of versions, header secrets and body secrets.
async fn call_all(pair: &Pair, callers: &[Caller; 2], calls: usize) {
    let each = join_all((0..AT_ONCE).map(|number| async move {
        for at in (number..calls).step_by(AT_ONCE) {
            let path = format!("/dev/{}/{}", SERVERS[at % 3], at % 10);
            call(pair, &callers[at / 3 % 2], &path).await;
        }
    }));
    each.await;
}

#[tokio::test]
async fn many_calls_do_not_increase_the_resources_in_use() {
    const WARM: usize = 2_000;
    let calls = std::env::var("AEROSTACK_STEADY_CALLS").map_or(20_000, |calls| calls.parse().unwrap());
    let (pair, upstream) = (Pair::start().await, upstream().await);
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", "canary-e6f0").await;
    for (name, protocol, auth_type) in [
        ("http1", Protocol::Http1, AuthType::SecretHeaders),
        ("http2", Protocol::Http2, AuthType::SecretHeaders),
        ("skill", Protocol::Http1, AuthType::Skill),
    ] {
        let described = Server {
            protocol: protocol.into(),
            auth_type: auth_type.into(),
            ..server("dev", name, &format!("http://{upstream}"), &["TOKEN"])
        };
        pair.injector.add(described).await;
    }
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let caller = |http2| {
        Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .pool_max_idle_per_host(AT_ONCE)
            .build(connector.clone())
    };
    let callers = [caller(false), caller(true)];
    connect_all(&pair, &callers).await;
    call_all(&pair, &callers, WARM).await;
    let warm = Resources::now();
    call_all(&pair, &callers, calls - WARM).await;
    // Some connections and tasks may end a little later.
    eventually("tasks and descriptors are as before", async || {
        let now = Resources::now();
        now.descriptors <= warm.descriptors + 8 && now.tasks <= warm.tasks + 16
    })
    .await;
    let resources = Resources::now();
    assert!(
        resources.threads <= warm.threads + 2,
        "{warm:?} became {resources:?}"
    );
    assert!(
        resources.memory < warm.memory + (6 << 20),
        "{warm:?} became {resources:?}"
    );
}
