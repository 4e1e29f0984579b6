//! A tonic service whose messages have the fields `map<string, string> secrets = 7` and `labels = 8`, and its client.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt as _, future::BoxFuture, stream::BoxStream};
use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    client,
    metadata::MetadataValue,
    server::{self, NamedService, UnaryService},
    transport::{Channel, Endpoint, Server},
};
use tonic_prost::ProstCodec;

/// A request, and also the response, which lists the requests that it answers.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Probe {
    #[prost(string, tag = "1")]
    pub(super) text: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) asked: Vec<Probe>,
    #[prost(btree_map = "string, string", tag = "7")]
    pub(super) secrets: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "8")]
    pub(super) labels: BTreeMap<String, String>,
}

impl Probe {
    pub(super) fn new(text: impl ToString) -> Self {
        Self {
            text: text.to_string(),
            ..Self::default()
        }
    }

    /// Returns a message with secrets of the client's own.
    pub(super) fn forged(text: impl ToString) -> Self {
        let forged = [("TOKEN", "theirs"), ("OTHER", "theirs")];
        Self {
            secrets: forged.map(|(name, value)| (name.into(), value.into())).into(),
            ..Self::new(text)
        }
    }

    pub(super) fn secrets(&self) -> Vec<(&str, &str)> {
        pairs(&self.secrets)
    }

    pub(super) fn labels(&self) -> Vec<(&str, &str)> {
        pairs(&self.labels)
    }
}

fn pairs(map: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    let pairs = map.iter();
    pairs
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

/// The service `e2e.Probe` with the methods `Unary`, `ServerStream`, `ClientStream` and `Bidi`.
#[derive(Clone)]
struct Service;

impl NamedService for Service {
    const NAME: &'static str = "e2e.Probe";
}

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let method = request.uri().path().to_owned();
            let mut grpc = server::Grpc::new(ProstCodec::default());
            Ok(match method.as_str() {
                "/e2e.Probe/Unary" => grpc.unary(Methods, request).await,
                "/e2e.Probe/ServerStream" => grpc.server_streaming(Methods, request).await,
                "/e2e.Probe/ClientStream" => grpc.client_streaming(Methods, request).await,
                _ => grpc.streaming(Methods, request).await,
            })
        })
    }
}

struct Methods;

type Answers = BoxStream<'static, Result<Probe, Status>>;

impl UnaryService<Probe> for Methods {
    type Response = Probe;
    type Future = BoxFuture<'static, Result<Response<Probe>, Status>>;

    fn call(&mut self, request: Request<Probe>) -> Self::Future {
        let asked = vec![request.into_inner()];
        Box::pin(async {
            Ok(Response::new(Probe {
                asked,
                ..Probe::default()
            }))
        })
    }
}

impl server::ServerStreamingService<Probe> for Methods {
    type Response = Probe;
    type ResponseStream = Answers;
    type Future = BoxFuture<'static, Result<Response<Answers>, Status>>;

    /// Sends as many responses as the request's text says.
    fn call(&mut self, request: Request<Probe>) -> Self::Future {
        let asked = request.into_inner();
        let times = asked.text.parse().unwrap();
        let answer = Probe {
            asked: vec![asked],
            ..Probe::default()
        };
        let answers = futures_util::stream::iter(vec![Ok(answer); times]).boxed();
        Box::pin(async { Ok(Response::new(answers)) })
    }
}

impl server::ClientStreamingService<Probe> for Methods {
    type Response = Probe;
    type Future = BoxFuture<'static, Result<Response<Probe>, Status>>;

    fn call(&mut self, request: Request<Streaming<Probe>>) -> Self::Future {
        let mut asking = request.into_inner();
        Box::pin(async move {
            let mut asked = Vec::new();
            while let Some(next) = asking.message().await? {
                asked.push(next);
            }
            Ok(Response::new(Probe {
                asked,
                ..Probe::default()
            }))
        })
    }
}

impl server::StreamingService<Probe> for Methods {
    type Response = Probe;
    type ResponseStream = Answers;
    type Future = BoxFuture<'static, Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Streaming<Probe>>) -> Self::Future {
        let answer = |asked| Probe {
            asked: vec![asked],
            ..Probe::default()
        };
        let answers = request.into_inner().map(move |asked| asked.map(answer)).boxed();
        Box::pin(async { Ok(Response::new(answers)) })
    }
}

/// Serves `e2e.Probe` on a port of its own, and returns the URL.
pub(super) async fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = Server::builder()
        .add_service(Service)
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    url
}

/// Calls `dev/skill` through the injector.
#[derive(Clone)]
pub(super) struct Caller(Channel);

impl Caller {
    pub(super) async fn new(data_plane: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{data_plane}")).unwrap();
        Self(endpoint.connect().await.unwrap())
    }

    async fn ready(&self) -> client::Grpc<Channel> {
        let mut grpc = client::Grpc::new(self.0.clone());
        grpc.ready().await.unwrap();
        grpc
    }

    pub(super) async fn unary(&self, asked: Probe) -> Result<Probe, Status> {
        let (path, codec) = (path("Unary"), ProstCodec::default());
        let answer = self.ready().await.unary(named(asked), path, codec).await?;
        Ok(answer.into_inner())
    }

    pub(super) async fn server_stream(&self, asked: Probe) -> Result<Streaming<Probe>, Status> {
        let (path, codec) = (path("ServerStream"), ProstCodec::default());
        let answers = self
            .ready()
            .await
            .server_streaming(named(asked), path, codec)
            .await?;
        Ok(answers.into_inner())
    }

    pub(super) async fn client_stream(
        &self,
        asked: impl Stream<Item = Probe> + Send + 'static,
    ) -> Result<Probe, Status> {
        let (path, codec) = (path("ClientStream"), ProstCodec::default());
        let answer = self
            .ready()
            .await
            .client_streaming(named(asked), path, codec)
            .await?;
        Ok(answer.into_inner())
    }

    pub(super) async fn bidi(
        &self,
        asked: impl Stream<Item = Probe> + Send + 'static,
    ) -> Result<Streaming<Probe>, Status> {
        let (path, codec) = (path("Bidi"), ProstCodec::default());
        let answers = self.ready().await.streaming(named(asked), path, codec).await?;
        Ok(answers.into_inner())
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/e2e.Probe/{method}").parse().unwrap()
}

fn named<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("x-aerostack-workspace", MetadataValue::from_static("dev"));
    metadata.insert("x-aerostack-server", MetadataValue::from_static("skill"));
    request
}
