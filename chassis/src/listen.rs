//! Listeners and TLS handshakes. The number of connections is bounded, and a handshake runs outside of the accept loop, so
//! that a slow client delays no other.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::pin,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{
    connection_slots::{Eviction, Holder, Slot, Slots},
    keepalive::TcpTimeout,
    log_limit::LogLimit,
    telemetry::field,
    tls::{PeerTrust, ServerTls},
};

/// Time limit for a TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for which a new handshake cannot be evicted. A live client sends its first message within this time.
const PROMPT: Duration = Duration::from_millis(100);
/// Maximum number of concurrent handshakes on one listener. A handshake takes 23 KiB of memory, before the client's
/// first message and after it.
const MAX_HANDSHAKES: usize = 1024;

/// Length of the kernel's queue of connections that wait to be accepted; `net.core.somaxconn` may reduce it. A client that
/// finds the queue full tries again after a second.
pub(crate) const BACKLOG: u32 = 4096;

/// Listens on `address`. `tcp_timeout` is the timeout of each accepted connection. The error names the address and, for
/// the usual causes, the remedy.
pub fn bind(address: SocketAddr, tcp_timeout: TcpTimeout) -> io::Result<TcpListener> {
    let listen = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // Allows a restarted service to bind its address while old connections are still in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        tcp_timeout.set(&socket);
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| {
        let cause = cause_of(&error, address.port());
        io::Error::new(error.kind(), format!("cannot listen on {address}: {cause}"))
    })
}

fn cause_of(error: &io::Error, port: u16) -> String {
    match error.kind() {
        // Linux gives outgoing connections ports of `net.ipv4.ip_local_port_range`, from 32768 on.
        io::ErrorKind::AddrInUse => format!(
            "another process or an outgoing connection holds this port; `ss -tanp sport = :{port}` shows which"
        ),
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have this address (`ip address` lists those that it \
                                            has; 0.0.0.0 and [::] mean all of them)"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied if port < 1024 => {
            "ports below 1024 need the capability CAP_NET_BIND_SERVICE; a higher port needs none".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Makes slots for the handshakes of one listener. A newcomer evicts the oldest handshake that waits for its client, so
/// clients that connect and send nothing cannot keep others out.
pub fn handshake_slots() -> Slots {
    Slots::new("handshake", MAX_HANDSHAKES, Eviction::OldestIdle)
}

/// A socket that accepts connections.
pub trait Listener {
    /// An accepted connection.
    type Stream;
    /// The facts about the peer that the system knows.
    type Peer;
    /// Accepts the next connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;
    /// Returns the holder that a connection of `peer` counts for.
    fn holder(peer: &Self::Peer) -> Holder;
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    type Peer = SocketAddr;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.accept().await?;
        // Fails only for a connection that is already closed.
        let _ = stream.set_nodelay(true);
        Ok((stream, peer))
    }

    fn holder(peer: &SocketAddr) -> Holder {
        Holder::network(*peer)
    }
}

/// Accepts connections until `shutdown` and gives each to `serve` with one of `slots`, which count by the peer's
/// network or user. While no slot is free, further connections wait in the kernel's queue.
pub async fn accept<L: Listener>(
    listener: L,
    slots: Slots,
    shutdown: CancellationToken,
    mut serve: impl FnMut(L::Stream, L::Peer, Slot),
) {
    loop {
        let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await else {
            return;
        };
        match accepted {
            Ok((stream, peer)) => {
                let slot = slots.take(L::holder(&peer));
                let Some(slot) = shutdown.run_until_cancelled(slot).await else {
                    return;
                };
                serve(stream, peer, slot);
            }
            Err(error) => {
                // The usual cause is a lack of file descriptors, and evicting the oldest idle connection frees one. The
                // pause keeps this loop from using a whole processor core.
                static LIMIT: LogLimit = LogLimit::for_strangers();
                if let Some(suppressed) = LIMIT.admit(Instant::now()) {
                    tracing::warn!(%error, { field::SUPPRESSED } = suppressed, "connection not accepted");
                }
                slots.evict_unused();
                time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Performs the server's side of a TLS handshake with `peer`, and returns the trust in the client's certificate as well. The
/// handshake fails after [`HANDSHAKE_TIMEOUT`], or when `slot`, one of [`handshake_slots`], is evicted. A failure is logged.
pub async fn handshake(
    tls: &ServerTls,
    stream: TcpStream,
    peer: SocketAddr,
    slot: &Slot,
) -> Option<(TlsStream<TcpStream>, PeerTrust)> {
    let setup = tls.handshake();
    let setup = setup.inspect_err(|error| log_refused(peer, error)).ok()?;
    let mut handshake = pin!(TlsAcceptor::from(setup.config.clone()).accept(stream));
    let in_time = async {
        if let Ok(done) = time::timeout(PROMPT, handshake.as_mut()).await {
            return done;
        }
        slot.started();
        let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "handshake took too long"));
        let rest = HANDSHAKE_TIMEOUT.saturating_sub(PROMPT);
        time::timeout(rest, handshake.as_mut()).await.unwrap_or_else(late)
    };
    let stream = tokio::select! {
        done = in_time => done
            .inspect_err(|error| log_refused(peer, error))
            .ok()?,
        () = slot.evicted() => {
            tracing::debug!(%peer, "tls handshake given up for a newer one");
            return None;
        }
    };
    let trust = setup.trust(stream.get_ref().1.peer_certificates());
    Some((stream, trust))
}

fn log_refused(peer: SocketAddr, error: &impl fmt::Display) {
    static LIMIT: LogLimit = LogLimit::for_strangers();
    if let Some(suppressed) = LIMIT.admit(Instant::now()) {
        tracing::info!(%peer, %error, { field::SUPPRESSED } = suppressed, "tls handshake refused");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_error_for_a_port_in_use_mentions_outgoing_connections() {
        let server = bind("127.0.0.1:0".parse().unwrap(), TcpTimeout::default()).unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
        let held = client.local_addr().unwrap();
        let refused = bind(held, TcpTimeout::default()).unwrap_err().to_string();
        assert_eq!(
            refused,
            format!(
                "cannot listen on {held}: another process or an outgoing connection holds this port; `ss -tanp sport = :{}` \
                 shows which",
                held.port()
            )
        );
    }

    #[tokio::test]
    async fn the_error_for_an_address_of_another_machine_names_a_command_that_lists_the_own_ones() {
        // RFC 5737 reserves 192.0.2.0/24 for documentation.
        let refused = bind("192.0.2.1:7150".parse().unwrap(), TcpTimeout::default()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrNotAvailable);
        assert_eq!(
            refused.to_string(),
            "cannot listen on 192.0.2.1:7150: this machine does not have this address (`ip address` lists those that it \
             has; 0.0.0.0 and [::] mean all of them)"
        );
    }

    #[tokio::test]
    async fn a_burst_of_connections_waits_to_be_accepted() {
        /// More than the default queue length of 128.
        const BURST: usize = 300;
        /// Less than the second after which a client tries again.
        const AT_ONCE: Duration = Duration::from_millis(900);
        let listener = bind("127.0.0.1:0".parse().unwrap(), TcpTimeout::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while waiting.len() < BURST {
            let connected = time::timeout(AT_ONCE, TcpStream::connect(address)).await;
            waiting.push(connected.expect("one was turned away").unwrap());
        }
    }
}
