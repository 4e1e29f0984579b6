//! Requests that hyper writes, to a server that reports what it receives.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;

use super::super::{HttpVersion, PlaceholderTable, SubstitutingStream};

pub(super) type TestBody = UnsyncBoxBody<Bytes, Infallible>;

/// A request that the server received.
pub(super) struct ReceivedRequest {
    pub(super) head: http::request::Parts,
    pub(super) body: Bytes,
    pub(super) trailers: HeaderMap,
}

/// A connection to a server that reports every request that it receives.
pub(super) struct Exchange {
    pub(super) sender: Sender,
    pub(super) seen: mpsc::UnboundedReceiver<ReceivedRequest>,
}

pub(super) enum Sender {
    Http1(http1::SendRequest<TestBody>),
    Http2(http2::SendRequest<TestBody>),
}

impl Exchange {
    pub(super) async fn start(version: HttpVersion, table: &PlaceholderTable) -> Self {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (reporter, seen) = mpsc::unbounded_channel();
        let service = service_fn(move |request: Request<Incoming>| {
            let reporter = reporter.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap();
                let trailers = body.trailers().cloned().unwrap_or_default();
                let body = body.to_bytes();
                assert!(reporter.send(ReceivedRequest { head, body, trailers }).is_ok());
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        });
        tokio::spawn(async move {
            let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            builder.http2().max_header_list_size(1 << 20);
            drop(builder.serve_connection(TokioIo::new(far), service).await);
        });
        let near = SubstitutingStream::new(TokioIo::new(near), table.clone(), version);
        let sender = match version {
            HttpVersion::Http1 => {
                let (sender, connection) = http1::handshake(near).await.unwrap();
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
            HttpVersion::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), near).await.unwrap();
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Self { sender, seen }
    }

    pub(super) async fn send(&mut self, mut request: Request<TestBody>) -> ReceivedRequest {
        match &mut self.sender {
            Sender::Http1(sender) => {
                // The clients of upstreams give hyper a target without scheme and host, too.
                let target = request.uri().path_and_query().cloned().unwrap();
                *request.uri_mut() = target.into();
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap();
            }
            Sender::Http2(sender) => {
                sender.send_request(request).await.unwrap();
            }
        }
        self.seen.recv().await.unwrap()
    }
}

pub(super) fn request(path: &str) -> http::request::Builder {
    Request::post(format!("http://upstream.example{path}"))
}

pub(super) fn body(pieces: &[&[u8]], trailers: Option<HeaderMap>) -> TestBody {
    let pieces: Vec<_> = pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
    let frames = pieces
        .into_iter()
        .map(Frame::data)
        .chain(trailers.map(Frame::trailers))
        .map(Ok);
    StreamBody::new(tokio_stream::iter(frames.collect::<Vec<_>>())).boxed_unsync()
}
