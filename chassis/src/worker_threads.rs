//! Worker threads that serve connections. Each thread runs a single-threaded runtime and serves its own connections, so
//! a connection never needs another thread to be woken.

use std::{
    io, net,
    num::NonZero,
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
    net::TcpStream,
    runtime::{self, Handle},
    sync::{mpsc, oneshot},
};

/// Maximum number of worker threads. One thread answers some ten thousand calls a second.
const MAX_THREADS: usize = 16;

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

/// A connection on its way to a worker thread, with further data about it.
pub struct AcceptedConnection<T> {
    stream: net::TcpStream,
    data: T,
}

impl<T> AcceptedConnection<T> {
    /// Registers the connection with the runtime of the current thread. Returns `None` and logs the error when that
    /// fails.
    pub fn open(self) -> Option<(TcpStream, T)> {
        let stream = TcpStream::from_std(self.stream)
            .inspect_err(|error| tracing::warn!(%error, "connection not taken over"));
        Some((stream.ok()?, self.data))
    }
}

/// Running worker threads, which get connections in turn.
pub struct WorkerThreads<T, R> {
    workers: Vec<Worker<T, R>>,
    next: AtomicUsize,
}

struct Worker<T, R> {
    connections: mpsc::UnboundedSender<AcceptedConnection<T>>,
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
pub fn start<T, R, F, S>(serve: impl IntoIterator<Item = S>) -> io::Result<WorkerThreads<T, R>>
where
    T: Send + 'static,
    R: Send + 'static,
    S: FnOnce(mpsc::UnboundedReceiver<AcceptedConnection<T>>) -> F + Send + 'static,
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

impl<T, R> WorkerThreads<T, R> {
    /// Sends a connection to the next worker thread.
    pub fn dispatch(&self, stream: TcpStream, data: T) {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len().max(1);
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%error, "connection not handed over"),
        };
        let sent = self
            .workers
            .get(next)
            .map(|worker| worker.connections.send(AcceptedConnection { stream, data }));
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
