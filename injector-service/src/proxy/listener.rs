//! The listeners of the data plane: accepted connections are secured with TLS where that is configured, and served.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use chassis::{
    caller::Peer,
    connection_slots::{Holder, Slot, Slots},
    listen::{self, HANDSHAKE_TIMEOUT},
    worker_threads::Detached,
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpStream, UnixStream},
    sync::mpsc,
    time,
};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{ListenerRoute, Proxy, connection::Connection, downstream::Downstream};
use crate::callers::ConnectionPeer;

/// An accepted connection.
pub(crate) enum IncomingConnection {
    Tcp(IncomingTcp),
    /// A connection to the Unix socket, with the uid of its peer and one of the listener's connection slots.
    Unix(Detached<UnixStream>, u32, Slot),
}

/// An accepted TCP connection, before any TLS handshake.
pub(crate) struct IncomingTcp {
    pub(crate) stream: Detached<TcpStream>,
    pub(crate) peer: SocketAddr,
    /// One of the listener's handshake slots when the listener speaks TLS, else one of its connection slots.
    pub(crate) slot: Slot,
    /// The listener's connection slots, of which a TLS connection takes one after its handshake.
    pub(crate) connections: Slots,
    pub(crate) route: Arc<ListenerRoute>,
}

/// The settings of all listeners of the data plane.
#[derive(Clone)]
pub(crate) struct ListenerSettings {
    /// TLS of the TCP listeners.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// The time that calls have to end after the shutdown began.
    pub(crate) grace: Duration,
}

impl Proxy {
    /// Serves connections until the channel of accepted connections closes, and then waits for calls to end.
    pub(crate) async fn serve(
        self: Arc<Self>,
        mut accepted: mpsc::UnboundedReceiver<IncomingConnection>,
        settings: ListenerSettings,
        shutdown: CancellationToken,
    ) {
        let connections = TaskTracker::new();
        while let Some(accepted) = accepted.recv().await {
            self.clone()
                .spawn(&connections, accepted, &settings, shutdown.clone());
        }
        connections.close();
        connections.wait().await;
    }

    /// Serves a connection in a task of its own, whose type has room for this kind of connection only.
    fn spawn(
        self: Arc<Self>,
        connections: &TaskTracker,
        accepted: IncomingConnection,
        settings: &ListenerSettings,
        shutdown: CancellationToken,
    ) {
        let grace = settings.grace;
        match (accepted, settings.tls.clone()) {
            (IncomingConnection::Unix(stream, uid, slot), _) => {
                let Some(stream) = stream.attach() else { return };
                let downstream = Downstream {
                    route: Arc::new(ListenerRoute::Any),
                    peer: ConnectionPeer::LocalUser(uid),
                    scheme: "http",
                };
                connections.spawn(Connection::serve(self, downstream, stream, slot, shutdown, grace));
            }
            (IncomingConnection::Tcp(incoming), None) => {
                let Some(stream) = incoming.stream.attach() else {
                    return;
                };
                let downstream = Downstream {
                    route: incoming.route,
                    peer: ConnectionPeer::Network(Peer::Anonymous),
                    scheme: "http",
                };
                connections.spawn(Connection::serve(
                    self,
                    downstream,
                    stream,
                    incoming.slot,
                    shutdown,
                    grace,
                ));
            }
            (IncomingConnection::Tcp(incoming), Some(config)) => {
                connections.spawn(async move {
                    let route = incoming.route.clone();
                    let secured = shutdown.run_until_cancelled(secure(config, incoming)).await;
                    let Some(Some((stream, slot))) = secured else {
                        return;
                    };
                    let chain = stream.get_ref().1.peer_certificates();
                    let downstream = Downstream {
                        route,
                        peer: ConnectionPeer::Network(Peer::of_verified(chain)),
                        scheme: "https",
                    };
                    Connection::serve(self, downstream, stream, slot, shutdown, grace).await;
                });
            }
        }
    }
}

/// Completes the TLS handshake and takes a connection slot. The connection keeps its handshake slot until then.
async fn secure(config: Arc<ServerConfig>, incoming: IncomingTcp) -> Option<(TlsStream<TcpStream>, Slot)> {
    let IncomingTcp {
        stream,
        peer,
        slot,
        connections,
        route: _,
    } = incoming;
    let stream = listen::handshake(config, stream.attach()?, peer, &slot).await?;
    let taking = connections.take(Holder::network(peer));
    tokio::select! {
        taken = time::timeout(HANDSHAKE_TIMEOUT, taking) => Some((stream, taken.ok()?)),
        () = slot.evicted() => None,
    }
}
