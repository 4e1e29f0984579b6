//! Accepting connections: bounded in number, with handshakes beside the accept loop so that a slow one delays nobody.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

/// How long a TLS handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// An accepted connection's place among those allowed at once, given back when dropped.
pub type Slot = OwnedSemaphorePermit;

/// Accepts until `shutdown`, and gives each connection to `serve` with its place among the `limit` allowed at once.
/// Past the limit connections wait in the kernel's queue.
pub async fn accept(
    listener: TcpListener,
    limit: usize,
    shutdown: CancellationToken,
    mut serve: impl FnMut(TcpStream, SocketAddr, Slot),
) {
    let slots = Arc::new(Semaphore::new(limit));
    loop {
        let Some(Ok(slot)) = shutdown.run_until_cancelled(slots.clone().acquire_owned()).await else {
            return;
        };
        let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await else {
            return;
        };
        match accepted {
            Ok((stream, peer)) => {
                // Fails only for a connection that is already gone.
                let _ = stream.set_nodelay(true);
                serve(stream, peer, slot);
            }
            Err(error) => {
                // Out of descriptors, most likely: without a pause this loop would take the whole processor.
                tracing::warn!(%error, "connection not accepted");
                time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// The server's side of a TLS handshake with `peer`, within [`HANDSHAKE_TIMEOUT`]. One that fails is logged.
pub async fn handshake(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    peer: SocketAddr,
) -> Option<TlsStream<TcpStream>> {
    let late = || Err(io::Error::new(io::ErrorKind::TimedOut, "handshake took too long"));
    let shaken = time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await;
    shaken
        .unwrap_or_else(|_| late())
        .inspect_err(|error| tracing::info!(%peer, %error, "tls handshake refused"))
        .ok()
}

/// Accepts TLS connections; those whose handshake succeeded come out of the receiver.
pub fn accept_tls(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    limit: usize,
    shutdown: CancellationToken,
) -> mpsc::Receiver<(TlsStream<TcpStream>, Slot)> {
    let (ready, connections) = mpsc::channel(64);
    tokio::spawn(async move {
        accept(listener, limit, shutdown, |stream, peer, slot| {
            let (config, ready) = (config.clone(), ready.clone());
            tokio::spawn(async move {
                if let Some(tls) = handshake(config, stream, peer).await {
                    // The receiver is gone only when the server has stopped.
                    drop(ready.send((tls, slot)).await);
                }
            });
        })
        .await;
    });
    connections
}
