//! The listeners of the data plane: accepted connections are secured with TLS where that is configured, and served.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use chassis::{
    connection_slots::{Holder, Slot, Slots},
    listen::{self, HANDSHAKE_TIMEOUT},
    tls::ServerTls,
    worker_threads::AcceptedConnection,
};
use tokio::{net::TcpStream, sync::mpsc, time};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{ListenerRoute, Proxy, connection::Connection};

/// An accepted connection, before any TLS handshake.
pub(crate) struct IncomingConnection {
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
    pub(crate) tls: Option<ServerTls>,
    /// The time that calls have to end after the shutdown began.
    pub(crate) grace: Duration,
}

impl Proxy {
    /// Serves connections until the channel of accepted connections closes, and then waits for calls to end.
    pub(crate) async fn serve(
        self: Arc<Self>,
        mut accepted: mpsc::UnboundedReceiver<AcceptedConnection<IncomingConnection>>,
        settings: ListenerSettings,
        shutdown: CancellationToken,
    ) {
        let connections = TaskTracker::new();
        while let Some(accepted) = accepted.recv().await {
            let Some((stream, incoming)) = accepted.open() else {
                continue;
            };
            let (proxy, shutdown, grace) = (self.clone(), shutdown.clone(), settings.grace);
            let route = incoming.route.clone();
            match settings.tls.clone() {
                None => {
                    connections.spawn(Connection::serve(
                        proxy,
                        route,
                        stream,
                        incoming.slot,
                        shutdown,
                        grace,
                    ));
                }
                Some(tls) => {
                    connections.spawn(async move {
                        let secured = secure(tls, stream, incoming);
                        if let Some(Some((stream, slot))) = shutdown.run_until_cancelled(secured).await {
                            Connection::serve(proxy, route, stream, slot, shutdown, grace).await;
                        }
                    });
                }
            }
        }
        connections.close();
        connections.wait().await;
    }
}

/// Completes the TLS handshake and takes a connection slot. The connection keeps its handshake slot until then.
async fn secure(
    tls: ServerTls,
    stream: TcpStream,
    incoming: IncomingConnection,
) -> Option<(TlsStream<TcpStream>, Slot)> {
    let IncomingConnection {
        peer,
        slot,
        connections,
        route: _,
    } = incoming;
    let (stream, _) = listen::handshake(&tls, stream, peer, &slot).await?;
    let taking = connections.take(Holder::network(peer));
    tokio::select! {
        taken = time::timeout(HANDSHAKE_TIMEOUT, taking) => Some((stream, taken.ok()?)),
        () = slot.evicted() => None,
    }
}
