//! The upstream of the benchmark, and a forwarder that does as little as a proxy can do.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt as _, Either, Full, combinators::WithTrailers};
use hyper::{
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::net::TcpListener;

use crate::Failure;

/// Path at which the upstream answers with the headers and the body that it received.
pub(crate) const CHECK: &str = "/check";
/// The upstream's answer at all other paths.
pub(crate) const ANSWER: &str = r#"{"ok":true,"id":"0123456789abcdef","items":[1,2,3]}"#;
/// A gRPC frame with a message of the same length as [`ANSWER`].
const GRPC_ANSWER: &[u8] = b"\0\0\0\0\x33\x0a\x310123456789012345678901234567890123456789012345678";

/// Serves the upstream over HTTP/1.1 and HTTP/2. An answer to gRPC has trailers.
pub(crate) async fn upstream(listen: SocketAddr) -> Result<(), Failure> {
    serve(listen, |request: Request<Incoming>| async move {
        let (parts, mut body) = request.into_parts();
        if parts.uri.path() == CHECK {
            let body = body.collect().await.map(http_body_util::Collected::to_bytes);
            let seen = format!("{:#?}\n{:?}", parts.headers, body.unwrap_or_default());
            return Response::new(Either::Right(Full::from(seen)));
        }
        while let Some(Ok(_)) = body.frame().await {}
        let grpc = parts.headers.get(header::CONTENT_TYPE);
        if grpc.is_some_and(|value| value == "application/grpc") {
            grpc_answer()
        } else {
            Response::new(Either::Right(Full::from(ANSWER)))
        }
    })
    .await
}

type GrpcBody = WithTrailers<Full<Bytes>, std::future::Ready<Option<Result<HeaderMap, Infallible>>>>;

fn grpc_answer() -> Response<Either<GrpcBody, Full<Bytes>>> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::from(GRPC_ANSWER).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(Either::Left(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Forwards every request to `to`, with hyper's server and hyper's pooled client and no other work.
pub(crate) async fn forwarder(listen: SocketAddr, to: SocketAddr, http2: bool) -> Result<(), Failure> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Incoming> = Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build(connector);
    serve(listen, move |request: Request<Incoming>| {
        let sent = client.request(readdressed(request, to));
        async move {
            match sent.await {
                Ok(response) => response.map(Either::Left),
                Err(_) => {
                    let mut response = Response::new(Either::Right(Full::<Bytes>::default()));
                    *response.status_mut() = StatusCode::BAD_GATEWAY;
                    response
                }
            }
        }
    })
    .await
}

fn readdressed(request: Request<Incoming>, to: SocketAddr) -> Request<Incoming> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = Uri::builder()
        .scheme("http")
        .authority(to.to_string())
        .path_and_query(path)
        .build()
        .unwrap_or_default();
    parts.version = Version::HTTP_11;
    parts.headers.remove(header::HOST);
    Request::from_parts(parts, body)
}

async fn serve<B, F>(
    listen: SocketAddr,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> Result<(), Failure>
where
    B: Body<Data: Send, Error: Into<Failure>> + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
{
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = answer.clone();
        tokio::spawn(async move {
            let calls = service_fn(|request| {
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await) }
            });
            // An error of one connection does not matter here, because the load generator reports failed calls.
            drop(
                auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), calls)
                    .await,
            );
        });
    }
}
