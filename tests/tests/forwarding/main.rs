//! Requests and responses pass the injector whole, and with one unambiguous framing in each version of HTTP.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod answers;
mod early;
mod malformed;
mod requests;

use std::net::SocketAddr;

use bytes::Bytes;
use e2e::{PATIENCE, Pair, pair::server};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use injector_service::limits::LimitSettings;
use proto::injector::v1::{AuthType, Protocol, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// The value of `TOKEN`.
const VALUE: &str = "canary-71c8aa";

/// Starts a pair with the secret `TOKEN` and the servers `s`, `skill` and, over HTTP/2, `h2`, which are all at
/// `upstream`.
async fn dev(upstream: SocketAddr) -> Pair {
    limited(upstream, |_| {}).await
}

async fn limited(upstream: SocketAddr, limit: impl FnOnce(&mut LimitSettings)) -> Pair {
    let pair = Pair::start_with(|_| {}, |settings| limit(&mut settings.limits)).await;
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", VALUE).await;
    for (name, auth_type, protocol) in [
        ("s", AuthType::SecretHeaders, Protocol::Http1),
        ("skill", AuthType::Skill, Protocol::Http1),
        ("h2", AuthType::SecretHeaders, Protocol::Http2),
    ] {
        let server = Server {
            auth_type: auth_type.into(),
            protocol: protocol.into(),
            ..server("dev", name, &format!("http://{upstream}"), &["TOKEN"])
        };
        pair.injector.add(server).await;
    }
    pair
}

/// Starts an upstream that responds to each head with these bytes, and keeps the connection open.
async fn playing(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                while head(&mut stream).await.is_some() {
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Returns the next head on a connection, or None when the connection ends. Nothing may follow the head at once.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut buffer, mut searched) = (Vec::new(), [0; 4096], 0);
    // A long body that follows a head is searched as well, so each byte is searched only once.
    while !head[searched..].windows(4).any(|end| end == b"\r\n\r\n") {
        searched = head.len().saturating_sub(3);
        let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        head.extend_from_slice(&buffer[..count]);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// A response, as far as it arrived.
struct Answer {
    head: Response<()>,
    body: Vec<u8>,
    trailers: HeaderMap,
    whole: bool,
}

/// Sends a GET request with `TE: trailers` over HTTP/1.1 or HTTP/2. Returns None when no head arrives.
async fn get(pair: &Pair, path: &str, http2: bool) -> Option<Answer> {
    let client = Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .http1_max_headers(1000)
        .http2_max_header_list_size(1 << 20)
        .build_http::<Full<Bytes>>();
    let request = Request::get(pair.injector.url(path)).header("te", "trailers");
    let answer = client.request(request.body(Full::default()).unwrap());
    let answer = timeout(PATIENCE, answer).await.expect("no answer came").ok()?;
    let (parts, mut incoming) = answer.into_parts();
    let mut answer = Answer {
        head: Response::from_parts(parts, ()),
        body: Vec::new(),
        trailers: HeaderMap::new(),
        whole: true,
    };
    while let Some(frame) = timeout(PATIENCE, incoming.frame()).await.expect("it never ended") {
        match frame.map(|frame| frame.into_data()) {
            Ok(Ok(data)) => answer.body.extend_from_slice(&data),
            Ok(Err(frame)) => answer.trailers = frame.into_trailers().unwrap(),
            Err(_) => {
                answer.whole = false;
                break;
            }
        }
    }
    Some(answer)
}
