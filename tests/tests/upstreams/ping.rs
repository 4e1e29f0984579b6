//! PING frames on HTTP/2 connections to upstreams: their interval, and the effect of a late acknowledgement.

use std::time::{Duration, Instant};

use bytes::Bytes;
use e2e::{
    PATIENCE, Pair,
    frames::{
        self, ACK, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, PING, PREFACE, SETTINGS,
        STATUS_200, frame, go_away,
    },
    pair::server,
};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use proto::injector::v1::{Protocol, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};

const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(3);

/// Starts a pair with the server `dev/api` at `listener`, to which PING frames are sent soon. The secret is too short
/// for a placeholder, so that each connection carries one call.
async fn pair(listener: &TcpListener) -> Pair {
    let pair = Pair::start_with(
        |_| {},
        |settings| {
            settings.limits.keepalive.upstream_ping_interval = "1s".to_owned();
            settings.limits.keepalive.upstream_ping_timeout = "3s".to_owned();
        },
    )
    .await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", "short").await;
    let url = format!("http://{}", listener.local_addr().unwrap());
    let described = Server {
        protocol: Protocol::Http2.into(),
        ..server("dev", "api", &url, &["TOKEN"])
    };
    pair.injector.add(described).await;
    pair
}

/// Calls `dev/api`. The result is the whole body, or None when the body broke off.
fn call(pair: &Pair) -> JoinHandle<Option<Bytes>> {
    let request = Request::get(pair.injector.url("/dev/api/"))
        .body(Full::<Bytes>::default())
        .unwrap();
    tokio::spawn(async move {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.unwrap();
        Some(response.into_body().collect().await.ok()?.to_bytes())
    })
}

async fn ended(call: JoinHandle<Option<Bytes>>) -> Option<Bytes> {
    timeout(PATIENCE, call).await.expect("it never ended").unwrap()
}

/// Accepts a call, and begins the response.
async fn answering(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    frames::next(&mut stream, HEADERS).await.unwrap();
    let head = frame(HEADERS, END_HEADERS, 1, &[STATUS_200]);
    stream.write_all(&head).await.unwrap();
    stream
}

/// Waits for a PING frame. Returns its payload and the time that it took.
async fn ping(stream: &mut TcpStream) -> (Vec<u8>, Duration) {
    let began = Instant::now();
    let ping = frames::next(stream, PING).await.expect("no PING came");
    (ping.payload, began.elapsed())
}

#[tokio::test]
async fn a_quiet_upstream_gets_pings_and_fewer_after_enhance_your_calm() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pair = pair(&listener).await;
    for interval in [INTERVAL, 2 * INTERVAL, 4 * INTERVAL] {
        let calling = call(&pair);
        let mut stream = answering(&listener).await;
        for _ in 0..2 {
            let (payload, after) = ping(&mut stream).await;
            // hyper measures from the head of the response, which may be a little earlier.
            let least = interval - Duration::from_millis(100);
            assert!((least..2 * interval).contains(&after), "{after:?}");
            stream.write_all(&frame(PING, ACK, 0, &payload)).await.unwrap();
        }
        stream.write_all(&go_away(1, ENHANCE_YOUR_CALM)).await.unwrap();
        drop(stream);
        assert_eq!(ended(calling).await, None);
    }
}

#[tokio::test]
async fn a_late_ping_acknowledgement_keeps_the_streams_and_a_missing_one_ends_them() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pair = pair(&listener).await;
    let calling = call(&pair);
    let mut stream = answering(&listener).await;
    let (payload, _) = ping(&mut stream).await;
    sleep(TIMEOUT - Duration::from_secs(1)).await;
    let rest = [frame(PING, ACK, 0, &payload), frame(DATA, END_STREAM, 1, b"late")];
    stream.write_all(&rest.concat()).await.unwrap();
    assert_eq!(ended(calling).await.as_deref(), Some(&b"late"[..]));

    let calling = call(&pair);
    let mut stream = answering(&listener).await;
    ping(&mut stream).await;
    let asked = Instant::now();
    assert_eq!(ended(calling).await, None);
    assert!((TIMEOUT - INTERVAL..2 * TIMEOUT).contains(&asked.elapsed()));
}
