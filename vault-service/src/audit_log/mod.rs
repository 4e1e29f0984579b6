//! The audit log: one JSON line for each decision about a secret or a key.
//!
//! The vault sends the answer to a call only after the call's line was written (`write(2)`), unless the operator chose
//! `--audit-best-effort`. One thread writes. Lines that arrive during a write are written together by the next write,
//! so under load a line costs little more than its bytes. The vault does not sync the log before an answer: a line
//! survives the end of the process, but can be lost in a power failure while the kernel still holds the line in memory.
//!
//! While the log cannot be written, lines about completed operations wait in memory, the vault starts no new operation,
//! and the thread retries the write until it succeeds. `docs/audit.md` has the schema and these rules for operators.

mod file;
mod line;
mod queue;
#[cfg(test)]
mod tests;
mod token_bucket;

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd as _,
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use proto::{Reason, Refusal};
use rustix::process::getuid;
use tokio::{sync::oneshot, time::timeout};

pub(crate) use line::{Actor, Event, Line, Lines, Outcome, SecretEntry, SecretOutcome};
pub(crate) use queue::AuditMetrics;
pub use queue::AuditMode;

use file::LogFile;
use queue::LineQueue;

/// Path that stands for standard output.
pub const STDOUT: &str = "-";

/// Time limit for the write of a call's line. By default an injector waits for the vault twice as long.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// Time limit for the last lines at the end of the process.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// An open log, before the thread that writes to it starts.
pub struct AuditOutput {
    to: Box<dyn Write + Send>,
    mode: AuditMode,
}

impl AuditOutput {
    /// Opens the log at `path`.
    pub fn open(path: &Path, mode: AuditMode) -> io::Result<Self> {
        let to: Box<dyn Write + Send> = if path == Path::new(STDOUT) {
            // The file bypasses the buffer of `io::stdout()`, which would keep a part of a failed write.
            Box::new(File::from(io::stdout().as_fd().try_clone_to_owned()?))
        } else {
            Box::new(LogFile::open(path)?)
        };
        Ok(Self { to, mode })
    }

    /// Makes a log that writes to `to`, which a test can inspect or let fail.
    #[cfg(test)]
    pub(crate) fn to(to: impl Write + Send + 'static, mode: AuditMode) -> Self {
        let to = Box::new(to);
        Self { to, mode }
    }

    /// Opens the log at `path` for one command. `-` means standard error, because standard output may be a backup.
    pub fn open_for_command(path: &Path, mode: AuditMode) -> io::Result<Self> {
        if path == Path::new(STDOUT) {
            let to = Box::new(io::stderr());
            return Ok(Self { to, mode });
        }
        Self::open(path, mode)
    }

    /// Writes the line of a command, and makes it durable.
    pub fn write_command(mut self, command: &str, succeeded: bool) -> io::Result<()> {
        let outcome = match succeeded {
            true => Outcome::Ok,
            false => Outcome::Failed,
        };
        let line = Line {
            principal: Some(Actor::User(getuid().as_raw())),
            method: command,
            outcome: Some(outcome),
            ..Line::new(Event::Command)
        };
        let written = self.to.write_all(&Lines::of(&line).bytes);
        match (written.and_then(|()| self.to.flush()), self.mode) {
            (Err(error), AuditMode::Required) => Err(error),
            (Err(error), AuditMode::BestEffort) => {
                tracing::warn!(%error, "the audit log has no line of this command");
                Ok(())
            }
            (Ok(()), _) => Ok(()),
        }
    }
}

/// The audit log; `None` when the operator configured none. Clones share it.
#[derive(Clone)]
pub(crate) struct AuditLog(Option<Arc<LineQueue>>);

impl AuditLog {
    /// Starts the thread that writes. Without an output, every call is served and no line is written.
    pub(crate) fn start(output: Option<AuditOutput>, metrics: AuditMetrics) -> io::Result<Self> {
        let Some(AuditOutput { to, mode }) = output else {
            return Ok(Self(None));
        };
        let queue = Arc::new(LineQueue::new(mode, metrics));
        let writing = queue.clone();
        thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writing.write_to(to))?;
        Ok(Self(Some(queue)))
    }

    /// Returns true when the operator configured an audit log.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Admits a call. Refuses the call while the log cannot be written and the mode is [`AuditMode::Required`].
    pub(crate) fn admit(&self) -> Result<(), Refusal> {
        match &self.0 {
            Some(queue) if queue.mode() == AuditMode::Required && queue.is_failing() => {
                Err(unavailable("nothing was done"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Writes `lines`, and returns when they are written; in [`AuditMode::BestEffort`] it returns at once. After an error
    /// the caller must withhold the answer that the lines describe; the queue still writes queued lines as soon as that
    /// is possible.
    pub(crate) async fn write(&self, lines: Lines) -> Result<(), Refusal> {
        let Some(queue) = &self.0 else { return Ok(()) };
        if queue.mode() == AuditMode::BestEffort {
            queue.push(lines, None);
            return Ok(());
        }
        let withheld = || unavailable("the answer is withheld, and the call may have taken effect");
        let (written, waiting) = oneshot::channel();
        if !queue.push(lines, Some(written)) || queue.is_failing() {
            return Err(withheld());
        }
        match timeout(WRITE_TIMEOUT, waiting).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(withheld()),
            Err(_) => {
                queue.note_stall();
                Err(withheld())
            }
        }
    }

    /// Writes lines of a call that was denied before anything was done. Anyone who can connect can cause such calls, so
    /// beyond a rate their lines are counted and left out.
    pub(crate) async fn write_denial(&self, lines: Lines, is_known: bool) {
        let Some(queue) = &self.0 else { return };
        if queue.allows_denial(is_known, lines.count) {
            // The call is refused whether or not its line is written.
            drop(self.write(lines).await);
        }
    }

    /// Queues `lines` for writing, and does not wait.
    pub(crate) fn enqueue(&self, lines: Lines) {
        if let Some(queue) = &self.0 {
            queue.push(lines, None);
        }
    }

    /// Writes all waiting lines, makes the log durable, and accepts no more lines.
    pub(crate) async fn close(&self) {
        let Some(queue) = &self.0 else { return };
        if timeout(CLOSE_TIMEOUT, queue.close()).await.is_err() {
            tracing::error!("the last lines of the audit log were not written");
        }
    }
}

fn unavailable(consequence: &str) -> Refusal {
    let message = format!("the vault cannot write its audit log; {consequence}");
    Refusal::new(Reason::AuditUnavailable, message)
}
