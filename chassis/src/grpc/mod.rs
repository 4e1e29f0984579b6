//! A gRPC server over mutual TLS.
//!
//! [`start`] starts the worker threads, and [`StartedServer::serve`] accepts connections and spreads them over the threads. A worker performs the TLS handshake, asks
//! `Admission` for a slot, and serves the connection ([`connection`]) until it ends.

mod admission;
mod connection;
mod connection_slot;
mod retirement;
mod token_service;
mod write_watchdog;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    authz::AuthzLayer,
    caller::{Caller, Peer},
    connection_slots::Slot,
    jwt::Issuers,
    keepalive::Ping,
    listen,
    worker_threads::{self, Detached, ThreadCount, WorkerThreads},
};
use admission::Admission;
use connection::serve_connection;
use token_service::TokenService;

pub use connection::GrpcService;

/// Largest message of calls about a service itself, health checks and reflection, in bytes. Such a call holds the name
/// of a service, a method or a file.
pub(crate) const MAX_SERVICE_MESSAGE: usize = 4 * 1024;

/// The settings of a server.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Number of worker threads.
    pub threads: ThreadCount,
    /// PING frames to clients.
    pub ping: Ping,
    /// Time that running calls have after the shutdown has begun.
    pub grace: Duration,
}

/// The error of a server that stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The worker threads could not be started.
    #[error("the threads of the gRPC server did not start")]
    Threads(#[from] io::Error),
    /// A worker thread panicked.
    #[error("a thread of the gRPC server ended unexpectedly")]
    ThreadEnded,
}

/// A connection before its handshake, with the peer's address and its handshake slot.
type AcceptedConnection = (Detached<TcpStream>, SocketAddr, Slot);

/// A server whose worker threads run, and which accepts no connection yet.
pub struct StartedServer {
    workers: WorkerThreads<AcceptedConnection, ()>,
    shutdown: CancellationToken,
}

/// Starts the worker threads of a server for `service`, which serves until `shutdown` and then lets running calls finish.
/// `authz` tells which clients hold a role, and `issuers` verify the tokens of clients.
///
/// One worker thread serves a connection from the handshake to the end. On a runtime with several threads a connection
/// with little traffic would move between threads that wake one another, which costs more than a small call itself.
pub fn start<S: GrpcService>(
    tls: Arc<ServerConfig>,
    service: S,
    authz: AuthzLayer,
    issuers: Issuers,
    options: Options,
    shutdown: CancellationToken,
) -> Result<StartedServer, ServeError> {
    let server = Server {
        tls,
        service,
        admission: Admission::new(authz, issuers),
        ping: options.ping,
        shutdown: shutdown.clone(),
    };
    let workers = worker_threads::start((0..options.threads.count()).map(|_| {
        let server = server.clone();
        move |connections| server.serve_accepted(connections, options.grace)
    }))?;
    Ok(StartedServer { workers, shutdown })
}

impl StartedServer {
    /// Serves the connections of `listener` until the shutdown, and waits for running calls.
    pub async fn serve(self, listener: TcpListener) -> Result<(), ServeError> {
        let Self { workers, shutdown } = self;
        listen::accept(
            listener,
            listen::handshake_slots(),
            shutdown,
            |stream, peer, slot| {
                if let Some(stream) = Detached::new(stream) {
                    workers.dispatch((stream, peer, slot));
                }
            },
        )
        .await;
        let mut results = workers.join().await.into_iter();
        results.try_for_each(|result| result.ok_or(ServeError::ThreadEnded))
    }
}

/// The state that all worker threads share.
#[derive(Clone)]
struct Server<S> {
    tls: Arc<ServerConfig>,
    service: S,
    admission: Admission,
    ping: Ping,
    shutdown: CancellationToken,
}

impl<S: GrpcService> Server<S> {
    /// Serves the connections that one worker thread receives. Ends when all of them have ended or `grace` after the last
    /// one was received.
    async fn serve_accepted(
        self,
        mut accepted: mpsc::UnboundedReceiver<AcceptedConnection>,
        grace: Duration,
    ) {
        let connections = TaskTracker::new();
        while let Some((stream, address, slot)) = accepted.recv().await {
            if let Some(stream) = stream.attach() {
                connections.spawn(self.clone().serve_stream(stream, address, slot));
            }
        }
        connections.close();
        if time::timeout(grace, connections.wait()).await.is_err() {
            tracing::warn!("calls still under way after the grace period were cut off");
        }
    }

    async fn serve_stream(self, stream: TcpStream, address: SocketAddr, handshake_slot: Slot) {
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
            let service = TokenService::new(service, admission, slot.clone());
            serve_connection(stream, caller, slot, (limits, ping), service, &shutdown).await;
        }
    }
}

#[cfg(test)]
mod tests;
