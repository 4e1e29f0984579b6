//! Signals: SIGTERM and SIGINT stop a service, SIGHUP makes it read its files again.

use std::io;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

/// Receives the signals of this process.
pub struct SignalListener {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// The effect of SIGHUP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// The process reads its files again.
    Reloads,
    /// The process ends, as is usual for a command whose terminal is closed.
    Ends,
}

/// The received signals, as a running service sees them.
#[derive(Debug, Clone, Default)]
pub struct ServiceSignals {
    /// Cancelled by SIGTERM and SIGINT.
    pub shutdown: CancellationToken,
    /// Changed by every SIGHUP.
    pub reload: watch::Sender<()>,
}

impl SignalListener {
    /// Starts to receive the signals, which no longer end the process by themselves. Must be called inside a runtime.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Forwards the signals to `received` until one of them ends the process. Calls `reload` first for each SIGHUP that
    /// [`Hangup::Reloads`].
    pub async fn forward(mut self, hangup: Hangup, received: ServiceSignals, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hangup.recv() => match hangup {
                    Hangup::Ends => break,
                    Hangup::Reloads => {
                        reload();
                        received.reload.send_replace(());
                    }
                }
            }
        }
        tracing::info!("shutting down");
        received.shutdown.cancel();
    }
}
