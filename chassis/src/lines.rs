//! Log lines on their way to standard error: written at once while there are few, gathered for some milliseconds while
//! there are many.

use std::{
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// The longest that a line waits.
const WAIT: Duration = Duration::from_millis(10);
/// Bytes at which they are written, however long they have waited.
const ENOUGH: usize = 32 * 1024;

static LINES: OnceLock<Lines> = OnceLock::new();

/// Where all lines of the process go.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

struct Shared {
    gathered: Mutex<Gathered>,
    some: Condvar,
}

struct Gathered {
    bytes: Vec<u8>,
    written: Instant,
    /// Whether a thread sees to it that lines do not wait for ever.
    tended: bool,
    out: Box<dyn Write + Send>,
}

impl Gathered {
    fn write(&mut self) {
        // Nobody could be told of a log that cannot be written.
        let _ = self.out.write_all(&self.bytes);
        self.bytes.clear();
        self.written = Instant::now();
    }
}

impl Lines {
    /// The process's own, to standard error.
    pub(super) fn of_process() -> Self {
        LINES.get_or_init(|| Self::to(io::stderr())).clone()
    }

    fn to(out: impl Write + Send + 'static) -> Self {
        let lines = Self(Arc::new(Shared {
            gathered: Mutex::new(Gathered {
                bytes: Vec::new(),
                // The first line has not waited for anything.
                written: Instant::now().checked_sub(WAIT).unwrap_or_else(Instant::now),
                tended: false,
                out: Box::new(out),
            }),
            some: Condvar::new(),
        }));
        let tending = lines.clone();
        let tended = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || tending.0.tend())
            .is_ok();
        lines.0.gathered().tended = tended;
        lines
    }

    /// Writes what waits.
    fn flush(&self) {
        self.0.gathered().write();
    }
}

/// Writes the lines that wait; before the process ends.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush();
    }
}

impl Shared {
    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, line: &[u8], urgent: bool) {
        let mut gathered = self.gathered();
        let first = gathered.bytes.is_empty();
        gathered.bytes.extend_from_slice(line);
        let few = first && gathered.written.elapsed() >= WAIT;
        if few || urgent || !gathered.tended || gathered.bytes.len() >= ENOUGH {
            gathered.write();
        } else if first {
            self.some.notify_one();
        }
    }

    fn tend(&self) {
        loop {
            let waiting = self
                .some
                .wait_while(self.gathered(), |gathered| gathered.bytes.is_empty());
            drop(waiting.unwrap_or_else(PoisonError::into_inner));
            thread::sleep(WAIT);
            self.gathered().write();
        }
    }
}

/// One event's way there.
pub(super) struct Line {
    lines: Lines,
    urgent: bool,
}

impl Write for Line {
    /// A whole line: what formats events does so in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.0.line(line, self.urgent);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            lines: self.clone(),
            urgent: true,
        }
    }

    /// What may be the last thing that the process says does not wait.
    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        Line {
            lines: self.clone(),
            urgent: *metadata.level() <= Level::ERROR,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Written {
        fn writes(&self) -> usize {
            self.0.lock().unwrap().len()
        }

        fn all(&self) -> Vec<u8> {
            self.0.lock().unwrap().concat()
        }
    }

    #[test]
    fn a_line_among_few_is_written_at_once_and_many_are_written_together_in_order() {
        let written = Written::default();
        let lines = Lines::to(written.clone());
        lines.0.line(b"first\n", false);
        assert_eq!(written.all(), b"first\n");
        let mut expected = b"first\n".to_vec();
        for number in 0..5000 {
            let line = format!("{number}\n");
            expected.extend_from_slice(line.as_bytes());
            lines.0.line(line.as_bytes(), false);
        }
        let started = Instant::now();
        while written.all() != expected {
            assert!(started.elapsed() < Duration::from_secs(20), "lines wait for ever");
            thread::sleep(Duration::from_millis(1));
        }
        assert!(written.writes() < 1000, "{}", written.writes());
    }

    #[test]
    fn what_is_urgent_does_not_wait_and_overtakes_nothing() {
        let written = Written::default();
        let lines = Lines::to(written.clone());
        for line in [b"1\n", b"2\n", b"3\n"] {
            lines.0.line(line, false);
        }
        lines.0.line(b"error\n", true);
        assert_eq!(written.all(), b"1\n2\n3\nerror\n");
        lines.0.line(b"4\n", false);
        lines.flush();
        assert!(written.all().ends_with(b"4\n"));
    }
}
