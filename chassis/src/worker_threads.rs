//! Worker threads that serve connections. Each thread runs a single-threaded runtime and serves its own connections, so
//! a connection never needs another thread to be woken.
//!
//! The runtime that accepts a connection detaches it ([`Detached`]), and the worker's runtime attaches it.

use std::{
    io, net,
    num::NonZero,
    os::unix,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::gauge::ConstGauge,
};
use tokio::{
    net::{TcpStream, UnixStream},
    runtime::{self, Handle},
    sync::{mpsc, oneshot},
};

/// Maximum number of worker threads. One thread answers some ten thousand calls a second.
pub const MAX_THREADS: usize = 16;

/// The runtimes of all worker threads of this process, while they run.
static RUNTIMES: Mutex<Vec<Weak<Handle>>> = Mutex::new(Vec::new());

/// Returns the number of tasks on the worker threads of this process. An idle process has a few for each thread and each
/// connection.
pub fn running_tasks() -> usize {
    let mut runtimes = RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner);
    runtimes.retain(|runtime| runtime.strong_count() > 0);
    let running = runtimes.iter().filter_map(Weak::upgrade);
    running.map(|runtime| runtime.metrics().num_alive_tasks()).sum()
}

/// Reports [`running_tasks`] as a metric.
#[derive(Debug)]
pub struct TaskMetrics;

impl Collector for TaskMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauge = ConstGauge::new(i64::try_from(running_tasks()).unwrap_or(i64::MAX));
        gauge.encode(encoder.encode_descriptor(
            "aerostack_tasks",
            "Tasks under way on the threads that serve connections",
            None,
            gauge.metric_type(),
        )?)
    }
}

/// A stream that can leave the runtime in which it was made.
pub trait MovableStream: Sized {
    /// The stream outside of any runtime.
    type Std: Send;
    /// Takes the stream out of its runtime.
    fn into_std(self) -> io::Result<Self::Std>;
    /// Registers the stream with the runtime of the current thread.
    fn from_std(stream: Self::Std) -> io::Result<Self>;
}

impl MovableStream for TcpStream {
    type Std = net::TcpStream;
    fn into_std(self) -> io::Result<Self::Std> {
        TcpStream::into_std(self)
    }
    fn from_std(stream: Self::Std) -> io::Result<Self> {
        TcpStream::from_std(stream)
    }
}

impl MovableStream for UnixStream {
    type Std = unix::net::UnixStream;
    fn into_std(self) -> io::Result<Self::Std> {
        UnixStream::into_std(self)
    }
    fn from_std(stream: Self::Std) -> io::Result<Self> {
        UnixStream::from_std(stream)
    }
}

/// A stream on its way to a worker thread.
pub struct Detached<S: MovableStream>(S::Std);

impl<S: MovableStream> Detached<S> {
    /// Takes `stream` out of the current runtime. Returns `None` and logs the error when that fails.
    pub fn new(stream: S) -> Option<Self> {
        let stream = stream.into_std().inspect_err(log_failed_move);
        stream.ok().map(Self)
    }

    /// Registers the stream with the runtime of the current thread. Returns `None` and logs the error when that fails.
    pub fn attach(self) -> Option<S> {
        S::from_std(self.0).inspect_err(log_failed_move).ok()
    }
}

fn log_failed_move(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be moved to a worker thread, and was closed");
}

/// Running worker threads, which get connections of type `C` in turn.
pub struct WorkerThreads<C, R> {
    workers: Vec<Worker<C, R>>,
    next: AtomicUsize,
}

struct Worker<C, R> {
    connections: mpsc::UnboundedSender<C>,
    result: oneshot::Receiver<R>,
}

/// The number of worker threads of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadCount {
    /// One thread, for a listener with little traffic.
    One,
    /// One thread per processor, up to 16.
    PerProcessor,
}

impl ThreadCount {
    /// Returns the number on this machine.
    pub fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::PerProcessor => thread::available_parallelism()
                .map_or(1, NonZero::get)
                .min(MAX_THREADS),
        }
    }
}

/// Starts one worker thread for each element of `serve`, a function that serves the connections it receives.
pub fn start<C, R, F, S>(serve: impl IntoIterator<Item = S>) -> io::Result<WorkerThreads<C, R>>
where
    C: Send + 'static,
    R: Send + 'static,
    S: FnOnce(mpsc::UnboundedReceiver<C>) -> F + Send + 'static,
    F: Future<Output = R>,
{
    let workers = serve.into_iter().enumerate().map(|(number, serve)| {
        let (connections, accepted) = mpsc::unbounded_channel();
        let (send_result, result) = oneshot::channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = Arc::new(runtime.handle().clone());
        let mut runtimes = RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner);
        runtimes.push(Arc::downgrade(&handle));
        drop(runtimes);
        thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                // The receiver is gone when the service was dropped.
                drop(send_result.send(runtime.block_on(async { serve(accepted).await })));
                drop(handle);
                // Work on the blocking threads of this runtime is not waited for: it ends with the process.
                runtime.shutdown_background();
            })?;
        Ok(Worker { connections, result })
    });
    Ok(WorkerThreads {
        workers: workers.collect::<io::Result<_>>()?,
        next: AtomicUsize::new(0),
    })
}

impl<C, R> WorkerThreads<C, R> {
    /// Sends a connection to the next worker thread.
    pub fn dispatch(&self, connection: C) {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len().max(1);
        let sent = self
            .workers
            .get(next)
            .map(|worker| worker.connections.send(connection));
        if !matches!(sent, Some(Ok(()))) {
            tracing::error!(
                worker = next,
                "connection closed: the thread that it was for has ended"
            );
        }
    }

    /// Waits until all threads have served their connections. Returns their results, `None` for a thread that panicked.
    pub async fn join(self) -> Vec<Option<R>> {
        let (connections, results): (Vec<_>, Vec<_>) = self
            .workers
            .into_iter()
            .map(|worker| (worker.connections, worker.result))
            .unzip();
        // A worker ends when no further connection can reach it.
        drop(connections);
        futures_util::future::join_all(results)
            .await
            .into_iter()
            .map(Result::ok)
            .collect()
    }
}
