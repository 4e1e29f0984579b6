//! One stream to the vault, shared by all calls of a worker thread.
//!
//! Requests that wait together are sent together, and answers are matched by id, so that under load a decrypt costs
//! little more than its bytes. A broken stream is opened again, and requests without an answer are sent again, for as
//! long as their callers wait.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use proto::{Reason, Refusal};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    condition::{ConnectionFault, VaultCondition},
    driver::StreamDriver,
    link::VaultLink,
    pending::{PendingRequest, overloaded},
    request::VaultRequest,
    seal_keys::OpenedAnswer,
};

/// Requests that wait for the driver. Further requests are refused at once.
const QUEUE_LEN: usize = 4096;

/// The callers' end of the stream. Clones share the stream.
#[derive(Clone)]
pub(super) struct StreamHandle {
    queue: mpsc::Sender<PendingRequest>,
    connected: Arc<AtomicBool>,
}

/// The task that sends the requests of a [`Resolver`](super::Resolver) to the vault, before it runs.
pub(crate) struct VaultDriver {
    queue: mpsc::Receiver<PendingRequest>,
    connected: Arc<AtomicBool>,
}

pub(super) fn new() -> (StreamHandle, VaultDriver) {
    let (requests, queue) = mpsc::channel(QUEUE_LEN);
    let connected = Arc::new(AtomicBool::new(false));
    let driver = VaultDriver {
        queue,
        connected: connected.clone(),
    };
    let handle = StreamHandle {
        queue: requests,
        connected,
    };
    (handle, driver)
}

impl VaultDriver {
    /// Sends requests over connections of `link` until `shutdown`. These connections record their errors in `fault`.
    pub(crate) async fn run(
        self,
        link: VaultLink,
        fault: ConnectionFault,
        condition: VaultCondition,
        shutdown: CancellationToken,
    ) {
        let Self { queue, connected } = self;
        let driver = StreamDriver::new(link, (condition, fault), queue, connected);
        shutdown.run_until_cancelled(driver.run()).await;
    }
}

impl StreamHandle {
    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Queues a request and waits for its answer. A caller that stops waiting gives the request up.
    pub(super) async fn ask(&self, request: VaultRequest) -> Result<OpenedAnswer, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.queue
            .try_send(PendingRequest { request, answer })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => overloaded(),
                mpsc::error::TrySendError::Closed(_) => shutting_down(),
            })?;
        answered.await.unwrap_or_else(|_| Err(shutting_down()))
    }
}

fn shutting_down() -> Refusal {
    Refusal::new(Reason::ShuttingDown, "the injector is shutting down")
}
