//! A stand-in for a service that records the tokens of its clients, and answers each call with a
//! message that is empty or describes the workspace.

use std::{
    convert::Infallible,
    path::Path,
    sync::{Arc, Mutex},
};

use aerostack::pki::LeafFiles;
use chassis::tls::{Authorities, Identity, Reloading, ServerTls};
use futures_util::stream;
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Bytes, Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use proto::vault::v1::{GetWorkspaceResponse, Plan, Workspace};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A call that a service received.
#[derive(Debug, Clone)]
pub(crate) struct ReceivedCall {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    /// The client presented a certificate.
    pub(crate) has_certificate: bool,
}

pub(crate) struct RecordingService {
    pub(crate) address: String,
    calls: Arc<Mutex<Vec<ReceivedCall>>>,
}

impl RecordingService {
    /// Serves with a certificate, and asks clients for one of `ca`, until the test ends.
    pub(crate) async fn start(own: &LeafFiles, ca: &Path) -> Self {
        let identity = Reloading::fixed(Identity::load(&own.cert, &own.key).unwrap());
        let clients = Reloading::fixed(Authorities::load(ca).unwrap());
        let acceptor = TlsAcceptor::from(ServerTls::grpc(identity, Some(clients)).config().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = Self {
            address: listener.local_addr().unwrap().to_string(),
            calls: Arc::default(),
        };
        let calls = service.calls.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, calls) = (acceptor.clone(), calls.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let has_certificate = stream.get_ref().1.peer_certificates().is_some();
                    let answering =
                        service_fn(move |request| answer(request, calls.clone(), has_certificate));
                    let served = http2::Builder::new(TokioExecutor::new());
                    let _ = served.serve_connection(TokioIo::new(stream), answering).await;
                });
            }
        });
        service
    }

    /// Takes the calls that were received since the last time.
    pub(crate) fn take_calls(&self) -> Vec<ReceivedCall> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

async fn answer(
    request: Request<Incoming>,
    calls: Arc<Mutex<Vec<ReceivedCall>>>,
    has_certificate: bool,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let authorization = head.headers.get(AUTHORIZATION);
    calls.lock().unwrap().push(ReceivedCall {
        authorization: authorization.map(|value| value.to_str().unwrap().to_owned()),
        has_certificate,
        path: path.clone(),
    });
    let _ = body.collect().await;
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let frames = [Frame::data(message_of(&path)), Frame::trailers(trailers)];
    let body = StreamBody::new(stream::iter(frames.map(Ok)));
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(response.body(body.boxed_unsync()).unwrap())
}

/// Returns the framed message that answers a call.
fn message_of(path: &str) -> Bytes {
    let message = match path.rsplit('/').next() {
        // `HealthCheckResponse` with SERVING.
        Some("Check") => vec![8, 1],
        Some("GetWorkspace") => {
            let workspace = Workspace {
                name: "w".to_owned(),
                plan: Plan::Free.into(),
                kept_versions: 3,
                ..Default::default()
            };
            let response = GetWorkspaceResponse {
                workspace: Some(workspace),
            };
            response.encode_to_vec()
        }
        _ => Vec::new(),
    };
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], &message].concat().into()
}
