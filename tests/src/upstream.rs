//! An upstream that records the requests that it receives.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A request that an upstream received.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub version: Version,
    /// The path and query.
    pub target: String,
    /// The authority, from the target or from `Host`.
    pub host: String,
    pub headers: HeaderMap,
    /// The part of the body that arrived.
    pub body: Bytes,
    pub trailers: HeaderMap,
    /// The body arrived to its end.
    pub complete: bool,
}

/// A running upstream that speaks HTTP/1.1 and HTTP/2. Clones share the record.
#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    tls: bool,
    seen: Arc<Mutex<Vec<Seen>>>,
}

type Answer = Arc<dyn Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync>;

impl Upstream {
    /// Starts an upstream that answers each request with 200 and `ok`.
    pub async fn start() -> Self {
        Self::answering(|_| Response::new(Full::from("ok"))).await
    }

    /// Starts an upstream that answers each request with the result of `answer`.
    pub async fn answering(answer: impl Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Self {
        Self::serve(None, Arc::new(answer)).await
    }

    /// Starts an upstream behind TLS that answers each request with 200 and `ok`.
    pub async fn tls(config: Arc<ServerConfig>) -> Self {
        Self::serve(Some(config), Arc::new(|_| Response::new(Full::from("ok")))).await
    }

    /// Starts an upstream behind TLS that answers each request with the result of `answer`.
    pub async fn tls_answering(
        config: Arc<ServerConfig>,
        answer: impl Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        Self::serve(Some(config), Arc::new(answer)).await
    }

    async fn serve(tls: Option<Arc<ServerConfig>>, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let upstream = Self {
            address,
            tls: tls.is_some(),
            seen: Arc::default(),
        };
        let serving = upstream.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (serving, tls, answer) = (serving.clone(), tls.clone(), answer.clone());
                tokio::spawn(async move {
                    let calls = service_fn(move |request| {
                        let (serving, answer) = (serving.clone(), answer.clone());
                        async move { serving.take(request, &answer).await }
                    });
                    let http = auto::Builder::new(TokioExecutor::new());
                    match tls {
                        None => drop(http.serve_connection(TokioIo::new(stream), calls).await),
                        Some(config) => {
                            let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else {
                                return;
                            };
                            drop(http.serve_connection(TokioIo::new(stream), calls).await);
                        }
                    }
                });
            }
        });
        upstream
    }

    async fn take(
        &self,
        request: Request<Incoming>,
        answer: &Answer,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (parts, mut body) = request.into_parts();
        let host = parts.uri.authority().map(ToString::to_string);
        let host_header = parts
            .headers
            .get("host")
            .map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
        let mut seen = Seen {
            method: parts.method,
            version: parts.version,
            target: parts
                .uri
                .path_and_query()
                .map(ToString::to_string)
                .unwrap_or_default(),
            host: host.or(host_header).unwrap_or_default(),
            headers: parts.headers,
            body: Bytes::new(),
            trailers: HeaderMap::new(),
            complete: true,
        };
        let mut data = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) if frame.is_data() => data.extend_from_slice(&frame.into_data().unwrap()),
                Ok(frame) => seen.trailers = frame.into_trailers().unwrap(),
                Err(_) => {
                    seen.complete = false;
                    break;
                }
            }
        }
        seen.body = data.into();
        self.seen.lock().unwrap().push(seen.clone());
        Ok(answer(&seen))
    }

    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// Returns the requests that were received so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Returns the request that was received last.
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("the upstream received nothing")
    }
}

impl Seen {
    /// Returns the value of a header, which may have only one.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next().map(|value| value.to_str().unwrap());
        assert!(values.next().is_none(), "{name} was sent more than once");
        value
    }

    /// Returns the names of the headers that carry secrets, sorted.
    pub fn secret_headers(&self) -> Vec<&str> {
        let mut names: Vec<_> = self
            .headers
            .keys()
            .map(|name| name.as_str())
            .filter(|name| name.replace(['_', '.'], "-").starts_with("x-mcp-secret"))
            .collect();
        names.sort_unstable();
        names
    }
}
