//! The data plane: takes a request, finds its server, has its secrets decrypted, puts them in, forwards it.

mod answer;
mod body;
mod call;
mod covers;
mod grpc;
mod guard;
mod inbound;
mod pools;
mod received;
mod record;
mod rewrite;
mod target;

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use proto::{
    ServerName, WorkspaceName,
    serve::{
        listen::{self, Slot},
        opening::Opening,
    },
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use guard::Hosts;

use crate::{metrics::Metrics, registry::Registry, resolve::Resolver, upstream::Network};
use pools::Pools;

/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The most headers of a request.
const MAX_HEADERS: usize = 100;
/// The most bytes of them: over HTTP/1.1 in the buffer that the head must fit, over HTTP/2 when decoded.
const MAX_HEAD: (usize, u32) = (128 * 1024, 64 * 1024);
/// Streams at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 1024;
/// Bytes of request bodies that may be under way on one HTTP/2 stream, and on one connection.
const WINDOWS: (u32, u32) = (1 << 20, 4 << 20);

/// Which servers a listener leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Door {
    /// All; the request says which.
    Any,
    /// Always this one.
    Only(WorkspaceName, ServerName),
}

/// Forwards calls.
pub struct Proxy {
    registry: Registry,
    resolver: Resolver,
    pools: Pools,
    hosts: Hosts,
    metrics: Metrics,
    ids: record::CallIds,
}

/// How connections are served.
#[derive(Clone)]
pub struct Serving {
    /// Of the data plane, when it has any.
    pub tls: Option<Arc<ServerConfig>>,
    /// Connections at once on each listener.
    pub max_connections: usize,
    /// How long calls under way may take at the end.
    pub grace: Duration,
}

impl Proxy {
    /// Forwards to the servers of `registry`.
    pub fn new(
        registry: Registry,
        resolver: Resolver,
        network: Arc<Network>,
        hosts: Hosts,
        metrics: Metrics,
    ) -> Self {
        Self {
            registry,
            resolver,
            pools: Pools::new(network),
            hosts,
            metrics,
            ids: record::CallIds::new(),
        }
    }

    /// Closes connections to servers that are gone or were changed, whenever the registry changes.
    pub async fn tidy(&self) {
        let mut changed = self.registry.changed();
        while changed.changed().await.is_ok() {
            let current = self.registry.current();
            self.pools.retain(&current);
        }
    }

    /// Serves a listener until `shutdown`; then lets calls under way finish.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        door: Door,
        serving: Serving,
        shutdown: CancellationToken,
    ) {
        let (connections, door) = (TaskTracker::new(), Arc::new(door));
        listen::accept(
            listener,
            serving.max_connections,
            shutdown.clone(),
            |stream, peer, slot| {
                let (proxy, door) = (self.clone(), door.clone());
                let (tls, shutdown, grace) = (serving.tls.clone(), shutdown.clone(), serving.grace);
                connections.spawn(async move {
                    match tls {
                        None => proxy.connection(stream, &door, slot, shutdown, grace).await,
                        Some(config) => match listen::handshake(config, stream).await {
                            Ok(stream) => proxy.connection(stream, &door, slot, shutdown, grace).await,
                            Err(error) => tracing::info!(%peer, %error, "tls handshake refused"),
                        },
                    }
                });
            },
        )
        .await;
        connections.close();
        connections.wait().await;
    }

    async fn connection(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        door: &Arc<Door>,
        _slot: Slot,
        shutdown: CancellationToken,
        grace: Duration,
    ) {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD.0);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD.1)
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .keep_alive_interval(Duration::from_secs(60))
            .keep_alive_timeout(Duration::from_secs(20));
        let calls = service_fn(|request| {
            let (proxy, door) = (self.clone(), door.clone());
            async move { Ok::<_, Infallible>(proxy.call(&door, request).await) }
        });
        let stream = Opening::new(stream, HEAD_TIMEOUT);
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), calls));
        tokio::select! {
            // How it ended is the peer's affair.
            _ = connection.as_mut() => return,
            () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        if time::timeout(grace, connection).await.is_err() {
            tracing::warn!("calls still under way after the grace period were cut off");
        }
    }
}
