//! Threads that each serve their own connections: a runtime of one thread each, so that whatever a connection needs
//! happens on the thread that it is on, and nothing wakes another.

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

/// The most lanes: what one does is some ten thousands of calls a second.
const MOST: usize = 16;

/// The lanes of this process, while they run.
static RUNNING: Mutex<Vec<Weak<Handle>>> = Mutex::new(Vec::new());

/// How many tasks are under way on the lanes of this process. With nothing to do there are a few for each lane and each
/// connection.
pub fn tasks() -> usize {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    running.retain(|runtime| runtime.strong_count() > 0);
    let runtimes = running.iter().filter_map(Weak::upgrade);
    runtimes.map(|runtime| runtime.metrics().num_alive_tasks()).sum()
}

/// Shows [`tasks`].
#[derive(Debug)]
pub struct Tasks;

impl Collector for Tasks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauge = ConstGauge::new(i64::try_from(tasks()).unwrap_or(i64::MAX));
        gauge.encode(encoder.encode_descriptor(
            "aerostack_tasks",
            "Tasks under way on the threads that serve connections",
            None,
            gauge.metric_type(),
        )?)
    }
}

/// A connection on its way to a lane.
pub struct Accepted<T> {
    stream: net::TcpStream,
    with: T,
}

impl<T> Accepted<T> {
    /// The connection, on this lane from here on. That it cannot be is logged.
    pub fn open(self) -> Option<(TcpStream, T)> {
        let stream = TcpStream::from_std(self.stream)
            .inspect_err(|error| tracing::warn!(%error, "connection not taken over"));
        Some((stream.ok()?, self.with))
    }
}

/// The threads, and who is next.
pub struct Lanes<T, R> {
    lanes: Vec<Lane<T, R>>,
    next: AtomicUsize,
}

struct Lane<T, R> {
    connections: mpsc::UnboundedSender<Accepted<T>>,
    ended: oneshot::Receiver<R>,
}

/// How many lanes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// One: for what is called now and then.
    Narrow,
    /// As many as there are processors.
    Wide,
}

impl Width {
    /// How many lanes these are.
    pub fn count(self) -> usize {
        match self {
            Self::Narrow => 1,
            Self::Wide => thread::available_parallelism().map_or(1, NonZero::get).min(MOST),
        }
    }
}

/// Starts a lane for each of `serving`, which is run by what it is given.
pub fn start<T, R, F, S>(serving: impl IntoIterator<Item = S>) -> io::Result<Lanes<T, R>>
where
    T: Send + 'static,
    R: Send + 'static,
    S: FnOnce(mpsc::UnboundedReceiver<Accepted<T>>) -> F + Send + 'static,
    F: Future<Output = R>,
{
    let lanes = serving.into_iter().enumerate().map(|(number, serve)| {
        let (connections, given) = mpsc::unbounded_channel();
        let (ending, ended) = oneshot::channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = Arc::new(runtime.handle().clone());
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.push(Arc::downgrade(&handle));
        drop(running);
        thread::Builder::new()
            .name(format!("lane-{number}"))
            .spawn(move || {
                // Nobody listens when the service was dropped.
                drop(ending.send(runtime.block_on(async { serve(given).await })));
                drop(handle);
                // What still runs on its blocking threads ends with the process.
                runtime.shutdown_background();
            })?;
        Ok(Lane { connections, ended })
    });
    Ok(Lanes {
        lanes: lanes.collect::<io::Result<_>>()?,
        next: AtomicUsize::new(0),
    })
}

impl<T, R> Lanes<T, R> {
    /// Gives a connection to the next lane.
    pub fn give(&self, stream: TcpStream, with: T) {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.lanes.len().max(1);
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%error, "connection not handed over"),
        };
        let given = self
            .lanes
            .get(next)
            .map(|lane| lane.connections.send(Accepted { stream, with }));
        if !matches!(given, Some(Ok(()))) {
            tracing::error!(
                lane = next,
                "connection closed: the thread that it was for has ended"
            );
        }
    }

    /// Gives no more, and waits until all have ended. Nothing in the place of one that ended by a panic.
    pub async fn finish(self) -> Vec<Option<R>> {
        let (connections, ending): (Vec<_>, Vec<_>) = self
            .lanes
            .into_iter()
            .map(|lane| (lane.connections, lane.ended))
            .unzip();
        drop(connections);
        let mut ended = Vec::new();
        for one in ending {
            ended.push(one.await.ok());
        }
        ended
    }
}
