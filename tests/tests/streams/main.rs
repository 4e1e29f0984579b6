//! Streaming calls: each piece is passed on as it arrives, an aborted stream never ends cleanly, and no request that
//! reached an upstream is sent twice.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod grpc;
mod http_bodies;

use std::{
    convert::Infallible,
    future::pending,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use chassis::tls::{Identity, Reloading, ServerTls};
use e2e::{PATIENCE, Pair, eventually, pair::server, pki};
use futures_util::{StreamExt as _, stream};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use proto::{
    injector::v1::{AuthType, Protocol, Server as Described, UpstreamTls},
    vault::v1::{
        CreateWorkspaceRequest, CreateWorkspaceResponse, DecryptAnswer, DecryptRequest, DecryptResponse,
        DecryptStreamRequest, DecryptStreamResponse, DeleteWorkspaceRequest, DeleteWorkspaceResponse,
        GetWorkspaceRequest, GetWorkspaceResponse, ListWorkspacesRequest, ListWorkspacesResponse,
        UpdateWorkspaceRequest, UpdateWorkspaceResponse, Workspace,
        decrypt_service_client::DecryptServiceClient,
        decrypt_service_server::{DecryptService, DecryptServiceServer},
        workspace_service_client::WorkspaceServiceClient,
        workspace_service_server::{WorkspaceService, WorkspaceServiceServer},
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request as Call, Response as Answer, Status, Streaming,
    metadata::{MetadataMap, MetadataValue},
    service::{InterceptorLayer, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
    server::HealthReporter,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};
use tonic_types::{ErrorDetails, StatusExt as _};

const VALUE: &str = "canary-41b0";
/// Bytes that are no text and not legal in a header.
const BINARY: &[u8] = b"\x00canary\xff\r\n";
/// Message limit of the services and clients, which exceeds the largest message of the tests.
const LARGEST: usize = 17 << 20;

/// The combinations of HTTP versions downstream and upstream.
const VERSIONS: [(bool, &str); 4] = [
    (false, "http1"),
    (false, "http2"),
    (true, "http1"),
    (true, "http2"),
];

/// An upstream whose response bodies the test writes piece by piece.
struct ManualUpstream {
    address: SocketAddr,
    calls: mpsc::UnboundedReceiver<Pieces>,
    url: String,
    ca_pem: String,
}

type Pieces = mpsc::Sender<Result<Bytes, io::Error>>;

impl ManualUpstream {
    async fn start(content_type: Option<&'static str>) -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        let address = serving(move |_| {
            let (pieces, body) = mpsc::channel::<Result<Bytes, io::Error>>(1);
            sender.send(pieces).unwrap();
            let body = StreamBody::new(ReceiverStream::new(body).map(|piece| piece.map(Frame::data)));
            let mut response = Response::new(body.boxed_unsync());
            if let Some(content_type) = content_type {
                response
                    .headers_mut()
                    .insert(header::CONTENT_TYPE, content_type.parse().unwrap());
            }
            async { Ok(response) }
        })
        .await;
        Self {
            address,
            calls,
            url: format!("http://{address}"),
            ca_pem: String::new(),
        }
    }

    async fn served_by(&self, pair: &Pair) {
        serve_all(pair, &self.url).await;
        assert!(self.ca_pem.is_empty() && self.address.ip().is_loopback());
    }

    async fn next(&mut self) -> Pieces {
        timeout(PATIENCE, self.calls.recv())
            .await
            .expect("the upstream was not called")
            .unwrap()
    }
}

async fn serve_all(pair: &Pair, url: &str) {
    pair.vault.workspace("dev").await;
    pair.vault.put("dev", "TOKEN", VALUE).await;
    for (name, protocol) in [
        ("auto", Protocol::Auto),
        ("http1", Protocol::Http1),
        ("http2", Protocol::Http2),
    ] {
        let described = Described {
            protocol: protocol.into(),
            ..server("dev", name, url, &["TOKEN"])
        };
        pair.injector.add(described).await;
    }
}

/// Returns the next data, or `None` at the end. HTTP/2 may end a body by an empty frame.
async fn piece(body: &mut Incoming) -> Option<Bytes> {
    loop {
        let frame = timeout(PATIENCE, body.frame())
            .await
            .expect("nothing came through");
        match frame.map(|frame| frame.unwrap().into_data().unwrap()) {
            Some(data) if data.is_empty() => {}
            other => return other,
        }
    }
}

/// Starts an upstream that speaks HTTP/1.1 and HTTP/2.
async fn serving<R>(answer: impl Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static) -> SocketAddr
where
    R: Future<Output = io::Result<Response<Sent>>> + Send + 'static,
{
    breaking(move |request, _| answer(request)).await
}

/// Starts an upstream like [`serving`], whose connections `answer` may break.
async fn breaking<R>(
    answer: impl Fn(Request<Incoming>, CancellationToken) -> R + Clone + Send + Sync + 'static,
) -> SocketAddr
where
    R: Future<Output = io::Result<Response<Sent>>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _): (TcpStream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (answer, broken) = (answer.clone(), CancellationToken::new());
            let cut = broken.clone();
            let calls = service_fn(move |request| answer(request, broken.clone()));
            let http = auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move {
                let connection = http.serve_connection(TokioIo::new(stream), calls);
                cut.run_until_cancelled(connection).await.is_some()
            });
        }
    });
    address
}

type Sent = UnsyncBoxBody<Bytes, io::Error>;

fn client(http2: bool) -> Client<HttpConnector, Sent> {
    Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http()
}

fn fixed(body: &'static str) -> Sent {
    Full::from(body)
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}
