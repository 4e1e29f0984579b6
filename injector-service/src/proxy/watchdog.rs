//! What a downstream connection is doing, and when it ends because it does nothing.
//!
//! One timer for a connection watches over three limits. It is set anew only when it fires, so a call costs no timer:
//! the calls, and the stream below them, only note what happens and when.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use chassis::slots::Slot;
use http::Method;
use http_body::{Body as _, Frame, SizeHint};
use proto::{Reason, Refusal};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep, sleep_until},
};

use super::{answer, body, request_head::SUBSTITUTE_METHOD, stream_timeout};
use crate::{
    limits::Limits,
    upstream::{Body, BodyError},
};

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI ";
/// No count of bytes that came.
const NOT_HTTP2: usize = usize::MAX;
/// No moment.
const NEVER: u64 = 0;

/// What a connection is doing. Moments are milliseconds from its beginning on, and one more.
pub(super) struct Watchdog {
    began: Instant,
    /// The connection's slot, which counts its calls.
    slot: Slot,
    /// When the last of them ended.
    idle_since: AtomicU64,
    /// When the first byte of a head came whose call has not begun.
    head_since: AtomicU64,
    /// Since when the other end takes nothing.
    stuck_since: AtomicU64,
    /// How many bytes came first as they do in HTTP/2; [`NOT_HTTP2`] when others did.
    preface: AtomicUsize,
    /// Whether heads are told from one another by HTTP/2.
    http2: AtomicBool,
    /// Whether something of a request was not read, and may still come.
    unread: AtomicBool,
    /// Whether the connection goes on in another protocol.
    switched: AtomicBool,
    /// Why the last request is not forwarded, when it is no request.
    malformed: OnceLock<Refusal>,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is well, and to be looked at again in this time.
    Well(Duration),
    /// The connection has had no call for its idle time, or has lost its slot to another connection.
    Idle,
    /// A head takes too long.
    SlowHead,
    /// Nothing of what is written to it is taken.
    Stuck,
}

impl Watchdog {
    pub(super) fn new(slot: Slot) -> Arc<Self> {
        slot.started();
        Arc::new(Self {
            began: Instant::now(),
            slot,
            idle_since: AtomicU64::new(1),
            head_since: AtomicU64::new(NEVER),
            stuck_since: AtomicU64::new(NEVER),
            preface: AtomicUsize::new(0),
            http2: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            switched: AtomicBool::new(false),
            malformed: OnceLock::new(),
        })
    }

    /// A call begins; it ends when what is returned is dropped.
    pub(super) fn call(self: &Arc<Self>) -> ActiveCall {
        self.slot.call_began();
        self.head_since.store(NEVER, Relaxed);
        ActiveCall(self.clone())
    }

    pub(super) fn verdict(&self, limits: &Limits) -> Verdict {
        let now = self.now();
        let lasting = |since: u64| Duration::from_millis(now.saturating_sub(since));
        let mut again = limits.idle_timeout.min(limits.write_timeout);
        if !self.http2.load(Relaxed) {
            again = again.min(limits.head_timeout);
        }
        let stuck = self.stuck_since.load(Relaxed);
        if stuck != NEVER {
            let Some(left) = left(limits.write_timeout, lasting(stuck)) else {
                return Verdict::Stuck;
            };
            again = again.min(left);
        }
        if self.slot.is_idle() {
            if self.slot.is_evicted() {
                return Verdict::Idle;
            }
            let head = self.head_since.load(Relaxed);
            if head != NEVER {
                let Some(left) = left(limits.head_timeout, lasting(head)) else {
                    return Verdict::SlowHead;
                };
                again = again.min(left);
            }
            let Some(left) = left(limits.idle_timeout, lasting(self.idle_since.load(Relaxed))) else {
                return Verdict::Idle;
            };
            again = again.min(left);
        }
        // Never at once: a clock of milliseconds would be asked again and again.
        Verdict::Well(again.max(Duration::from_millis(5)))
    }

    /// The connection goes on in another protocol.
    pub(super) fn switch(&self) {
        self.switched.store(true, Relaxed);
    }

    pub(super) fn is_switched(&self) -> bool {
        self.switched.load(Relaxed)
    }

    /// True when no call is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.slot.is_idle()
    }

    /// What came is no request, and nothing after it is read.
    pub(super) fn refuse(&self, refusal: Refusal) {
        self.unread.store(true, Relaxed);
        // There is one at most: nothing is read after it.
        let _ = self.malformed.set(refusal);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn received(&self, came: &[u8]) {
        if !self.slot.is_idle() || self.http2.load(Relaxed) {
            return;
        }
        if self.completes_preface(came) {
            self.http2.store(true, Relaxed);
            self.head_since.store(NEVER, Relaxed);
        } else if self.head_since.load(Relaxed) == NEVER {
            self.head_since.store(self.now(), Relaxed);
        }
    }

    /// Whether it is HTTP/2, now that this came. What it begins with may come in pieces.
    fn completes_preface(&self, came: &[u8]) -> bool {
        let before = self.preface.load(Relaxed);
        let Some(rest) = PREFACE.get(before..) else {
            return false;
        };
        let new = rest.len().min(came.len());
        let so_far = match rest.starts_with(came) || came.starts_with(rest) {
            true => before + new,
            false => NOT_HTTP2,
        };
        self.preface.store(so_far, Relaxed);
        so_far == PREFACE.len()
    }

    fn wrote<T>(&self, written: Poll<T>) -> Poll<T> {
        match (&written, self.stuck_since.load(Relaxed)) {
            (Poll::Pending, NEVER) => self.stuck_since.store(self.now(), Relaxed),
            (Poll::Pending, _) | (Poll::Ready(_), NEVER) => {}
            (Poll::Ready(_), _) => self.stuck_since.store(NEVER, Relaxed),
        }
        written
    }
}

fn left(limit: Duration, lasting: Duration) -> Option<Duration> {
    limit.checked_sub(lasting).filter(|left| !left.is_zero())
}

/// A call that has not ended.
pub(super) struct ActiveCall(Arc<Watchdog>);

impl Drop for ActiveCall {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Relaxed);
        self.0.slot.call_ended();
    }
}

impl ActiveCall {
    /// The call's request has a body over HTTP/1.1.
    pub(super) fn unread(&self) -> UnreadBody {
        self.0.unread.store(true, Relaxed);
        UnreadBody(self.0.clone())
    }

    /// Why the call is refused before it is looked at. `method` is its method.
    pub(super) fn malformed(&self, method: &Method) -> Option<Refusal> {
        let is_stand_in = method.as_str() == SUBSTITUTE_METHOD;
        self.0.malformed.get().filter(|_| is_stand_in).cloned()
    }
}

/// A request's body that has not come to its end.
pub(super) struct UnreadBody(Arc<Watchdog>);

impl UnreadBody {
    /// Nothing of it is still to come.
    pub(super) fn came_to_its_end(self) {
        self.0.unread.store(false, Relaxed);
    }
}

/// How long a connection is still read after its last answer, when a request's rest may come.
const LINGER: Duration = Duration::from_secs(5);
/// How often at once.
const READS: usize = 16;

/// A connection that notes what comes and goes over it.
pub(super) struct WatchedStream<S> {
    stream: S,
    activity: Arc<Watchdog>,
    lingers: Option<Pin<Box<Sleep>>>,
}

impl<S> WatchedStream<S> {
    pub(super) fn new(stream: S, activity: Arc<Watchdog>) -> Self {
        Self {
            stream,
            activity,
            lingers: None,
        }
    }
}

impl<S: AsyncRead + Unpin> WatchedStream<S> {
    /// Reads until the other end has closed its side, or its time is over: closed with unread bytes, the connection would
    /// be reset, and the other end could lose the answer.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let limit = self.lingers.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if limit.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let mut scratch = [MaybeUninit::uninit(); 8 * 1024];
        for _ in 0..READS {
            let mut buffer = ReadBuf::uninit(&mut scratch);
            let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(());
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(came @ [_, ..]) = buffer.filled().get(before..) {
            self.activity.received(came);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.activity.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.activity.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = ready!(Pin::new(&mut self.stream).poll_shutdown(context));
        if closed.is_ok() && self.activity.unread.load(Relaxed) {
            ready!(self.poll_linger(context));
        }
        Poll::Ready(closed)
    }
}

/// The body of an answer, with whose end the call ends; it breaks off when the call lasts longer than it may.
pub(super) struct DeadlineBody {
    body: Body,
    limit: Option<Pin<Box<Sleep>>>,
    late: AtDeadline,
    _call: ActiveCall,
}

/// How an answer ends that lasts too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtDeadline {
    /// It breaks off.
    Abort,
    /// Trailers say so, as in gRPC.
    GrpcTrailers,
}

impl DeadlineBody {
    /// An answer that lasts until its body ends, or until then.
    pub(super) fn new(body: Body, until: Option<Instant>, late: AtDeadline, call: ActiveCall) -> Self {
        let until = until.filter(|_| !body.is_end_stream());
        Self {
            limit: until.map(|until| Box::pin(sleep_until(until))),
            body,
            late,
            _call: call,
        }
    }

    /// The end of an answer whose time is over. Nothing is awaited of the upstream any more.
    fn cut(&mut self) -> Result<Frame<Bytes>, BodyError> {
        self.limit = None;
        self.body = body::empty();
        let refusal = Refusal::new(Reason::DeadlineExceeded, "the call lasted longer than it may");
        match self.late {
            AtDeadline::Abort => Err(refusal.into()),
            AtDeadline::GrpcTrailers => Ok(Frame::trailers(answer::trailers(&refusal))),
        }
    }
}

impl http_body::Body for DeadlineBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(limit) = &mut self.limit
            && limit.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Some(self.cut()));
        }
        let polled = Pin::new(&mut self.body).poll_frame(context);
        stream_timeout::note(&polled);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use chassis::{
        settings::Problems,
        slots::{Eviction, Holder, Slots},
    };
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::advance,
    };

    use super::*;
    use crate::limits::LimitSettings;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> Limits {
        let settings = LimitSettings {
            head_timeout: "3s".to_owned(),
            idle_timeout: "10s".to_owned(),
            write_timeout: "5s".to_owned(),
            ..Default::default()
        };
        settings.check(&mut Problems::default()).unwrap()
    }

    fn slots() -> Slots {
        Slots::new("test", 1, Eviction::OldestIdle)
    }

    fn take(slots: &Slots) -> Option<Slot> {
        slots.try_take(&Holder::network(([192, 0, 2, 1], 1).into()))
    }

    fn activity() -> Arc<Watchdog> {
        Watchdog::new(take(&slots()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_lost_its_slot_is_idle_once_its_calls_have_ended() {
        let (slots, limits) = (slots(), limits());
        let activity = Watchdog::new(take(&slots).unwrap());
        let call = activity.call();
        assert!(take(&slots).is_none(), "a busy connection keeps its slot");
        drop(call);
        let _newcomer = take(&slots).unwrap();
        assert_eq!(activity.verdict(&limits), Verdict::Idle);
        let _late = activity.call();
        assert!(matches!(activity.verdict(&limits), Verdict::Well(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_only_between_calls() {
        let (activity, limits) = (activity(), limits());
        assert_eq!(activity.verdict(&limits), Verdict::Well(3 * SECOND));
        advance(8 * SECOND).await;
        let (one, other) = (activity.call(), activity.call());
        advance(20 * SECOND).await;
        assert_eq!(activity.verdict(&limits), Verdict::Well(3 * SECOND));
        drop(one);
        advance(20 * SECOND).await;
        assert_eq!(activity.verdict(&limits), Verdict::Well(3 * SECOND));
        drop(other);
        advance(9 * SECOND).await;
        assert_eq!(activity.verdict(&limits), Verdict::Well(SECOND));
        advance(SECOND).await;
        assert_eq!(activity.verdict(&limits), Verdict::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_from_its_first_byte_on_and_http2_has_none() {
        let limits = limits();
        for (first, verdict) in [
            ("G", Verdict::SlowHead),
            ("PRI * HTTP/2.0", Verdict::Well(SECOND)),
        ] {
            let activity = activity();
            let (near, mut far) = duplex(64);
            let mut watched = WatchedStream::new(near, activity.clone());
            advance(6 * SECOND).await;
            far.write_all(first.as_bytes()).await.unwrap();
            assert!(watched.read(&mut [0; 64]).await.unwrap() > 0);
            advance(2 * SECOND).await;
            assert!(matches!(activity.verdict(&limits), Verdict::Well(_)), "{first}");
            far.write_all(b"E").await.unwrap();
            watched.read_u8().await.unwrap();
            advance(SECOND).await;
            assert_eq!(activity.verdict(&limits), verdict, "{first}");
            // It was whole in time.
            let call = activity.call();
            assert!(matches!(activity.verdict(&limits), Verdict::Well(_)), "{first}");
            drop(call);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn http2_is_told_also_when_its_first_bytes_come_one_by_one() {
        let limits = limits();
        for (pieces, verdict) in [
            (&["P", "R", "I", " * HTTP/2.0"][..], Verdict::Well(SECOND)),
            (&["PR", "I * HTTP"], Verdict::Well(SECOND)),
            (&["P", "R"], Verdict::SlowHead),
            (&["P", "OST / HTTP/1.1"], Verdict::SlowHead),
            (&["PRI", "NT / HTTP/1.1"], Verdict::SlowHead),
        ] {
            let activity = activity();
            advance(6 * SECOND).await;
            for piece in pieces {
                activity.received(piece.as_bytes());
            }
            advance(3 * SECOND).await;
            assert_eq!(activity.verdict(&limits), verdict, "{pieces:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_makes_progress_is_not_stuck() {
        let (activity, limits) = (activity(), limits());
        let _call = activity.call();
        let (near, mut far) = duplex(64);
        let mut watched = WatchedStream::new(near, activity.clone());
        let writing = tokio::spawn(async move { watched.write_all(&[0; 200]).await });
        for _ in 0..2 {
            tokio::task::yield_now().await;
            advance(4 * SECOND).await;
            assert!(matches!(activity.verdict(&limits), Verdict::Well(_)));
            far.read_exact(&mut [0; 64]).await.unwrap();
        }
        tokio::task::yield_now().await;
        advance(6 * SECOND).await;
        assert_eq!(activity.verdict(&limits), Verdict::Stuck);
        writing.abort();
    }
}
