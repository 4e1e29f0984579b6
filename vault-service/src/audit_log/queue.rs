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

use tokio::sync::oneshot;

use super::{AuditMetrics, Event, Line, Lines, Mode, allowance::Allowance};

/// Maximum size of all waiting lines, in bytes.
const MOST: usize = 8 * 1024 * 1024;
/// Pause before a write that failed is tried again.
const PAUSE: Duration = Duration::from_millis(100);
/// Interval between the lines that report the number of omitted lines.
const OMISSIONS: Duration = Duration::from_secs(1);

/// Sender that signals a caller when the caller's lines were written. The sender is dropped when the write failed.
type Written = oneshot::Sender<()>;

/// Lines that wait, and the state of the log.
pub(super) struct Queue {
    state: Mutex<State>,
    some: Condvar,
    failing: AtomicBool,
    mode: Mode,
    metrics: AuditMetrics,
}

struct State {
    waiting: Batch,
    /// True while the thread holds lines that it has not written.
    writing: bool,
    /// Number of omitted lines that no line has reported yet.
    omitted: u64,
    /// Rate limits for lines of denied calls: of callers without an identity, and of callers with one.
    denials: [Allowance; 2],
    closing: Option<oneshot::Sender<()>>,
    closed: bool,
}

/// Lines that are written together.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    lines: u64,
    written: Vec<Written>,
}

impl Batch {
    fn push(&mut self, lines: &Lines) {
        self.bytes.extend_from_slice(&lines.bytes);
        self.lines += lines.count;
    }
}

impl Queue {
    pub(super) fn new(mode: Mode, metrics: AuditMetrics) -> Self {
        let now = Instant::now();
        Self {
            state: Mutex::new(State {
                waiting: Batch::default(),
                writing: false,
                omitted: 0,
                denials: [Allowance::new(now), Allowance::new(now)],
                closing: None,
                closed: false,
            }),
            some: Condvar::new(),
            failing: AtomicBool::new(false),
            mode,
            metrics,
        }
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds lines, if there is room.
    pub(super) fn push(&self, lines: Lines, written: Option<Written>) -> bool {
        let mut state = self.state();
        if state.closed || state.waiting.bytes.len() + lines.bytes.len() > MOST {
            self.omit(&mut state, lines.count);
            return false;
        }
        state.waiting.push(&lines);
        state.waiting.written.extend(written);
        if !state.writing {
            self.some.notify_one();
        }
        true
    }

    /// Returns true when `count` lines of a denied call may be written; otherwise counts the lines as omitted.
    pub(super) fn allows_denial(&self, is_known: bool, count: u64) -> bool {
        let mut state = self.state();
        let [unknown, known] = &mut state.denials;
        let allowance = if is_known { known } else { unknown };
        let is_allowed = allowance.take(count, Instant::now());
        if !is_allowed {
            self.omit(&mut state, count);
        }
        is_allowed
    }

    fn omit(&self, state: &mut State, count: u64) {
        self.metrics.omitted.inc_by(count);
        if state.omitted == 0 {
            self.some.notify_one();
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
                Mode::Required => "calls are refused",
                Mode::BestEffort => "calls are served without their lines",
            };
            tracing::error!(%cause, consequence, "the audit log cannot be written");
        }
    }

    /// Takes no more lines, and returns when those that wait were written and made durable.
    pub(super) async fn close(&self) {
        let (closing, closed) = oneshot::channel();
        {
            let mut state = self.state();
            state.closed = true;
            state.closing = Some(closing);
            self.some.notify_one();
        }
        // An error means that the thread ended early and dropped the sender.
        let _ = closed.await;
    }

    /// Writes all lines to `out`, until the queue is closed. A failed write is tried again and goes on where it ended, so
    /// that no line is torn.
    pub(super) fn write_to(&self, mut out: Box<dyn Write + Send>) {
        let mut told = None;
        let mut spare = Vec::new();
        while let Some(batch) = self.next(&mut spare, &mut told) {
            let mut rest = batch.bytes.as_slice();
            let mut written = batch.written;
            while !rest.is_empty() {
                match out.write(rest) {
                    Ok(count @ 1..) => rest = rest.get(count..).unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(0) => self.pause(&io::ErrorKind::WriteZero.into(), &mut written),
                    Err(error) => self.pause(&error, &mut written),
                }
            }
            self.metrics.lines.inc_by(batch.lines);
            self.succeed();
            for waiting in written {
                // A send fails only when the caller has stopped waiting.
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

    /// Waits for the next lines to write; returns `None` when the queue is closed and empty. `told` is the time of the
    /// last line that reported omissions.
    fn next(&self, spare: &mut Vec<u8>, told: &mut Option<Instant>) -> Option<Batch> {
        let mut state = self.state();
        loop {
            let pause = told.map_or(Duration::ZERO, |told: Instant| {
                OMISSIONS.saturating_sub(told.elapsed())
            });
            if state.omitted > 0 && (pause.is_zero() || state.closed) {
                let count = Some(mem::take(&mut state.omitted));
                let line = Line {
                    count,
                    ..Line::new(Event::Omitted)
                };
                state.waiting.push(&Lines::of(&line));
                *told = Some(Instant::now());
            }
            if !state.waiting.bytes.is_empty() {
                break;
            }
            if state.closed {
                return None;
            }
            state = if state.omitted > 0 {
                let (state, _) = self
                    .some
                    .wait_timeout(state, pause)
                    .unwrap_or_else(PoisonError::into_inner);
                state
            } else {
                self.some.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
        }
        state.writing = true;
        // The buffer is reused because freeing a buffer would wipe it, which takes time.
        spare.clear();
        let next = Batch {
            bytes: mem::take(spare),
            ..Batch::default()
        };
        Some(mem::replace(&mut state.waiting, next))
    }

    /// Handles a failed write: refuses all waiting callers, and sleeps before the next try.
    fn pause(&self, error: &io::Error, written: &mut Vec<Written>) {
        self.fail(error);
        written.clear();
        self.state().waiting.written.clear();
        thread::sleep(PAUSE);
    }

    fn succeed(&self) {
        let mut state = self.state();
        state.writing = false;
        if self.failing.swap(false, Ordering::Relaxed) {
            self.metrics.failing.set(0);
            tracing::info!("the audit log is written again");
        }
    }
}
