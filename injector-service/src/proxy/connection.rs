//! One connection of the data plane: its HTTP, and afterwards the protocol that it was upgraded to, if any.

use std::{convert::Infallible, ops::ControlFlow, pin::pin, sync::Arc, time::Duration};

use chassis::connection_slots::Slot;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Proxy,
    delayed_error::DelayedErrorBody,
    downstream::Downstream,
    http_server::{self, LIBRARY_LIMITS},
    request_head::HeadCheckingStream,
    upgrade::ConnectionUpgrade,
    watchdog::{CloseReason, Watchdog, WatchedStream},
};

/// The time in which an idle HTTP/2 connection that lost its slot has to close in order, with a GOAWAY frame.
const EVICTION_GRACE: Duration = Duration::from_millis(100);

pub(super) struct Connection {
    proxy: Arc<Proxy>,
    downstream: Arc<Downstream>,
    watchdog: Arc<Watchdog>,
    upgrade: ConnectionUpgrade,
    shutdown: CancellationToken,
}

impl Connection {
    /// Serves the connection until it ends, or until `grace` after the shutdown began.
    pub(super) async fn serve(
        proxy: Arc<Proxy>,
        downstream: Downstream,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        slot: Slot,
        shutdown: CancellationToken,
        grace: Duration,
    ) {
        let evicted = slot.evicted();
        let watchdog = Watchdog::new(slot);
        let connection = Self {
            proxy,
            downstream: Arc::new(downstream),
            upgrade: ConnectionUpgrade::new(watchdog.clone()),
            watchdog,
            shutdown,
        };
        let served = async {
            // hyper's connection is dropped before the tunnel runs. The tunnel would wait for a failed connection for
            // ever.
            if connection.serve_http(stream, evicted).await.is_continue() {
                let idle = connection.proxy.limits.upgraded_idle_timeout;
                connection.upgrade.run_tunnel(idle).await;
            }
        };
        let grace_is_over = async {
            connection.shutdown.cancelled().await;
            sleep(grace).await;
        };
        tokio::select! {
            () = served => {}
            () = grace_is_over => tracing::warn!("calls still under way after the grace period were cut off"),
        }
    }

    /// Serves HTTP until the connection ends, or breaks when the watchdog closes it.
    async fn serve_http(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        evicted: impl Future<Output = ()>,
    ) -> ControlFlow<()> {
        let Self {
            proxy,
            downstream,
            watchdog,
            upgrade,
            shutdown,
        } = self;
        let limits = &proxy.limits;
        let calls = service_fn(|request| {
            let (proxy, downstream, upgrade) = (proxy.clone(), downstream.clone(), upgrade.clone());
            let call = watchdog.begin_call();
            async move {
                let until = proxy.limits.max_call_duration.map(|limit| Instant::now() + limit);
                // Boxed, because hyper reserves memory for this future in every connection even between HTTP/1.1 calls,
                // and in every HTTP/2 stream while the response is sent.
                let response = Box::pin(proxy.call(&downstream, request, until, call)).await;
                Ok::<_, Infallible>(upgrade.record(response).map(DelayedErrorBody::new))
            }
        });
        let stream = WatchedStream::new(stream, watchdog.clone());
        let stream = HeadCheckingStream::new(stream, watchdog.clone(), limits, LIBRARY_LIMITS);
        let http = http_server::builder(limits);
        let mut connection = pin!(http.serve_connection_with_upgrades(TokioIo::new(stream), calls));
        let mut evicted = pin!(evicted);
        let mut check = pin!(sleep(Duration::ZERO));
        let (mut is_closing, mut has_slot) = (false, true);
        loop {
            tokio::select! {
                // The error of a failed connection is not logged, because each of its calls has reported its own failure.
                _ = connection.as_mut() => return ControlFlow::Continue(()),
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                    return ControlFlow::Continue(());
                }
                () = evicted.as_mut(), if has_slot => has_slot = false,
                () = check.as_mut() => {}
            }
            let next_check = match watchdog.check(limits) {
                Ok(next_check) => next_check,
                Err(CloseReason::Idle) if !is_closing => {
                    is_closing = true;
                    connection.as_mut().graceful_shutdown();
                    if has_slot {
                        limits.head_timeout
                    } else {
                        EVICTION_GRACE
                    }
                }
                Err(reason) => {
                    tracing::debug!(?reason, "connection closed");
                    return ControlFlow::Break(());
                }
            };
            check.as_mut().reset(Instant::now() + next_check);
        }
    }
}
