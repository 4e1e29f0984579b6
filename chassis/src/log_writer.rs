//! The writer of log lines to standard error. A line is written at once while there are few, and together with others
//! within [`MAX_DELAY`] while there are many, so that a busy service needs few system calls.

use std::{
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Longest time for which a line is buffered.
const MAX_DELAY: Duration = Duration::from_millis(10);
/// Size at which the buffer is written regardless of its age, in bytes.
const MAX_BUFFER: usize = 32 * 1024;

static PROCESS_LOG: OnceLock<LogWriter> = OnceLock::new();

/// Writes the buffered lines of the process. Must be called before the process ends.
pub fn flush() {
    if let Some(log) = PROCESS_LOG.get() {
        log.flush();
    }
}

/// Clones write to the same buffer.
#[derive(Clone)]
pub(super) struct LogWriter(Arc<SharedBuffer>);

struct SharedBuffer {
    buffer: Mutex<LogBuffer>,
    not_empty: Condvar,
}

struct LogBuffer {
    bytes: Vec<u8>,
    last_write: Instant,
    /// True when the flushing thread runs. Without it every line is written at once.
    has_thread: bool,
    out: Box<dyn Write + Send>,
}

impl LogBuffer {
    fn write(&mut self) {
        // An error of the log itself cannot be reported anywhere.
        let _ = self.out.write_all(&self.bytes);
        self.bytes.clear();
        self.last_write = Instant::now();
    }
}

impl LogWriter {
    /// Returns the writer of this process, which writes to standard error.
    pub(super) fn of_process() -> Self {
        PROCESS_LOG.get_or_init(|| Self::new(io::stderr())).clone()
    }

    fn new(out: impl Write + Send + 'static) -> Self {
        let writer = Self(Arc::new(SharedBuffer {
            buffer: Mutex::new(LogBuffer {
                bytes: Vec::new(),
                // Long enough ago that the first line is written at once.
                last_write: Instant::now().checked_sub(MAX_DELAY).unwrap_or_else(Instant::now),
                has_thread: false,
                out: Box::new(out),
            }),
            not_empty: Condvar::new(),
        }));
        let flushing = writer.clone();
        let started = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || flushing.0.flush_late_lines())
            .is_ok();
        writer.0.buffer().has_thread = started;
        writer
    }

    fn flush(&self) {
        self.0.buffer().write();
    }

    fn line(&self, urgent: bool) -> LogLine {
        LogLine {
            writer: self.clone(),
            urgent,
        }
    }
}

impl SharedBuffer {
    fn buffer(&self) -> MutexGuard<'_, LogBuffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8], urgent: bool) {
        let mut buffer = self.buffer();
        let first = buffer.bytes.is_empty();
        buffer.bytes.extend_from_slice(line);
        let few = first && buffer.last_write.elapsed() >= MAX_DELAY;
        if few || urgent || !buffer.has_thread || buffer.bytes.len() >= MAX_BUFFER {
            buffer.write();
        } else if first {
            self.not_empty.notify_one();
        }
    }

    /// Writes every line that is still buffered [`MAX_DELAY`] after it came. Does not return.
    fn flush_late_lines(&self) {
        loop {
            let buffer = self
                .not_empty
                .wait_while(self.buffer(), |buffer| buffer.bytes.is_empty());
            drop(buffer.unwrap_or_else(PoisonError::into_inner));
            thread::sleep(MAX_DELAY);
            self.buffer().write();
        }
    }
}

/// Writes the line of one event.
pub(super) struct LogLine {
    writer: LogWriter,
    /// True for a line that is written at once, with all lines before it.
    urgent: bool,
}

impl Write for LogLine {
    /// Writes a whole line: tracing-subscriber formats an event completely before it writes.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.writer.0.push(line, self.urgent);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = LogLine;

    fn make_writer(&'a self) -> LogLine {
        self.line(true)
    }

    /// Errors are urgent, because an error may be the last line of the process.
    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> LogLine {
        self.line(*metadata.level() <= Level::ERROR)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Recorder(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Write for Recorder {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Recorder {
        fn writes(&self) -> usize {
            self.0.lock().unwrap().len()
        }

        fn bytes(&self) -> Vec<u8> {
            self.0.lock().unwrap().concat()
        }
    }

    #[test]
    fn a_line_among_few_is_written_at_once_and_many_are_written_together_in_order() {
        let out = Recorder::default();
        let writer = LogWriter::new(out.clone());
        writer.0.push(b"first\n", false);
        assert_eq!(out.bytes(), b"first\n");
        let mut expected = b"first\n".to_vec();
        for number in 0..5000 {
            let line = format!("{number}\n");
            expected.extend_from_slice(line.as_bytes());
            writer.0.push(line.as_bytes(), false);
        }
        let started = Instant::now();
        while out.bytes() != expected {
            assert!(started.elapsed() < Duration::from_secs(20), "lines wait for ever");
            thread::sleep(Duration::from_millis(1));
        }
        assert!(out.writes() < 1000, "{}", out.writes());
    }

    #[test]
    fn an_urgent_line_does_not_wait_and_overtakes_nothing() {
        let out = Recorder::default();
        let writer = LogWriter::new(out.clone());
        for line in [b"1\n", b"2\n", b"3\n"] {
            writer.0.push(line, false);
        }
        writer.0.push(b"error\n", true);
        assert_eq!(out.bytes(), b"1\n2\n3\nerror\n");
        writer.0.push(b"4\n", false);
        writer.flush();
        assert!(out.bytes().ends_with(b"4\n"));
    }
}
