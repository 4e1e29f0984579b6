//! The queue of lines between the calls and the thread that writes the log.

use std::{
    io::{self, Write},
    mem,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::sync::oneshot;

use super::{
    line::{Event, Line, Lines},
    token_bucket::TokenBucket,
};

/// Maximum size of all waiting lines, in bytes.
const MAX_WAITING_BYTES: usize = 8 * 1024 * 1024;
/// Pause before a write that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Interval between the lines that report the number of omitted lines.
const OMISSION_INTERVAL: Duration = Duration::from_secs(1);

/// Policy for calls while the log cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditMode {
    /// The vault refuses calls.
    Required,
    /// The vault serves calls without waiting for their lines; lines that find no room in memory are dropped and
    /// counted.
    BestEffort,
}

/// Metrics of the audit log.
#[derive(Clone, Default)]
pub(crate) struct AuditMetrics {
    pub(crate) lines: Counter,
    /// Lines that were not written.
    pub(crate) omitted: Counter,
    /// 1 while the log cannot be written.
    pub(crate) failing: Gauge,
}

/// Sender that signals a caller when the caller's lines were written. The sender is dropped when the write failed.
type Written = oneshot::Sender<()>;

/// The waiting lines, and the state of the log.
pub(super) struct LineQueue {
    state: Mutex<QueueState>,
    /// Wakes the thread when lines wait, when lines were omitted, or when the log is being closed.
    work: Condvar,
    failing: AtomicBool,
    mode: AuditMode,
    metrics: AuditMetrics,
}

struct QueueState {
    waiting: LineBatch,
    /// True while the thread holds lines that it has not written.
    writing: bool,
    /// Number of omitted lines that no line has reported yet.
    omitted: u64,
    /// Rate limits for lines of denied calls: of callers without an identity, and of callers with one.
    denials: [TokenBucket; 2],
    /// Sender that signals the caller of `close` when everything was written.
    closing: Option<oneshot::Sender<()>>,
    closed: bool,
}

/// Lines that are written together.
#[derive(Default)]
struct LineBatch {
    bytes: Vec<u8>,
    lines: u64,
    written: Vec<Written>,
}

impl LineBatch {
    fn push(&mut self, lines: &Lines) {
        self.bytes.extend_from_slice(&lines.bytes);
        self.lines += lines.count;
    }
}

impl LineQueue {
    pub(super) fn new(mode: AuditMode, metrics: AuditMetrics) -> Self {
        let now = Instant::now();
        Self {
            state: Mutex::new(QueueState {
                waiting: LineBatch::default(),
                writing: false,
                omitted: 0,
                denials: [TokenBucket::new(now), TokenBucket::new(now)],
                closing: None,
                closed: false,
            }),
            work: Condvar::new(),
            failing: AtomicBool::new(false),
            mode,
            metrics,
        }
    }

    pub(super) fn mode(&self) -> AuditMode {
        self.mode
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues lines. Returns false, and counts the lines as omitted, when the queue is full or closed.
    pub(super) fn push(&self, lines: Lines, written: Option<Written>) -> bool {
        let mut state = self.state();
        if state.closed || state.waiting.bytes.len() + lines.bytes.len() > MAX_WAITING_BYTES {
            self.omit(&mut state, lines.count);
            return false;
        }
        state.waiting.push(&lines);
        state.waiting.written.extend(written);
        if !state.writing {
            self.work.notify_one();
        }
        true
    }

    /// Returns true when `count` lines of a denied call may be written; otherwise counts the lines as omitted.
    pub(super) fn allows_denial(&self, is_known: bool, count: u64) -> bool {
        let mut state = self.state();
        let [anonymous, known] = &mut state.denials;
        let bucket = if is_known { known } else { anonymous };
        let is_allowed = bucket.take(count, Instant::now());
        if !is_allowed {
            self.omit(&mut state, count);
        }
        is_allowed
    }

    fn omit(&self, state: &mut QueueState, count: u64) {
        self.metrics.omitted.inc_by(count);
        if state.omitted == 0 {
            self.work.notify_one();
        }
        state.omitted += count;
    }

    /// Notes that a line has waited for too long, unless everything was written in the meantime.
    pub(super) fn note_stall(&self) {
        let state = self.state();
        if state.writing || !state.waiting.bytes.is_empty() {
            // The lock is held here because the thread clears the failure under the same lock after a successful write.
            self.fail("the write does not return");
        }
    }

    fn fail(&self, cause: impl std::fmt::Display) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            self.metrics.failing.set(1);
            let consequence = match self.mode {
                AuditMode::Required => "calls are refused",
                AuditMode::BestEffort => "calls are served without their lines",
            };
            tracing::error!(%cause, consequence, "the audit log cannot be written");
        }
    }

    /// Accepts no more lines, and returns when the waiting ones were written and made durable.
    pub(super) async fn close(&self) {
        let (closing, closed) = oneshot::channel();
        {
            let mut state = self.state();
            state.closed = true;
            state.closing = Some(closing);
            self.work.notify_one();
        }
        // An error means that the thread ended early and dropped the sender.
        let _ = closed.await;
    }

    /// Writes all lines to `out`, until the queue is closed. A failed write is retried from the byte where it ended, so that
    /// every line is written whole.
    pub(super) fn write_to(&self, mut out: Box<dyn Write + Send>) {
        let mut last_report = None;
        let mut spare = Vec::new();
        while let Some(batch) = self.next(&mut spare, &mut last_report) {
            let mut rest = batch.bytes.as_slice();
            let mut written = batch.written;
            while !rest.is_empty() {
                match out.write(rest) {
                    Ok(count @ 1..) => rest = rest.get(count..).unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(0) => self.handle_failure(&io::ErrorKind::WriteZero.into(), &mut written),
                    Err(error) => self.handle_failure(&error, &mut written),
                }
            }
            self.metrics.lines.inc_by(batch.lines);
            self.handle_success();
            for waiting in written {
                // A send fails only when the caller no longer waits.
                let _ = waiting.send(());
            }
            spare = batch.bytes;
        }
        if let Err(error) = out.flush() {
            tracing::error!(%error, "the audit log may not be durable");
        }
        if let Some(closing) = self.state().closing.take() {
            let _ = closing.send(());
        }
    }

    /// Waits for the next lines to write; returns `None` when the queue is closed and empty. `last_report` is the time of the
    /// last line that reported omissions.
    fn next(&self, spare: &mut Vec<u8>, last_report: &mut Option<Instant>) -> Option<LineBatch> {
        let mut state = self.state();
        loop {
            let pause = last_report.map_or(Duration::ZERO, |reported: Instant| {
                OMISSION_INTERVAL.saturating_sub(reported.elapsed())
            });
            if state.omitted > 0 && (pause.is_zero() || state.closed) {
                let count = Some(mem::take(&mut state.omitted));
                let line = Line {
                    count,
                    ..Line::new(Event::Omitted)
                };
                state.waiting.push(&Lines::of(&line));
                *last_report = Some(Instant::now());
            }
            if !state.waiting.bytes.is_empty() {
                break;
            }
            if state.closed {
                return None;
            }
            state = if state.omitted > 0 {
                let (state, _) = self
                    .work
                    .wait_timeout(state, pause)
                    .unwrap_or_else(PoisonError::into_inner);
                state
            } else {
                self.work.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
        }
        state.writing = true;
        // The buffer is reused because freeing a buffer would wipe it, which takes time.
        spare.clear();
        let next = LineBatch {
            bytes: mem::take(spare),
            ..LineBatch::default()
        };
        Some(mem::replace(&mut state.waiting, next))
    }

    /// Handles a failed write: refuses all waiting callers, and sleeps before the retry.
    fn handle_failure(&self, error: &io::Error, written: &mut Vec<Written>) {
        self.fail(error);
        written.clear();
        self.state().waiting.written.clear();
        thread::sleep(RETRY_PAUSE);
    }

    fn handle_success(&self) {
        let mut state = self.state();
        state.writing = false;
        if self.failing.swap(false, Ordering::Relaxed) {
            self.metrics.failing.set(0);
            tracing::info!("the audit log is written again");
        }
    }
}
