//! What the system asks of a service by signals.

use std::{io, sync::Arc};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

/// The signals that a service obeys.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What SIGHUP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// The service reads its files again.
    Reloads,
    /// The process ends, as a command does whose terminal is closed.
    Ends,
}

/// What signals ask of a running service.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Cancelled by SIGTERM and SIGINT.
    pub shutdown: CancellationToken,
    /// Notified by every SIGHUP.
    pub reload: Arc<Notify>,
}

impl Signals {
    /// Listens to the signals, which from now on do not end the process. Must be called inside a runtime.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Obeys the signals until the first one that asks for the end. `reload` is called for every SIGHUP that reloads.
    pub async fn obey(mut self, hangup: Hangup, asked: Asked, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hangup.recv() => match hangup {
                    Hangup::Ends => break,
                    Hangup::Reloads => {
                        reload();
                        asked.reload.notify_one();
                    }
                }
            }
        }
        tracing::info!("shutting down");
        asked.shutdown.cancel();
    }
}
