//! The listener: accepts a bounded number of connections, and serves HTTP/1.1 on each.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use chassis::{
    connection_slots::{Eviction, Slot, Slots},
    keepalive::TcpTimeout,
    listen,
};
use http::Request;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpStream, task, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    activity::Activity,
    app::{App, Site},
    args::ConsoleSettings,
    browser,
    error::ConsoleError,
    peer_user::foreign_user,
    router,
    services::Services,
    sign_in::SignIns,
};
use crate::connect::Connection;

/// Maximum number of connections. A browser opens six to one site. The oldest one without a running request gives its slot to a
/// newcomer.
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
    let (vault_metrics, injector_metrics) = connection.metrics().map_err(ConsoleError::Connection)?;
    let activity = Arc::new(Activity::of(injector_metrics, vault_metrics));
    let services = Services::of(connection).map_err(ConsoleError::Connection)?;
    let listener = listen::bind(listen, TcpTimeout::default()).map_err(ConsoleError::Listen)?;
    let app = Arc::new(App {
        services,
        sign_ins: SignIns::default(),
        site: Site::of(listener.local_addr().map_err(ConsoleError::Listen)?),
        activity: activity.clone(),
        live_streams: Arc::default(),
        stopping: shutdown.clone(),
    });
    browser::invite(&app, opens_browser)?;
    let router = router::router(app);
    let slots = Slots::new("console", MAX_CONNECTIONS, Eviction::OldestIdle);
    let connections = TaskTracker::new();
    let stop = shutdown.clone();
    let sampler_stop = shutdown.clone();
    let sampler = tokio::spawn(async move { activity.run(sampler_stop).await });
    listen::accept(listener, slots, shutdown, |stream, peer, slot| {
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            slot.started();
            if is_admitted(&stream, peer).await {
                serve_connection(stream, slot, router, stop).await;
            }
        });
    })
    .await;
    connections.close();
    // Requests that take longer are given up.
    drop(time::timeout(SHUTDOWN_TIMEOUT, connections.wait()).await);
    // A panic of the sampler ended only the samples.
    drop(sampler.await);
    Ok(())
}

/// Returns false for a connection of another user of the machine.
async fn is_admitted(stream: &TcpStream, peer: SocketAddr) -> bool {
    let Ok(local) = stream.local_addr() else {
        return false;
    };
    let foreign = task::spawn_blocking(move || foreign_user(peer, local)).await;
    match foreign {
        Ok(Some(uid)) => {
            tracing::warn!(uid, "connection of another user closed");
            false
        }
        Ok(None) => true,
        // The lookup panicked, or the runtime is shutting down.
        Err(_) => false,
    }
}

async fn serve_connection(stream: TcpStream, slot: Slot, router: Router, stop: CancellationToken) {
    let slot = Arc::new(slot);
    let evicted = slot.evicted();
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let running = RunningRequest::begin(&slot);
        let answer = router.call(request);
        async move {
            let answer = answer.await;
            drop(running);
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        // A newer connection needs the slot of this one, on which no request is running.
        () = evicted => return,
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

/// Keeps a connection from being evicted while a request is running on it.
struct RunningRequest(Arc<Slot>);

impl RunningRequest {
    fn begin(slot: &Arc<Slot>) -> Self {
        slot.call_began();
        Self(slot.clone())
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.0.call_ended();
    }
}
