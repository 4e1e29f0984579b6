//! Serving gRPC over mutual TLS.

use std::{
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
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt as _;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tonic::{
    service::Routes,
    transport::{Server, server::Connected},
};
use tower::Layer as _;

use super::{
    authz::{Authz, AuthzService},
    caller::Peer,
    lanes::{self, Width},
    listen::{self, Slot},
    opening::Opening,
    retire::{Calls, Counting},
};

/// Connections at once.
const MAX_CONNECTIONS: usize = 10_000;
/// Streams at once on one connection.
const MAX_STREAMS: u32 = 1_000;
/// How long the first bytes of a connection may take after its handshake.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of header list that a client may send.
const MAX_HEADER_LIST: u32 = 32 * 1024;

/// Serves `routes` behind `authz` until `shutdown`; then lets calls under way finish, for `grace` at the most.
///
/// Each connection is served by one thread of several ([`lanes`]), from its handshake on: a connection that carries
/// little would otherwise wander between threads that wake one another for it, at the price of many a call.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    routes: Routes,
    authz: Authz,
    width: Width,
    shutdown: CancellationToken,
    grace: Duration,
) -> Result<(), ServeError> {
    let service = authz.layer(routes.prepare());
    let lanes = lanes::start((0..width.count()).map(|_| {
        let (tls, service, shutdown) = (tls.clone(), service.clone(), shutdown.clone());
        move |connections| serve_lane(connections, tls, service, shutdown, grace)
    }))?;
    listen::accept(listener, MAX_CONNECTIONS, shutdown, |stream, peer, slot| {
        lanes.give(stream, (peer, slot));
    })
    .await;
    let mut ended = lanes.finish().await.into_iter();
    ended.try_for_each(|one| one.ok_or(ServeError::Ended))
}

/// One lane.
async fn serve_lane(
    mut accepted: mpsc::UnboundedReceiver<lanes::Accepted<(SocketAddr, Slot)>>,
    tls: Arc<ServerConfig>,
    service: AuthzService<Routes>,
    shutdown: CancellationToken,
    grace: Duration,
) {
    let connections = TaskTracker::new();
    while let Some(accepted) = accepted.recv().await {
        let Some((stream, (peer, slot))) = accepted.open() else {
            continue;
        };
        let (tls, service, shutdown) = (tls.clone(), service.clone(), shutdown.clone());
        connections.spawn(async move {
            let handshake = listen::handshake(tls, stream, peer);
            if let Some(Some(stream)) = shutdown.run_until_cancelled(handshake).await {
                serve_connection(stream, slot, service, &shutdown).await;
            }
        });
    }
    connections.close();
    if time::timeout(grace, connections.wait()).await.is_err() {
        tracing::warn!("calls still under way after the grace period were cut off");
    }
}

/// One connection, until its client closes it; or until it is not to be kept ([`retire`](super::retire)) or `shutdown`
/// comes, and calls under way on it have ended.
///
/// tonic ends all connections of a server together, and so each gets one of its own.
async fn serve_connection(
    stream: TlsStream<TcpStream>,
    slot: Slot,
    service: AuthzService<Routes>,
    shutdown: &CancellationToken,
) {
    let closed = shutdown.child_token();
    let connection = Connection::new(stream, slot, closed.clone().drop_guard());
    let calls = Calls::new();
    let service = Counting::new(service, calls.clone());
    let over = async move {
        let _ = closed.run_until_cancelled(calls.over()).await;
    };
    let served = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_LIST)
        .http2_max_pending_accept_reset_streams(Some(128))
        .http2_keepalive_interval(Some(Duration::from_secs(60)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .serve_with_incoming_shutdown(
            service,
            tokio_stream::once(Ok::<_, io::Error>(connection)).chain(tokio_stream::pending()),
            over,
        )
        .await;
    if let Err(error) = served {
        tracing::warn!(%error, "connection not served");
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

/// A TLS connection, its place among those allowed, and who is at its other end.
struct Connection {
    stream: Opening<TlsStream<TcpStream>>,
    peer: Arc<Peer>,
    _slot: Slot,
    _closed: DropGuard,
}

impl Connection {
    fn new(stream: TlsStream<TcpStream>, slot: Slot, closed: DropGuard) -> Self {
        let peer = Arc::new(Peer::of_verified(stream.get_ref().1.peer_certificates()));
        Self {
            stream: Opening::new(stream, OPENING_TIMEOUT),
            peer,
            _slot: slot,
            _closed: closed,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
