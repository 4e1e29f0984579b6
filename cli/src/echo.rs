//! `aerostack echo`: an upstream that answers with the request that it received, with secrets as fingerprints.

mod describe;

use std::{convert::Infallible, io, net::SocketAddr, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use chassis::{
    connection_slots::{Eviction, Slot, Slots},
    keepalive::TcpTimeout,
    listen,
    settings::{self, Problems},
    tls,
};
use clap::Args;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Collected, Full, Limited};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::describe::describe;
pub(crate) use self::describe::fingerprint;

/// Largest number of open connections.
const MAX_CONNECTIONS: usize = 1024;

/// Maximum size in bytes of a body whose members are shown.
const MAX_BODY: usize = 64 * 1024;

/// Longest time for running calls after the stop. Answers are made at once, so only slow clients need this time.
const GRACE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack echo --listen 127.0.0.1:8080")]
pub struct EchoArgs {
    /// The address to listen on, for HTTP/1.1 and HTTP/2
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: String,
    /// The certificate chain, PEM; without one the upstream uses cleartext
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The private key, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// The log filter: a level such as `debug`, or directives
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// The checked settings of the upstream.
pub struct Echo {
    listen: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
}

impl EchoArgs {
    /// Checks all settings, and returns all problems at once.
    pub fn check(&self) -> Result<Echo, Problems> {
        let mut problems = Problems::default();
        let listen = problems.address("--listen", &self.listen);
        let (cert, key) = (settings::path(&self.tls_cert), settings::path(&self.tls_key));
        let tls = (cert.is_some() || key.is_some()).then(|| {
            let identity = problems.identity(("--tls-cert", cert), ("--tls-key", key))?;
            problems.take("--tls-cert", tls::http_server(identity, None))
        });
        problems.finish(listen.map(|listen| Echo {
            listen,
            tls: tls.flatten(),
        }))
    }
}

impl Echo {
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        let listener = listen::bind(self.listen, TcpTimeout::default())?;
        tracing::info!(address = %listener.local_addr()?, tls = self.tls.is_some(), "the echo is serving");
        serve(listener, self.tls, stop).await;
        Ok(())
    }
}

/// Serves until `stop` is cancelled, and then waits for the running calls, at most for [`GRACE`].
pub(crate) async fn serve(listener: TcpListener, tls: Option<Arc<ServerConfig>>, stop: CancellationToken) {
    let (connections, slots) = (
        TaskTracker::new(),
        Slots::new("echo", MAX_CONNECTIONS, Eviction::OldestIdle),
    );
    listen::accept(listener, slots, stop.clone(), |stream, peer, slot| {
        let (tls, stop) = (tls.clone(), stop.clone());
        connections.spawn(async move {
            match tls {
                None => serve_connection(stream, slot, stop).await,
                Some(tls) => {
                    let handshake = listen::handshake(tls, stream, peer, &slot);
                    if let Some(Some(stream)) = stop.run_until_cancelled(handshake).await {
                        serve_connection(stream, slot, stop).await;
                    }
                }
            }
        });
    })
    .await;
    connections.close();
    // Calls that are still running after the grace period are dropped.
    let _ = time::timeout(GRACE, connections.wait()).await;
}

/// Serves a connection, which occupies its slot until the connection ends.
async fn serve_connection<S>(stream: S, slot: Slot, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let server = auto::Builder::new(TokioExecutor::new());
    let mut served = pin!(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
    tokio::select! {
        // Errors of the connection concern only its client.
        _ = served.as_mut() => return,
        () = slot.evicted() => return,
        () = stop.cancelled() => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = served.await;
}

/// Returns an answer that describes the request.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    // A body that is too large or ends early has no members to show.
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body.map(Collected::to_bytes).unwrap_or_default();
    let mut text = serde_json::to_vec_pretty(&describe(&head, &body)).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(Full::new(text.into()));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

#[cfg(test)]
mod tests;
