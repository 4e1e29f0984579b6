//! `aerostack echo`: an upstream that answers with what it received, secrets as fingerprints.

use std::{
    collections::BTreeMap, convert::Infallible, io, net::SocketAddr, path::PathBuf, pin::pin, sync::Arc,
    time::Duration,
};

use chassis::{
    keepalive::TcpTimeout,
    listen,
    settings::{self, Problems},
    slots::{Eviction, Slot, Slots},
    tls,
};
use clap::Args;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::ServerConfig;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections at once.
const MAX_CONNECTIONS: usize = 1024;

/// How long calls under way may take at the end; an answer takes no time, so this is for slow clients.
const GRACE: Duration = Duration::from_secs(3);

/// What `aerostack echo` is told.
#[derive(Debug, Clone, Args)]
pub struct EchoArgs {
    /// Where it listens, for HTTP/1.1 and HTTP/2
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: String,
    /// Its certificate chain, PEM; without one it is cleartext
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// What is logged: a level, or a filter
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// What it was told, found right.
pub struct Echo {
    listen: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
}

impl EchoArgs {
    /// Checks everything, and reports everything that is wrong.
    ///
    /// # Errors
    /// [`Problems`].
    pub fn check(&self) -> Result<Echo, Problems> {
        let mut problems = Problems::default();
        let listen = problems.parse("--listen", &self.listen);
        let (cert, key) = (settings::path(&self.tls_cert), settings::path(&self.tls_key));
        let tls = (cert.is_some() || key.is_some()).then(|| {
            let identity = problems.identity(("--tls-cert", cert), ("--tls-key", key))?;
            problems.take("--tls-cert", tls::http_server(identity))
        });
        problems.finish(listen.map(|listen| Echo {
            listen,
            tls: tls.flatten(),
        }))
    }
}

impl Echo {
    /// Serves until `stop`; then finishes the calls under way.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        let listener = listen::bind(self.listen, TcpTimeout::default())?;
        tracing::info!(address = %listener.local_addr()?, tls = self.tls.is_some(), "the echo is serving");
        serve(listener, self.tls, stop).await;
        Ok(())
    }
}

/// Serves on a listener until `stop`; then finishes the calls under way.
pub async fn serve(listener: TcpListener, tls: Option<Arc<ServerConfig>>, stop: CancellationToken) {
    let (connections, slots) = (
        TaskTracker::new(),
        Slots::new("echo", MAX_CONNECTIONS, Eviction::OldestIdle),
    );
    listen::accept(listener, slots, stop.clone(), |stream, peer, slot| {
        let (tls, stop) = (tls.clone(), stop.clone());
        connections.spawn(async move {
            match tls {
                None => connection(stream, slot, stop).await,
                Some(tls) => {
                    let handshake = listen::handshake(tls, stream, peer, &slot);
                    if let Some(Some(stream)) = stop.run_until_cancelled(handshake).await {
                        connection(stream, slot, stop).await;
                    }
                }
            }
        });
    })
    .await;
    connections.close();
    // Whoever has not read his answer by then loses it.
    let _ = time::timeout(GRACE, connections.wait()).await;
}

/// Serves a connection, which keeps its slot until the connection ends.
async fn connection<S>(stream: S, slot: Slot, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let server = auto::Builder::new(TokioExecutor::new());
    let answer = service_fn(|request| std::future::ready(Ok::<_, Infallible>(received(&request))));
    let mut served = pin!(server.serve_connection(TokioIo::new(stream), answer));
    tokio::select! {
        // Its end is its client's affair.
        _ = served.as_mut() => return,
        () = slot.evicted() => return,
        () = stop.cancelled() => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = served.await;
}

/// `sha256:` and the first half of the digest.
#[must_use]
pub fn fingerprint(value: &[u8]) -> String {
    let digest = Sha256::digest(value);
    let half: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{half}…")
}

fn received(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut shown: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in request.headers() {
        let secret = name.as_str().starts_with("x-mcp-secret-") || name == header::AUTHORIZATION;
        let text = || String::from_utf8_lossy(value.as_bytes()).into_owned();
        shown.insert(
            name.as_str(),
            if secret {
                fingerprint(value.as_bytes())
            } else {
                text()
            },
        );
    }
    shown.insert(":path", request.uri().path().to_owned());
    // HTTP/2's `Host`.
    if let Some(authority) = request.uri().authority() {
        shown.insert(":authority", authority.to_string());
    }
    let body = serde_json::to_vec_pretty(&shown).unwrap_or_default();
    let mut response = Response::new(Full::new(body.into()));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}

#[cfg(test)]
#[path = "echo_tests.rs"]
mod tests;
