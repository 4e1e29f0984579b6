//! One stream to the vault, shared by all calls.
//!
//! Requests that wait together are sent together, and answers are matched by id, so that under load a decrypt costs
//! little more than its bytes. A broken stream is opened again; what was not answered is asked again, for as long as
//! somebody waits for it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use proto::{Reason, Refusal};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{
    asking::Asking,
    condition::{ConnectionFault, VaultCondition},
    keeper::Keeper,
    sealed::{Identities, Opened},
    waiting::{Pending, overloaded},
};

/// Requests on their way to the keeper; more are refused at once.
const QUEUED: usize = 4096;

/// The waiting side; clones share the stream.
#[derive(Clone)]
pub(super) struct Stream {
    queue: mpsc::Sender<Pending>,
    connected: Arc<AtomicBool>,
}

/// The side that asks the vault, before it does.
pub struct VaultDriver {
    ends: Identities,
    queue: mpsc::Receiver<Pending>,
    connected: Arc<AtomicBool>,
}

impl VaultDriver {
    /// Asks over `channel`, until `shutdown`. `fault` has why the channel's connection failed.
    pub async fn keep(
        self,
        channel: Channel,
        fault: ConnectionFault,
        condition: VaultCondition,
        shutdown: CancellationToken,
    ) {
        let Self {
            ends,
            queue,
            connected,
        } = self;
        let keeper = Keeper::new(channel, (condition, fault), ends, queue, connected);
        shutdown.run_until_cancelled(keeper.keep()).await;
    }
}

impl Stream {
    pub(super) fn new(ends: Identities) -> (Self, VaultDriver) {
        let (waiting, queue) = mpsc::channel(QUEUED);
        let connected = Arc::new(AtomicBool::new(false));
        let link = VaultDriver {
            ends,
            queue,
            connected: connected.clone(),
        };
        let stream = Self {
            queue: waiting,
            connected,
        };
        (stream, link)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Asks, and waits for as long as the caller does.
    pub(super) async fn ask(&self, asking: Asking) -> Result<Opened, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.queue
            .try_send(Pending { asking, answer })
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
