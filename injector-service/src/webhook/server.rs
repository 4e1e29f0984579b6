//! The HTTPS listener.

use std::{convert::Infallible, error::Error, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use chassis::{
    connection_slots::{Eviction, Holder, Slot, Slots},
    listen,
    tls::ServerTls,
};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    body::{Body, Bytes},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time,
};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::reviewer::Reviewer;

/// Maximum number of connections. Each API server keeps a few.
const MAX_CONNECTIONS: usize = 512;
/// Time within which the head of the next request must arrive over HTTP/1.1.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);
/// Maximum size of the head of a request in bytes.
const MAX_HEAD: u16 = 16 << 10;
/// Maximum number of concurrent requests on an HTTP/2 connection. An API server that has more opens another connection.
const MAX_STREAMS: u32 = 8;
/// HTTP/2 flow-control window of a request in bytes. So much of a body arrives while nothing reads it.
const STREAM_WINDOW: u32 = 16 << 10;
/// HTTP/2 flow-control window of a connection in bytes. It has room for the windows of all requests, so that requests that wait for
/// their turn do not hold up the body of another one.
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;
/// Length limit of a request's body. The API itself accepts objects of up to 3 MiB.
const MAX_BODY: usize = 4 << 20;
/// Maximum numbers of objects and of other values in a body. An object with one member has 7 bytes as text and about 600 in memory,
/// so that the length alone is no bound. A pod has some hundred objects, and its `managedFields` some thousand.
const MAX_OBJECTS: usize = 20_000;
const MAX_VALUES: usize = 300_000;

/// Serves until `shutdown`, and then until the running reviews have ended, for `grace` at the most.
pub(super) async fn serve(
    listener: TcpListener,
    tls: ServerTls,
    reviewer: Arc<Reviewer>,
    shutdown: CancellationToken,
    grace: Duration,
) {
    let connections = TaskTracker::new();
    let slots = Slots::new("webhook", MAX_CONNECTIONS, Eviction::OldestIdle);
    let stop = shutdown.clone();
    listen::accept(
        listener,
        listen::handshake_slots(),
        shutdown,
        |stream, peer, slot| {
            let secured = secure(tls.clone(), stream, peer, slot, slots.clone());
            let (reviewer, stop) = (reviewer.clone(), stop.clone());
            connections.spawn(async move {
                if let Some(Some((stream, slot))) = stop.run_until_cancelled(secured).await {
                    serve_connection(stream, slot, reviewer, stop).await;
                }
            });
        },
    )
    .await;
    connections.close();
    // Reviews that take longer are given up.
    drop(time::timeout(grace, connections.wait()).await);
}

/// Completes the TLS handshake, and takes a connection slot. The connection keeps its handshake slot until then.
async fn secure(
    tls: ServerTls,
    stream: TcpStream,
    peer: SocketAddr,
    handshake: Slot,
    connections: Slots,
) -> Option<(TlsStream<TcpStream>, Slot)> {
    let (stream, _trust) = listen::handshake(&tls, stream, peer, &handshake).await?;
    let taking = connections.take(Holder::network(peer));
    let slot = tokio::select! {
        taken = time::timeout(listen::HANDSHAKE_TIMEOUT, taking) => taken.ok()?,
        () = handshake.evicted() => return None,
    };
    slot.started();
    Some((stream, slot))
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    slot: Slot,
    reviewer: Arc<Reviewer>,
    stop: CancellationToken,
) {
    let slot = Arc::new(slot);
    let evicted = slot.evicted();
    let service = service_fn(move |request| {
        let (reviewer, slot) = (reviewer.clone(), slot.clone());
        async move { Ok::<_, Infallible>(answer(&reviewer, &slot, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD.into());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD.into());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = evicted => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "connection ended");
    }
}

async fn answer<B>(reviewer: &Reviewer, slot: &Arc<Slot>, request: Request<B>) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    match review(reviewer, slot, request).await {
        Ok(answer) => response(StatusCode::OK, "application/json", answer),
        Err((status, text)) => {
            reviewer.count_malformed();
            tracing::info!(status = status.as_u16(), detail = text, "request refused");
            response(status, "text/plain; charset=utf-8", format!("{text}\n"))
        }
    }
}

async fn review<B>(
    reviewer: &Reviewer,
    slot: &Arc<Slot>,
    request: Request<B>,
) -> Result<String, (StatusCode, String)>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let refuse = |status, text: &str| Err((status, text.to_owned()));
    if request.uri().path() != "/mutate" {
        return refuse(StatusCode::NOT_FOUND, "there is only /mutate");
    }
    if *request.method() != Method::POST {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "POST only");
    }
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if !content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/json")) {
        return refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body has to be application/json",
        );
    }
    let Some(permit) = reviewer.bodies.acquire(slot.holder()).await else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "too many other requests");
    };
    // The connection counts as idle while the request waits, so that connections with such requests can be evicted.
    let _running = slot.begin_call();
    let body = permit.receive(Limited::new(request.into_body(), MAX_BODY).collect());
    let body = match body.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");
        }
        Ok(Err(_)) => return refuse(StatusCode::BAD_REQUEST, "the body ended early"),
        Err(late) => return refuse(StatusCode::REQUEST_TIMEOUT, &late.to_string()),
    };
    if has_too_many_values(&body) {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body has too many values");
    }
    let answer = reviewer.answer(&body).await;
    answer.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
}

/// Counts the bytes that begin an object, and those that begin or separate other values. Bytes of strings count, too: the numbers are
/// upper bounds.
fn has_too_many_values(body: &[u8]) -> bool {
    let count = |wanted: &[u8]| body.iter().filter(|byte| wanted.contains(byte)).count();
    count(b"{") > MAX_OBJECTS || count(b",[") > MAX_VALUES
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let content_type = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests;
