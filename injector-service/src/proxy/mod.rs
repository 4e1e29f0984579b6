//! The data plane: takes a request, finds its server, has its secrets decrypted, puts them in, forwards it.

mod answer;
mod body;
mod buffer_budget;
mod call;
mod challenge;
mod coalesce;
mod cookies;
mod deadline_body;
mod delayed_error;
mod drain;
mod framing;
mod grpc;
mod guard;
mod oauth;
mod placeholders;
mod pools;
mod received_body;
mod record;
mod repeat;
mod request_head;
mod rewrite;
mod sse_endpoint;
mod stream_timeout;
mod target;
mod upgrade;
mod watchdog;

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use chassis::{
    lanes::Accepted,
    listen::{self, HANDSHAKE_TIMEOUT},
    slots::{Holder, Slot, Slots},
};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use proto::{ServerName, WorkspaceName};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::mpsc,
    time::{self, Instant, sleep},
};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use buffer_budget::BufferBudget;
pub use guard::Hosts;

use crate::{limits::Limits, metrics::Metrics, registry::Registry, resolve::Resolver, upstream::DialContext};
use delayed_error::DelayedErrorBody;
use pools::Pools;
use request_head::HeadCheckingStream;
use stream_timeout::StreamExecutor;
use upgrade::ConnectionUpgrade;
use watchdog::{Verdict, Watchdog, WatchedStream};

/// Bytes of a request body that h2 reads ahead on one stream. `--max-buffered-total` counts these bytes for each body
/// that has not ended, so that memory stays bounded even when nothing consumes the body.
const STREAM_WINDOW: u32 = 64 << 10;
/// The window of a connection, as a multiple of the windows of all its streams, so that bodies that nobody reads use up
/// their own windows and never that of the other bodies on the connection. h2 also derives from this window how many
/// small DATA frames may wait: h2 counts each as 256 bytes, allows up to half of the window, and ends the connection
/// beyond that. With 4, all streams may have messages of 100 bytes waiting, and what waits takes at most twice as much
/// memory as the windows of all streams.
const CONNECTION_WINDOWS: u32 = 4;
/// The largest window that HTTP/2 has (RFC 9113, section 6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;
/// Resets that h2 may send on one connection by itself, over the connection's whole life, before it ends the connection.
/// h2 sends one for each frame that arrives on a stream that it has reset and forgotten, so a client whose uploads are
/// refused early causes several of them with each upload. Resets that the client does not read take at most 32 MiB.
const RESETS_BY_H2: usize = 64 << 10;
/// What libraries allow beyond our own limits, so that those who pass ours are told why.
const BEYOND: usize = 2;
/// The least that hyper's buffer for an HTTP/1.1 head may have.
const LEAST_BUFFER: usize = 8 * 1024;

/// The time in which an idle HTTP/2 connection that lost its slot has to end in order.
const LEAVING: Duration = Duration::from_millis(100);

/// Which servers a listener leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerRoute {
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
    limits: Limits,
    budget: BufferBudget,
    metrics: Metrics,
}

/// Where a connection came from and to.
pub struct Arrival {
    /// Who is at its other end.
    pub peer: SocketAddr,
    /// The connection's slot: one of the listener's handshake slots when the listener speaks TLS, else a connection
    /// slot.
    pub slot: Slot,
    /// The listener's connection slots, of which a TLS connection takes one after its handshake.
    pub connections: Slots,
    /// What it leads to.
    pub route: Arc<ListenerRoute>,
}

/// How connections are served.
#[derive(Clone)]
pub struct Serving {
    /// Of the data plane, when it has any.
    pub tls: Option<Arc<ServerConfig>>,
    /// How long calls under way may take at the end.
    pub grace: Duration,
}

impl Proxy {
    /// Forwards to the servers of `registry`.
    pub fn new(
        registry: Registry,
        resolver: Resolver,
        network: Arc<DialContext>,
        hosts: Hosts,
        limits: Limits,
        budget: BufferBudget,
        metrics: Metrics,
    ) -> Self {
        Self {
            registry,
            resolver,
            pools: Pools::new(network),
            hosts,
            limits,
            budget,
            metrics,
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

    /// Serves the connections that it is given, until there are no more; then lets calls under way finish.
    pub async fn serve(
        self: Arc<Self>,
        mut accepted: mpsc::UnboundedReceiver<Accepted<Arrival>>,
        serving: Serving,
        shutdown: CancellationToken,
    ) {
        let connections = TaskTracker::new();
        while let Some(accepted) = accepted.recv().await {
            let Some((stream, arrival)) = accepted.open() else {
                continue;
            };
            let (proxy, tls) = (self.clone(), serving.tls.clone());
            let (shutdown, grace) = (shutdown.clone(), serving.grace);
            connections.spawn(async move {
                match tls {
                    None => {
                        let Arrival {
                            peer: _,
                            slot,
                            connections: _,
                            route,
                        } = arrival;
                        proxy.connection(stream, &route, slot, shutdown, grace).await;
                    }
                    // Much larger, and not to be a part of those without TLS.
                    Some(config) => {
                        let served = Box::pin(async move {
                            let route = arrival.route.clone();
                            let secured = secured(config, stream, arrival);
                            if let Some(Some((stream, slot))) = shutdown.run_until_cancelled(secured).await {
                                proxy.connection(stream, &route, slot, shutdown, grace).await;
                            }
                        });
                        served.await;
                    }
                }
            });
        }
        connections.close();
        connections.wait().await;
    }

    async fn connection(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        route: &Arc<ListenerRoute>,
        slot: Slot,
        shutdown: CancellationToken,
        grace: Duration,
    ) {
        let mut evicted = pin!(slot.evicted());
        let (http, watchdog) = (self.http(), Watchdog::new(slot));
        let upgrade = ConnectionUpgrade::new(watchdog.clone());
        let calls = service_fn(|request| {
            let (proxy, route, call) = (self.clone(), route.clone(), watchdog.begin_call());
            let upgrade = upgrade.clone();
            async move {
                let until = proxy.limits.max_call_duration.map(|most| Instant::now() + most);
                // HTTP/1.1 keeps room for what is returned here between calls too, and HTTP/2 while an answer passes.
                let response = Box::pin(proxy.call(&route, request, until, call)).await;
                Ok::<_, Infallible>(upgrade.record(response).map(DelayedErrorBody::new))
            }
        });
        let served = async {
            // Dropped before what comes after it: a connection that failed would keep that waiting.
            {
                let stream = WatchedStream::new(stream, watchdog.clone());
                let stream = TokioIo::new(HeadCheckingStream::new(
                    stream,
                    watchdog.clone(),
                    &self.limits,
                    BEYOND,
                ));
                let mut connection = pin!(http.serve_connection_with_upgrades(stream, calls));
                let mut watch = pin!(sleep(Duration::ZERO));
                let (mut idle, mut has_slot) = (false, true);
                loop {
                    tokio::select! {
                        // How it ended is the peer's affair.
                        _ = connection.as_mut() => break,
                        () = shutdown.cancelled() => {
                            connection.as_mut().graceful_shutdown();
                            let _ = connection.await;
                            break;
                        }
                        () = evicted.as_mut(), if has_slot => has_slot = false,
                        () = watch.as_mut() => {}
                    }
                    let again = match watchdog.verdict(&self.limits) {
                        Verdict::Healthy(again) => again,
                        Verdict::Idle if !idle => {
                            idle = true;
                            connection.as_mut().graceful_shutdown();
                            if has_slot {
                                self.limits.head_timeout
                            } else {
                                LEAVING
                            }
                        }
                        over => {
                            tracing::debug!(?over, "connection closed");
                            return;
                        }
                    };
                    watch.as_mut().reset(Instant::now() + again);
                }
            }
            upgrade.run_tunnel(self.limits.upgraded_idle_timeout).await;
        };
        let out_of_time = async {
            shutdown.cancelled().await;
            time::sleep(grace).await;
        };
        tokio::select! {
            () = served => {}
            () = out_of_time => tracing::warn!("calls still under way after the grace period were cut off"),
        }
    }

    fn http(&self) -> auto::Builder<StreamExecutor> {
        let limits = &self.limits;
        let head = limits.max_uri_size + limits.max_headers_size;
        let mut http = auto::Builder::new(StreamExecutor {
            write_timeout: limits.write_timeout,
        });
        http.http1()
            .timer(TokioTimer::new())
            // Watched over by ourselves, without a timer for every call.
            .header_read_timeout(None)
            .max_headers(limits.max_headers * BEYOND)
            .max_buf_size((head * BEYOND).max(LEAST_BUFFER));
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_concurrent_streams)
            // A client may cancel all its calls at once, before any of them is accepted. h2 accepts all calls of a read
            // before the next read, so only a client that resets streams faster than they are accepted exceeds this.
            .max_pending_accept_reset_streams(limits.max_concurrent_streams as usize)
            .max_local_error_reset_streams(RESETS_BY_H2)
            .max_header_list_size(u32::try_from(head * BEYOND).unwrap_or(u32::MAX))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(connection_window(limits.max_concurrent_streams))
            .keep_alive_interval(limits.keepalive.ping.interval)
            .keep_alive_timeout(limits.keepalive.ping.timeout);
        http
    }
}

/// Completes the TLS handshake and takes a connection slot. The connection keeps its handshake slot until then.
async fn secured(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    arrival: Arrival,
) -> Option<(TlsStream<TcpStream>, Slot)> {
    let Arrival {
        peer,
        slot,
        connections,
        route: _,
    } = arrival;
    let stream = listen::handshake(config, stream, peer, &slot).await?;
    let taking = connections.take(Holder::network(peer));
    tokio::select! {
        taken = time::timeout(HANDSHAKE_TIMEOUT, taking) => Some((stream, taken.ok()?)),
        () = slot.evicted() => None,
    }
}

fn connection_window(streams: u32) -> u32 {
    let all = STREAM_WINDOW.saturating_mul(streams);
    all.saturating_mul(CONNECTION_WINDOWS).min(MAX_WINDOW)
}
