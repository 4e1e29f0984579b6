//! An upstream whose path chooses the answer.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpListener, sync::Notify};

type Body = BoxBody<Bytes, Infallible>;

/// Starts the upstream, which runs until the test ends. `/stream` sends one line, and a second one after `go_on`.
pub(crate) async fn start(go_on: Arc<Notify>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let go_on = go_on.clone();
            let answer = service_fn(move |request| {
                let go_on = go_on.clone();
                async move { Ok::<_, Infallible>(answer(request, go_on).await) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    address
}

async fn answer(request: Request<Incoming>, go_on: Arc<Notify>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if path == "/stream" {
        return Response::new(StreamBody::new(stream(go_on)).boxed());
    }
    let status = path
        .strip_prefix("/status/")
        .map_or(200, |code| code.parse().unwrap());
    let headers: serde_json::Map<String, serde_json::Value> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()))
        .collect();
    let (method, uri) = (request.method().to_string(), request.uri().to_string());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let seen = json!({
        "method": method,
        "uri": uri,
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    Response::builder()
        .status(status)
        .header("x-upstream", "yes")
        .body(http_body_util::Full::from(seen.to_string()).boxed())
        .unwrap()
}

fn stream(go_on: Arc<Notify>) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    futures_util::stream::unfold((0, go_on), async |(sent, go_on)| {
        if sent == 1 {
            go_on.notified().await;
        }
        let line = ["first\n", "second\n"].get(sent)?;
        Some((
            Ok(Frame::data(Bytes::from_static(line.as_bytes()))),
            (sent + 1, go_on),
        ))
    })
}
