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
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Server, server::Connected},
};

use super::{
    authz::Authz,
    caller::Peer,
    lanes::{self, Width},
    listen::{self, Slot},
    opening::Opening,
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
    let lanes = lanes::start((0..width.count()).map(|_| {
        let (tls, routes, authz) = (tls.clone(), routes.clone(), authz.clone());
        let shutdown = shutdown.clone();
        move |connections| serve_lane(connections, tls, routes, authz, shutdown, grace)
    }))?;
    listen::accept(listener, MAX_CONNECTIONS, shutdown, |stream, peer, slot| {
        lanes.give(stream, (peer, slot));
    })
    .await;
    let mut ended = lanes.finish().await.into_iter();
    ended.try_for_each(|one| one.unwrap_or(Err(ServeError::Ended)))
}

/// One lane.
async fn serve_lane(
    mut accepted: mpsc::UnboundedReceiver<lanes::Accepted<(SocketAddr, Slot)>>,
    tls: Arc<ServerConfig>,
    routes: Routes,
    authz: Authz,
    shutdown: CancellationToken,
    grace: Duration,
) -> Result<(), ServeError> {
    let (ready, connections) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Some(accepted) = accepted.recv().await {
            let (tls, ready) = (tls.clone(), ready.clone());
            tokio::spawn(async move {
                let Some((stream, (peer, slot))) = accepted.open() else {
                    return;
                };
                if let Some(tls) = listen::handshake(tls, stream, peer).await {
                    // The receiver is gone only when the server has stopped.
                    drop(ready.send(Ok::<_, io::Error>(Connection::new(tls, slot))).await);
                }
            });
        }
    });
    let serving = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_LIST)
        .http2_max_pending_accept_reset_streams(Some(128))
        .http2_keepalive_interval(Some(Duration::from_secs(60)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .layer(authz)
        .add_routes(routes)
        .serve_with_incoming_shutdown(
            ReceiverStream::new(connections),
            shutdown.clone().cancelled_owned(),
        );
    tokio::select! {
        served = serving => Ok(served?),
        () = async { shutdown.cancelled().await; time::sleep(grace).await } => {
            tracing::warn!("calls still under way after the grace period were cut off");
            Ok(())
        }
    }
}

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its threads could not be started.
    #[error("the threads of the gRPC server did not start")]
    Threads(#[from] io::Error),
    /// It failed.
    #[error("the gRPC server failed")]
    Serve(#[from] tonic::transport::Error),
    /// A thread ended by itself.
    #[error("a thread of the gRPC server ended unexpectedly")]
    Ended,
}

/// A TLS connection, its place among those allowed, and who is at its other end.
struct Connection {
    stream: Opening<TlsStream<TcpStream>>,
    peer: Arc<Peer>,
    _slot: Slot,
}

impl Connection {
    fn new(stream: TlsStream<TcpStream>, slot: Slot) -> Self {
        let peer = Arc::new(Peer::of_verified(stream.get_ref().1.peer_certificates()));
        Self {
            stream: Opening::new(stream, OPENING_TIMEOUT),
            peer,
            _slot: slot,
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
