//! Accepting connections: bounded in number, with handshakes beside the accept loop so that a slow one delays nobody.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

/// How long a TLS handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that may wait to be accepted; the system allows fewer where `net.core.somaxconn` says so. One that comes
/// when there are more tries again after a second.
const BACKLOG: u32 = 4096;

/// Listens on `address`.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listen = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // A service that was restarted gets its address although connections of its predecessor still fade.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
}

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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_of_connections_waits_to_be_accepted() {
        /// More than the 128 that wait where nothing else is asked for.
        const BURST: usize = 300;
        /// Less than what a connection waits that was turned away, until it tries again.
        const AT_ONCE: Duration = Duration::from_millis(900);
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while waiting.len() < BURST {
            let connected = time::timeout(AT_ONCE, TcpStream::connect(address)).await;
            waiting.push(connected.expect("one was turned away").unwrap());
        }
    }
}
