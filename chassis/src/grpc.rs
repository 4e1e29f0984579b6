//! Serving gRPC over mutual TLS.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time,
};
use tokio_stream::StreamExt as _;
use tokio_util::{
    sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned},
    task::TaskTracker,
};
use tonic::{
    body::Body,
    transport::{Server, server::Connected},
};
use tower::Service;

use super::{
    authz::AuthzLayer,
    caller::{Caller, Peer},
    keepalive::Ping,
    lanes::{self, Width},
    listen,
    opening::Opening,
    retire::{Calls, Counting},
    slots::{Eviction, Holder, Slot, Slots},
    unwritten::{Unwritten, Watching},
};

/// How long the first bytes of a connection may take after its handshake.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for which a client may accept no byte of an answer before its connection is closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that a connection at its maximum age gives its running calls to finish.
const AGED_GRACE: Duration = Duration::from_secs(5);
/// Resets that h2 may send on one connection by itself, before it ends the connection. tonic's default is no limit, and
/// a client that reads nothing could then fill the memory with them.
const RESETS_BY_H2: usize = 1024;
/// Largest message of calls about a service itself, health checks and reflection, in bytes. Such a call holds the name
/// of a service, a method or a file.
pub const MAX_SERVICE_MESSAGE: usize = 4 * 1024;

/// Resource limits of one connection.
struct ConnectionLimits {
    /// Maximum number of concurrent streams.
    streams: u32,
    /// Maximum size of a header list that the client sends, in bytes.
    header_list: u32,
    /// HTTP/2 flow-control windows of one stream and of the connection, in bytes; `None` keeps hyper's defaults.
    windows: Option<(u32, u32)>,
    /// Time for which the connection accepts new calls; `None` sets no limit.
    age: Option<Duration>,
}

/// Maximum number of concurrent connections of principals with a role.
const MAX_CONNECTIONS: usize = 10_000;
/// Limits of one connection of a principal with a role.
const WITH_ROLE: ConnectionLimits = ConnectionLimits {
    streams: 1_000,
    header_list: 32 * 1024,
    windows: None,
    age: None,
};

/// Maximum number of concurrent connections of clients that have no certificate, or no role. Such clients may only
/// check the service's health, so a few short connections are enough. All these connections together take 33 MiB when
/// every stream is open and has 4 KiB of headers.
const MAX_WITHOUT_ROLE: usize = 256;
/// Limits of one connection of a client without a role.
const WITHOUT_ROLE: ConnectionLimits = ConnectionLimits {
    streams: 8,
    header_list: 8 * 1024,
    windows: Some((16 * 1024, 64 * 1024)),
    age: Some(Duration::from_secs(30)),
};

/// A service that answers calls: the handlers behind the authorization layer.
pub trait Answering:
    Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<S> Answering for S where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// How a service is served.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The number of threads.
    pub width: Width,
    /// PING frames to clients.
    pub ping: Ping,
    /// Time that calls under way have after the shutdown has begun.
    pub grace: Duration,
}

/// Serves `service` until `shutdown`; then lets calls under way finish. `authz` tells which connections are of clients
/// with a role.
///
/// Each connection is served by one thread of several ([`lanes`]), from its handshake on: a connection that carries
/// little would otherwise wander between threads that wake one another for it, at the price of many a call.
pub async fn serve<S: Answering>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    service: S,
    authz: AuthzLayer,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let serving = Serving {
        tls,
        service,
        admission: Admission::new(authz),
        ping: options.ping,
        shutdown: shutdown.clone(),
    };
    let lanes = lanes::start((0..options.width.count()).map(|_| {
        let serving = serving.clone();
        move |connections| serving.lane(connections, options.grace)
    }))?;
    listen::accept(
        listener,
        listen::handshake_slots(),
        shutdown,
        |stream, peer, slot| {
            lanes.give(stream, (peer, slot));
        },
    )
    .await;
    let mut ended = lanes.finish().await.into_iter();
    ended.try_for_each(|one| one.ok_or(ServeError::Ended))
}

/// Decides which connections are served once their clients are known.
#[derive(Clone)]
struct Admission {
    authz: AuthzLayer,
    with_role: Slots,
    without_role: Slots,
}

impl Admission {
    fn new(authz: AuthzLayer) -> Self {
        Self {
            authz,
            with_role: Slots::new("client with a role", MAX_CONNECTIONS, Eviction::FromLargerHolder),
            without_role: Slots::new("client without a role", MAX_WITHOUT_ROLE, Eviction::OldestIdle),
        }
    }

    /// Returns a slot for a connection of `peer` and the connection's limits; `None` when the connection is refused.
    fn admit(&self, peer: &Peer, address: SocketAddr) -> Option<(Slot, &'static ConnectionLimits)> {
        if let Some(principal) = self.authz.with_role(peer) {
            let holder = Holder::Principal(principal.clone());
            let slot = self.with_role.try_take(&holder);
            if slot.is_none() {
                tracing::warn!(%principal, "connection refused: the principal has its share of all connections");
            }
            return Some((slot?, &WITH_ROLE));
        }
        let slot = self.without_role.try_take(&Holder::network(address))?;
        // A newcomer can evict this connection even while a call is running.
        slot.started();
        Some((slot, &WITHOUT_ROLE))
    }
}

/// State that all serving threads share.
#[derive(Clone)]
struct Serving<S> {
    tls: Arc<ServerConfig>,
    service: S,
    admission: Admission,
    ping: Ping,
    shutdown: CancellationToken,
}

impl<S: Answering> Serving<S> {
    /// Serves the accepted connections that this lane's thread receives.
    async fn lane(
        self,
        mut accepted: mpsc::UnboundedReceiver<lanes::Accepted<(SocketAddr, Slot)>>,
        grace: Duration,
    ) {
        let connections = TaskTracker::new();
        while let Some(accepted) = accepted.recv().await {
            if let Some((stream, (address, slot))) = accepted.open() {
                connections.spawn(self.clone().accepted(stream, address, slot));
            }
        }
        connections.close();
        if time::timeout(grace, connections.wait()).await.is_err() {
            tracing::warn!("calls still under way after the grace period were cut off");
        }
    }

    async fn accepted(self, stream: TcpStream, address: SocketAddr, handshake_slot: Slot) {
        let Self {
            tls,
            service,
            admission,
            ping,
            shutdown,
        } = self;
        let handshake = listen::handshake(tls, stream, address, &handshake_slot);
        let Some(Some(stream)) = shutdown.run_until_cancelled(handshake).await else {
            return;
        };
        let peer = Peer::of_verified(stream.get_ref().1.peer_certificates());
        let admitted = admission.admit(&peer, address);
        drop(handshake_slot);
        if let Some((slot, limits)) = admitted {
            let peer = Arc::new(peer);
            let caller = Caller { peer, address };
            serve_connection(stream, caller, slot, (limits, ping), service, &shutdown).await;
        }
    }
}

/// One connection, until its client closes it, it is evicted, or its client does not take an answer
/// ([`unwritten`](super::unwritten)); or until it is not to be kept ([`retire`](super::retire)), has reached its age, or
/// `shutdown` comes, and calls under way on it have ended.
///
/// tonic ends all connections of a server together, and so each gets one of its own.
async fn serve_connection<IO, S: Answering>(
    stream: IO,
    caller: Caller,
    slot: Slot,
    (limits, ping): (&ConnectionLimits, Ping),
    service: S,
    shutdown: &CancellationToken,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (closed, evictor) = (shutdown.child_token(), slot.evictor());
    let connection = Connection::new(stream, caller, slot, closed.clone().drop_guard());
    let (calls, unwritten) = (Calls::new(), Unwritten::default());
    let service = Watching::new(Counting::new(service, calls.clone()), unwritten.clone());
    let age = limits.age;
    let over = async move {
        let aged_or_over = async {
            tokio::select! {
                () = calls.over() => {}
                () = after(age) => {}
            }
        };
        let _ = closed.run_until_cancelled(aged_or_over).await;
    };
    let (stream_window, connection_window) = limits.windows.unzip();
    let served = Server::builder()
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .http2_max_header_list_size(limits.header_list)
        .http2_max_pending_accept_reset_streams(Some(limits.streams as usize))
        .http2_max_local_error_reset_streams(Some(RESETS_BY_H2))
        .http2_keepalive_interval(Some(ping.interval))
        .http2_keepalive_timeout(Some(ping.timeout))
        .serve_with_incoming_shutdown(
            service,
            tokio_stream::once(Ok::<_, io::Error>(connection)).chain(tokio_stream::pending()),
            over,
        );
    let cut_off = async {
        tokio::select! {
            () = after(age.map(|age| age + AGED_GRACE)) => {}
            () = unwritten.stalled(WRITE_TIMEOUT) => {
                tracing::debug!("connection closed: its client does not take an answer");
            }
        }
        evictor.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::warn!(%error, "connection not served");
        },
        () = cut_off => {}
    }
}

/// Completes after `duration`; never completes when `duration` is `None`.
async fn after(duration: Option<Duration>) {
    match duration {
        Some(duration) => time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its threads could not be started.
    #[error("the threads of the gRPC server did not start")]
    Threads(#[from] io::Error),
    /// A thread ended by itself.
    #[error("a thread of the gRPC server ended unexpectedly")]
    Ended,
}

/// A connection, its slot and its caller. Reads and writes fail once the connection is evicted.
struct Connection<IO> {
    stream: Opening<IO>,
    caller: Caller,
    evicted: Pin<Box<WaitForCancellationFutureOwned>>,
    _slot: Slot,
    _closed: DropGuard,
}

impl<IO> Connection<IO> {
    fn new(stream: IO, caller: Caller, slot: Slot, closed: DropGuard) -> Self {
        Self {
            stream: Opening::new(stream, OPENING_TIMEOUT),
            caller,
            evicted: Box::pin(slot.evicted()),
            _slot: slot,
            _closed: closed,
        }
    }

    /// Returns `polled`, or an error when `polled` is pending and the connection is evicted.
    fn unless_evicted<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_pending() && self.evicted.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        polled
    }
}

impl<IO> Connected for Connection<IO> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.caller.clone()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Connection<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.unless_evicted(context, polled)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Connection<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.unless_evicted(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.unless_evicted(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.unless_evicted(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.unless_evicted(context, polled)
    }
}

#[cfg(test)]
#[path = "grpc_tests.rs"]
mod tests;
