//! HTTP/2 connections to one server: as many as its calls need.
//!
//! A connection carries as many calls at once as its peer allows (RFC 9113, section 5.1.2). When all are full, another one
//! is made; when there may be no more of them, a call waits for a place, and not for ever. hyper by itself would keep it
//! in a queue of the one connection that it shares.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, Connection, SendRequest},
    rt::Executor,
};
use hyper_util::rt::TokioTimer;
use proto::Refusal;
use tokio::{sync::Notify, time::timeout};

use super::{
    Body, BodyError, broken,
    dial::{Connector, DialError, Socket},
    head,
};
use crate::{limits::UpstreamLimits, placeholder::SubstitutingStream};

/// Bytes of answers that h2 reads ahead on one stream, and on one connection. The window of the connection is that of
/// 4,096 streams, so that answers that nobody reads use up their own windows and not that of the other answers. It also
/// bounds the small DATA frames that wait: h2 counts each as 256 bytes, allows up to half of this window, and ends the
/// connection beyond that.
const WINDOWS: (u32, u32) = (256 << 10, 1 << 30);
/// Cancelled calls that h2 remembers for one second each, to ignore what still arrives of their answers. When h2 has
/// forgotten a call, each frame that arrives for it counts towards [`RESETS_BY_H2`].
const REMEMBERED_RESETS: usize = 10_000;
/// Resets that h2 may send on one connection by itself, over the connection's whole life, before it ends the connection.
const RESETS_BY_H2: usize = 64 << 10;

type Driven = Connection<SubstitutingStream<Socket>, Sent, Spawning>;

/// The connections to one server. When this is dropped, they close as soon as they carry nothing.
pub(super) struct Http2(Arc<Pool>);

struct Pool {
    limits: UpstreamLimits,
    ping_timeout: Duration,
    connections: Mutex<Connections>,
    /// Calls that wait for a place.
    waiting: AtomicUsize,
    /// Tells one of them that it may find one.
    changed: Notify,
}

#[derive(Default)]
struct Connections {
    open: Vec<Open>,
    /// One is made at a time, so that calls that come at once share it.
    dialling: bool,
    /// Whether one that was not needed could not be made. No further one is tried.
    spread_failed: bool,
}

/// A connection that takes calls. Dropped, it takes no more, and closes when those under way have ended.
struct Open {
    send: SendRequest<Sent>,
    load: Arc<Load>,
}

/// What a connection carries.
struct Load {
    pool: Weak<Pool>,
    calls: AtomicUsize,
    /// As many calls as its peer allows; none before the peer has said so.
    most: AtomicUsize,
    /// Whether it was used since this was asked last.
    used: AtomicBool,
    /// Woken for as long as the peer has said nothing.
    unsettled: AtomicWaker,
}

/// The place of one call on its connection: free again when it is dropped.
pub(crate) struct StreamSlot(Arc<Load>);

/// A place, and the way to it.
struct Found {
    send: SendRequest<Sent>,
    place: Arc<StreamSlot>,
    /// Nothing was sent on it before.
    fresh: bool,
}

/// What becomes of a request.
pub(super) enum Outcome {
    /// It was answered.
    Answered(Response<Incoming>, Arc<StreamSlot>),
    /// It was not sent: the server chose HTTP/1.1.
    Http1(Request<Body>),
    /// The server did not process it, and it may be sent again.
    NotProcessed(RefusingConnection),
}

/// The connection on which the server did not process a request.
pub(crate) struct RefusingConnection(Arc<Load>);

impl Http2 {
    pub(super) fn new(limits: UpstreamLimits, ping_timeout: Duration) -> Self {
        Self(Arc::new(Pool {
            limits,
            ping_timeout,
            connections: Mutex::default(),
            waiting: AtomicUsize::new(0),
            changed: Notify::new(),
        }))
    }

    /// Sends one request, on another connection than `refusing` where there may be one. After it its connection takes no
    /// more if it is to be `last`, also when nobody waits for the answer any more.
    pub(super) async fn send(
        &self,
        mut request: Request<Body>,
        connector: &Connector,
        last: bool,
        refusing: &[RefusingConnection],
    ) -> Result<Outcome, Refusal> {
        loop {
            let found = match self.0.find(refusing) {
                Some(found) => {
                    if found.is_shared() {
                        self.0.spread(connector);
                    }
                    Some(found)
                }
                // Seldom, and large: not a part of every call's state.
                None => Box::pin(self.0.wait(connector, refusing)).await?,
            };
            let Some(Found {
                mut send,
                place,
                fresh,
            }) = found
            else {
                return Ok(Outcome::Http1(request));
            };
            let _last = last.then(|| Last(&place));
            let kept = place.clone();
            let sent = send.try_send_request(request.map(|body| Sent { body, _place: kept }));
            drop(send);
            match sent.await {
                Ok(response) => return Ok(Outcome::Answered(response, place.clone())),
                Err(mut error) => match error.take_message() {
                    // The connection was closed before anything of the request was sent.
                    Some(unsent) if !fresh => request = unsent.map(|sent| sent.body),
                    Some(_) => return Ok(Outcome::NotProcessed(RefusingConnection(place.0.clone()))),
                    None => return self.0.failed(&error.into_error(), &place),
                },
            }
        }
    }
}

/// Returns true when the server did not process the request (RFC 9113, section 8.7): its stream is above the last stream
/// of a GOAWAY frame, or was reset with REFUSED_STREAM.
///
/// h2 reports a GOAWAY frame that it received for these streams, and for requests that come after the frame, whose
/// streams h2 does not open. A stream that the server may have processed ends with another error when the connection is
/// closed.
fn was_not_processed(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let error = source.and_then(|source| source.downcast_ref::<h2::Error>());
    error.is_some_and(|error| {
        error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// Takes the connection of a place out of use.
struct Last<'p>(&'p StreamSlot);

impl Drop for Last<'_> {
    fn drop(&mut self) {
        if let Some(pool) = self.0.0.pool.upgrade() {
            pool.retire(&self.0.0);
        }
    }
}

/// What there is for a call that has no place.
enum Chance {
    Found(Found),
    /// It is to make a connection.
    Dial,
    /// It is to wait: a connection is being made, or there may be no more.
    Wait,
}

impl Pool {
    /// Decides what becomes of a request that got no answer.
    fn failed(&self, error: &hyper::Error, place: &StreamSlot) -> Result<Outcome, Refusal> {
        let refusal = broken(error);
        if !was_not_processed(error) {
            return Err(refusal);
        }
        Ok(Outcome::NotProcessed(RefusingConnection(place.0.clone())))
    }

    /// A place that is free now, on another connection than `refusing`.
    fn find(&self, refusing: &[RefusingConnection]) -> Option<Found> {
        self.lock().find(refusing)
    }

    /// A place, once there is one. None when the server does not speak HTTP/2.
    async fn wait(
        self: &Arc<Self>,
        connector: &Connector,
        refusing: &[RefusingConnection],
    ) -> Result<Option<Found>, Refusal> {
        let _waiting = Waiting::new(self);
        let waiting = async {
            loop {
                match self.chance(refusing) {
                    Chance::Found(found) => {
                        // There may be more.
                        self.changed.notify_one();
                        return Ok(Some(found));
                    }
                    Chance::Dial => return self.clone().dial(connector.clone()).await,
                    Chance::Wait => self.changed.notified().await,
                }
            }
        };
        let found = timeout(self.limits.connect_timeout, waiting).await;
        let found = found.unwrap_or_else(|_| match self.lock().open.is_empty() {
            true => Err(DialError::Timeout),
            false => Err(DialError::Full),
        });
        found.map_err(|error| error.refusal())
    }

    fn chance(&self, refusing: &[RefusingConnection]) -> Chance {
        let mut connections = self.lock();
        let is_full = connections.open.len() >= self.limits.max_http2_connections;
        // When there may be no further connection, one that refused the request has to do.
        let refusing = if is_full { &[] } else { refusing };
        if let Some(found) = connections.find(refusing) {
            return Chance::Found(found);
        }
        if connections.dialling || is_full {
            return Chance::Wait;
        }
        connections.dialling = true;
        Chance::Dial
    }

    /// Makes a further connection beside the calls, when the host has more addresses than the pool has connections: so
    /// calls that come together are spread over the addresses.
    fn spread(self: &Arc<Self>, connector: &Connector) {
        let addresses = connector.addresses().min(self.limits.max_http2_connections);
        let mut connections = self.lock();
        if connections.open.len() >= addresses || connections.dialling || connections.spread_failed {
            return;
        }
        connections.dialling = true;
        let dialled = self.clone().dial(connector.clone());
        drop(connections);
        let pool = self.clone();
        tokio::spawn(async move {
            let dialled = dialled.await;
            // The address failed, or its server speaks HTTP/1.1.
            pool.lock().spread_failed |= !matches!(dialled, Ok(Some(_)));
        });
    }

    /// Makes a connection, to its end: others wait for it, though this call may be given up.
    async fn dial(self: Arc<Self>, connector: Connector) -> Result<Option<Found>, DialError> {
        let limit = self.limits.connect_timeout;
        let dialling = Dialling(self);
        let dialled = tokio::spawn(async move {
            let connected = timeout(limit, connect(&dialling.0, &connector)).await;
            let Some((send, load, connection)) = connected.unwrap_or(Err(DialError::Timeout))? else {
                return Ok(None);
            };
            let found = dialling.0.lock().add(Open {
                send,
                load: load.clone(),
            });
            let idle = dialling.0.limits.idle_timeout;
            tokio::spawn(keep(Arc::downgrade(&dialling.0), load, connection, idle));
            Ok(Some(found))
        });
        // Nothing in it panics, and nobody aborts it; and if so, there is no connection.
        dialled.await.unwrap_or(Err(DialError::Timeout))
    }

    /// No call is sent on this connection any more.
    fn retire(&self, load: &Arc<Load>) {
        self.lock().open.retain(|open| !Arc::ptr_eq(&open.load, load));
        self.tell();
    }

    /// Retires a connection on which nothing happened since this was asked last.
    fn retire_if_unused(&self, load: &Arc<Load>) {
        let used = |open: &Open| load.used.swap(false, Relaxed) || open.load.calls.load(Relaxed) > 0;
        self.lock()
            .open
            .retain(|open| !Arc::ptr_eq(&open.load, load) || used(open));
    }

    /// A call has ended, and it was the last one on its connection if that is `empty`.
    fn ended(&self, load: &Arc<Load>, empty: bool) {
        self.tell();
        if empty && self.limits.max_idle < self.limits.max_http2_connections {
            let mut connections = self.lock();
            let empty = connections.open.iter().filter(|open| open.load.is_empty());
            if empty.count() > self.limits.max_idle {
                connections.open.retain(|open| !Arc::ptr_eq(&open.load, load));
            }
        }
    }

    fn tell(&self) {
        if self.waiting.load(Relaxed) > 0 {
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    /// On the connection with the fewest calls, and on the first of several. So calls that come one by one share a
    /// connection, and those made for a rush are idle after it.
    fn find(&mut self, refusing: &[RefusingConnection]) -> Option<Found> {
        self.open.retain(|open| !open.send.is_closed());
        let refused = |open: &Open| {
            refusing
                .iter()
                .any(|refusing| Arc::ptr_eq(&refusing.0, &open.load))
        };
        let open = self.open.iter().filter(|open| !open.is_full() && !refused(open));
        let open = open.min_by_key(|open| open.load.calls.load(Relaxed))?;
        Some(open.place(false))
    }

    /// A place on a new connection, which others may share.
    fn add(&mut self, open: Open) -> Found {
        let found = open.place(true);
        self.open.push(open);
        found
    }
}

impl Found {
    /// Whether other calls are under way on the connection.
    fn is_shared(&self) -> bool {
        self.place.0.calls.load(Relaxed) > 1
    }
}

impl Open {
    /// Places are given under the pool's lock alone.
    fn place(&self, fresh: bool) -> Found {
        self.load.calls.fetch_add(1, Relaxed);
        self.load.used.store(true, Relaxed);
        Found {
            send: self.send.clone(),
            place: Arc::new(StreamSlot(self.load.clone())),
            fresh,
        }
    }

    fn is_full(&self) -> bool {
        self.load.calls.load(Relaxed) >= self.load.most.load(Relaxed)
    }
}

impl Load {
    fn is_empty(&self) -> bool {
        self.calls.load(Relaxed) == 0
    }

    /// Notes how many calls the peer allows, and tells of it when that is more than before.
    fn allows(&self, most: usize) {
        if self.most.swap(most, Relaxed) < most
            && let Some(pool) = self.pool.upgrade()
        {
            pool.tell();
        }
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let before = self.0.calls.fetch_sub(1, Relaxed);
        if let Some(pool) = self.0.pool.upgrade() {
            pool.ended(&self.0, before == 1);
        }
    }
}

/// A call that waits, counted.
struct Waiting<'p>(&'p Pool);

impl<'p> Waiting<'p> {
    fn new(pool: &'p Pool) -> Self {
        pool.waiting.fetch_add(1, Relaxed);
        Self(pool)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// The turn to make a connection: over when it is dropped, and then somebody else's.
struct Dialling(Arc<Pool>);

impl Drop for Dialling {
    fn drop(&mut self) {
        self.0.lock().dialling = false;
        self.0.tell();
    }
}

/// A connection whose peer has said how many calls it allows. None when it does not speak HTTP/2.
async fn connect(
    pool: &Arc<Pool>,
    connector: &Connector,
) -> Result<Option<(SendRequest<Sent>, Arc<Load>, Pin<Box<Driven>>)>, DialError> {
    let interval = connector.ping_interval();
    let stream = connector.connect().await?;
    if !stream.is_http2() {
        return Ok(None);
    }
    let load = Arc::new(Load {
        pool: Arc::downgrade(pool),
        calls: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        used: AtomicBool::new(false),
        unsettled: AtomicWaker::new(),
    });
    let complaint = stream.get_ref().complaint();
    let failed = |error| complaint.take().map_or(DialError::Http2(error), DialError::tls);
    let (send, connection) = builder(Spawning(load.clone()), interval, pool.ping_timeout, pool.limits)
        .handshake(stream)
        .await
        .map_err(failed)?;
    let mut connection = Box::pin(connection);
    std::future::poll_fn(|context| settle(&load, connection.as_mut(), context))
        .await
        .map_err(failed)?;
    // h2 reports an error of the socket that comes before the first answer as an ordinary end of the connection.
    if let Some(fault) = complaint.take() {
        return Err(DialError::tls(fault));
    }
    Ok(Some((send, load, connection)))
}

/// Waits for the peer's settings, with which it begins.
fn settle(
    load: &Load,
    mut connection: Pin<&mut Driven>,
    context: &mut Context<'_>,
) -> Poll<hyper::Result<()>> {
    load.unsettled.register(context.waker());
    match connection.as_mut().poll(context) {
        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
        // Closed: found when it is used.
        Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
        Poll::Pending => {}
    }
    load.allows(connection.current_max_send_streams());
    match load.most.load(Relaxed) {
        0 => Poll::Pending,
        1.. => Poll::Ready(Ok(())),
    }
}

/// Does what a connection has to do, until it is closed; that it takes calls ends when nothing happens on it.
async fn keep(pool: Weak<Pool>, load: Arc<Load>, mut connection: Pin<Box<Driven>>, idle: Duration) {
    let mut driven = pin!(std::future::poll_fn(|context| {
        // How it ended is told to its calls.
        let ended = connection.as_mut().poll(context).map(drop);
        load.allows(connection.current_max_send_streams());
        ended
    }));
    while timeout(idle, driven.as_mut()).await.is_err() {
        if let Some(pool) = pool.upgrade() {
            pool.retire_if_unused(&load);
        }
    }
    if let Some(pool) = pool.upgrade() {
        pool.retire(&load);
    }
}

fn builder(
    spawning: Spawning,
    ping_interval: Duration,
    ping_timeout: Duration,
    limits: UpstreamLimits,
) -> Builder<Spawning> {
    let mut builder = Builder::new(spawning);
    builder
        .timer(TokioTimer::new())
        // Not before the peer has said how many.
        .initial_max_send_streams(0)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .max_local_error_reset_streams(RESETS_BY_H2)
        .keep_alive_interval(ping_interval)
        .keep_alive_timeout(ping_timeout)
        // hyper takes a connection that was retired, and has one call left, for an idle one.
        .keep_alive_while_idle(true)
        .max_header_list_size(head::list_size(limits));
    builder
}

/// Spawns what drives one connection. hyper does not tell when the peer's settings come: so after whatever is done
/// before that, it is asked.
#[derive(Clone)]
struct Spawning(Arc<Load>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawning {
    fn execute(&self, work: F) {
        tokio::spawn(Work {
            work,
            load: self.0.clone(),
        });
    }
}

pin_project_lite::pin_project! {
    struct Work<F> {
        #[pin]
        work: F,
        load: Arc<Load>,
    }
}

impl<F: Future<Output = ()>> Future for Work<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let done = this.work.poll(context);
        if this.load.most.load(Relaxed) == 0 {
            this.load.unsettled.wake();
        }
        done
    }
}

/// A request's body, which keeps the call's place: its stream lasts until both bodies have ended.
struct Sent {
    body: Body,
    _place: Arc<StreamSlot>,
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
