//! The tunnel between two upgraded connections.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chassis::telemetry::field;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use proto::CallId;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split},
    time::{Instant, sleep_until},
};

use crate::upstream;

const BUFFER: usize = 16 * 1024;

/// Two connections, each of which hyper is upgrading.
#[derive(Clone)]
pub(super) struct Tunnel {
    pub(super) downstream: OnUpgrade,
    pub(super) upstream: OnUpgrade,
    pub(super) call_id: CallId,
}

impl Tunnel {
    /// Relays bytes until both sides have ended, one side fails, or no bytes passed for `idle_timeout`.
    pub(super) async fn run(self, idle_timeout: Duration) {
        let Self {
            downstream,
            upstream,
            call_id,
        } = self;
        let traffic = Traffic::new();
        let relaying = async {
            let (downstream, upstream) = tokio::try_join!(downstream, upstream).map_err(io::Error::other)?;
            relay(
                TokioIo::new(downstream),
                upstream::upgraded_io(upstream)?,
                &traffic,
            )
            .await
        };
        let ended = until_ended(relaying, &traffic, idle_timeout).await;
        let Counts { sent, received, .. } = *traffic.lock();
        tracing::debug!(
            { field::CALL_ID } = call_id.as_str(),
            sent,
            received,
            ended,
            "upgraded connection ended"
        );
    }
}

/// Waits for the end of `relaying`, or until it is idle for too long. Returns the reason of the end.
async fn until_ended(
    relaying: impl Future<Output = io::Result<()>>,
    traffic: &Traffic,
    idle_timeout: Duration,
) -> &'static str {
    tokio::select! {
        relayed = relaying => match relayed {
            Ok(()) => "both sides were done",
            Err(_) => "one side broke off",
        },
        () = traffic.idle(idle_timeout) => "nothing was carried for too long",
    }
}

struct Traffic(Mutex<Counts>);

struct Counts {
    sent: u64,
    received: u64,
    last: Instant,
}

impl Traffic {
    fn new() -> Self {
        Self(Mutex::new(Counts {
            sent: 0,
            received: 0,
            last: Instant::now(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, add: impl FnOnce(&mut Counts)) {
        let mut counts = self.lock();
        add(&mut counts);
        counts.last = Instant::now();
    }

    async fn idle(&self, timeout: Duration) {
        loop {
            let end = self.lock().last + timeout;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }
}

/// Relays bytes both ways until both sides have ended, or one side fails.
async fn relay(
    downstream: impl AsyncRead + AsyncWrite,
    upstream: impl AsyncRead + AsyncWrite,
    traffic: &Traffic,
) -> io::Result<()> {
    let (from_downstream, to_downstream) = split(downstream);
    let (from_upstream, to_upstream) = split(upstream);
    let sent = |bytes| traffic.count(|counts| counts.sent += bytes);
    let received = |bytes| traffic.count(|counts| counts.received += bytes);
    tokio::try_join!(
        copy(from_downstream, to_upstream, sent),
        copy(from_upstream, to_downstream, received)
    )?;
    Ok(())
}

/// Copies bytes one way, and then the end of the stream.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: impl Fn(u64),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(bytes).await?;
        to.flush().await?;
        count(u64::try_from(read).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests;
