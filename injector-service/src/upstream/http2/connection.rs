//! One HTTP/2 connection: opens it, waits for the limits that the peer announces, and drives it until it closes.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    client::conn::http2::{Builder, Connection, SendRequest},
    rt::Executor,
};
use hyper_util::rt::TokioTimer;
use tokio::time::timeout;

use super::pool::{ConnectionState, Pool, SlotHoldingBody};
use crate::{
    limits::UpstreamLimits,
    placeholder::SubstitutingStream,
    upstream::{
        dial::{Connector, DialError},
        head,
        socket::Socket,
    },
};

/// Bytes of answers that h2 reads ahead on one stream. Answers that nobody reads use up their own windows and not that of
/// the other answers, because the window of the connection is that of 4,096 streams.
const STREAM_WINDOW: u32 = 256 << 10;
/// Bytes of answers that h2 reads ahead on one connection. The window also bounds the small DATA frames that wait: h2 counts
/// each as 256 bytes, allows up to half of this window, and ends the connection beyond that.
const CONNECTION_WINDOW: u32 = 1 << 30;
/// Cancelled calls that h2 remembers for one second each, to ignore the rest of their answers. When h2 has forgotten a
/// call, each frame that arrives for the call counts towards [`MAX_RESETS_BY_H2`].
const REMEMBERED_RESETS: usize = 10_000;
/// Resets that h2 may send on one connection by itself, over the connection's whole life, before it ends the connection.
const MAX_RESETS_BY_H2: usize = 64 << 10;

type HyperConnection = Connection<SubstitutingStream<Socket>, SlotHoldingBody, SpawnAndWake>;

/// A connection whose peer has announced how many calls it allows. It makes progress while [`OpenConnection::drive`] runs.
pub(super) struct OpenConnection {
    pub(super) sender: SendRequest<SlotHoldingBody>,
    pub(super) state: Arc<ConnectionState>,
    connection: Pin<Box<HyperConnection>>,
}

impl OpenConnection {
    /// Connects, and waits for the peer's SETTINGS frame. Returns `None` when the peer chose HTTP/1.1.
    pub(super) async fn open(
        pool: &Arc<Pool>,
        connector: &Connector,
        ping_timeout: Duration,
    ) -> Result<Option<Self>, DialError> {
        let ping_interval = connector.ping_interval();
        let stream = connector.connect().await?;
        if !stream.is_http2() {
            return Ok(None);
        }
        let state = ConnectionState::new(pool);
        let alert = stream.get_ref().client_certificate_alert();
        let failed = |error| alert.take().map_or(DialError::Http2(error), DialError::tls);
        let (sender, connection) = builder(SpawnAndWake(state.clone()), pool.limits)
            .keep_alive_interval(ping_interval)
            .keep_alive_timeout(ping_timeout)
            .handshake(stream)
            .await
            .map_err(failed)?;
        let mut open = Self {
            sender,
            state,
            connection: Box::pin(connection),
        };
        poll_fn(|context| open.poll_settings(context))
            .await
            .map_err(failed)?;
        // h2 reports an error of the socket that comes before the first answer as an ordinary end of the connection.
        match alert.take() {
            Some(fault) => Err(DialError::tls(fault)),
            None => Ok(Some(open)),
        }
    }

    /// Drives the connection until the peer's SETTINGS frame has arrived, or the connection is closed. A call notices the
    /// closed connection when it sends its request.
    fn poll_settings(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.state.settings.register(context.waker());
        if let Poll::Ready(closed) = self.connection.as_mut().poll(context) {
            return Poll::Ready(closed);
        }
        self.state
            .set_max_calls(self.connection.current_max_send_streams());
        match self.state.has_settings() {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    /// Drives the connection until it is closed, and retires it when no call has used it for `idle_timeout`.
    pub(super) async fn drive(self, pool: Weak<Pool>, idle_timeout: Duration) {
        let Self {
            sender,
            state,
            mut connection,
        } = self;
        // hyper closes a connection when every sender is gone.
        drop(sender);
        let mut closed = pin!(poll_fn(|context| {
            // hyper reports an error to the calls on the connection, too.
            let closed = connection.as_mut().poll(context).map(drop);
            state.set_max_calls(connection.current_max_send_streams());
            closed
        }));
        while timeout(idle_timeout, closed.as_mut()).await.is_err() {
            if let Some(pool) = pool.upgrade() {
                pool.retire_if_unused(&state);
            }
        }
        if let Some(pool) = pool.upgrade() {
            pool.retire(&state);
        }
    }
}

fn builder(executor: SpawnAndWake, limits: UpstreamLimits) -> Builder<SpawnAndWake> {
    let mut builder = Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        // No call is sent before the peer has announced how many it allows.
        .initial_max_send_streams(0)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .max_local_error_reset_streams(MAX_RESETS_BY_H2)
        // hyper takes a retired connection with one call left for an idle one.
        .keep_alive_while_idle(true)
        .max_header_list_size(head::http2_list_size(limits));
    builder
}

/// Spawns the tasks of one connection. hyper does not tell when the peer's SETTINGS frame arrives, so the connection is
/// polled again each time that one of these tasks has made progress, until the frame has arrived.
#[derive(Clone)]
struct SpawnAndWake(Arc<ConnectionState>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for SpawnAndWake {
    fn execute(&self, task: F) {
        tokio::spawn(WakingTask {
            task,
            state: self.0.clone(),
        });
    }
}

pin_project_lite::pin_project! {
    struct WakingTask<F> {
        #[pin]
        task: F,
        state: Arc<ConnectionState>,
    }
}

impl<F: Future<Output = ()>> Future for WakingTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let done = this.task.poll(context);
        if !this.state.has_settings() {
            this.state.settings.wake();
        }
        done
    }
}
