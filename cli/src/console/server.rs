//! The listener: accepts a bounded number of connections, and serves HTTP/1.1 on each.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::Router;
use chassis::{
    connection_slots::{Eviction, Slots},
    keepalive::TcpTimeout,
    listen,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpStream, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    app::{App, Site},
    args::ConsoleSettings,
    browser,
    error::ConsoleError,
    router,
    services::Services,
    sign_in::SignIns,
};
use crate::connect::Connection;

/// Maximum number of connections. A browser opens six to one site.
const MAX_CONNECTIONS: usize = 64;
/// Time within which the head of the next request must arrive on a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of a request's head in bytes.
const MAX_HEAD: usize = 32 * 1024;
/// Time that running requests get when the console stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Serves the console until `shutdown`.
pub(super) async fn run(
    settings: ConsoleSettings,
    connection: Connection,
    shutdown: CancellationToken,
) -> Result<(), ConsoleError> {
    let ConsoleSettings {
        listen,
        opens_browser,
    } = settings;
    let services = Services::of(connection).map_err(ConsoleError::Connection)?;
    let listener = listen::bind(listen, TcpTimeout::default()).map_err(ConsoleError::Listen)?;
    let app = Arc::new(App {
        services,
        sign_ins: SignIns::default(),
        site: Site::of(listener.local_addr().map_err(ConsoleError::Listen)?),
    });
    browser::invite(&app, opens_browser)?;
    let router = router::router(app);
    let slots = Slots::new("console", MAX_CONNECTIONS, Eviction::OldestIdle);
    let connections = TaskTracker::new();
    let stop = shutdown.clone();
    listen::accept(listener, slots, shutdown, |stream, _, slot| {
        let connection = serve_connection(stream, router.clone(), stop.clone());
        connections.spawn(async move {
            connection.await;
            drop(slot);
        });
    })
    .await;
    connections.close();
    // Requests that take longer are given up.
    drop(time::timeout(SHUTDOWN_TIMEOUT, connections.wait()).await);
    Ok(())
}

async fn serve_connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // A browser that goes away is the usual cause.
        tracing::debug!(%error, "connection ended");
    }
}
