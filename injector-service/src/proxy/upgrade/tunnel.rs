//! The tunnel between two upgraded connections.

use std::{
    future::pending,
    io,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use chassis::telemetry::field;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use proto::CallId;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    proxy::echo::{self, EchoFilter, Framing, MaskedStream},
    upstream,
};

const BUFFER: usize = 16 * 1024;

/// Two connections, each of which hyper is upgrading.
#[derive(Clone)]
pub(super) struct Tunnel {
    pub(super) downstream: OnUpgrade,
    pub(super) upstream: OnUpgrade,
    pub(super) call_id: CallId,
    /// `None` when the bytes for the program pass unread.
    pub(super) masking: Option<TunnelMasking>,
    /// The time at which the identity of the caller expires.
    pub(super) identity_end: Option<Instant>,
}

/// The masking of values on the way to the program.
#[derive(Clone)]
pub(super) struct TunnelMasking {
    filter: EchoFilter,
    is_web_socket: bool,
}

impl Tunnel {
    /// Relays bytes until both sides have ended, one side fails, no bytes passed for `idle_timeout`, or the identity of the
    /// caller has expired.
    pub(super) async fn run(self, idle_timeout: Duration) {
        let Self {
            downstream,
            upstream,
            call_id,
            masking,
            identity_end,
        } = self;
        let traffic = Traffic::new();
        let relaying = async {
            let (downstream, upstream) = tokio::try_join!(downstream, upstream).map_err(io::Error::other)?;
            relay(
                TokioIo::new(downstream),
                upstream::upgraded_io(upstream)?,
                masking.map(TunnelMasking::stream),
                &traffic,
            )
            .await
        };
        let ended = until_ended(relaying, &traffic, idle_timeout, identity_end).await;
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

impl TunnelMasking {
    /// Returns the masking for a connection that switched to `protocols`, if the server's `scrub` includes bodies.
    pub(super) fn new(filter: &EchoFilter, protocols: &[String]) -> Option<Self> {
        let is_web_socket = matches!(protocols, [only] if only.eq_ignore_ascii_case("websocket"));
        filter.masks_bodies().then(|| Self {
            filter: filter.clone(),
            is_web_socket,
        })
    }

    fn stream(self) -> MaskedStream {
        let framing = if self.is_web_socket {
            Framing::web_socket()
        } else {
            Framing::None
        };
        MaskedStream::new(self.filter, framing)
    }
}

/// Waits for the end of `relaying`, until it is idle for too long, or until `identity_end`. Returns the reason of the end.
async fn until_ended(
    relaying: impl Future<Output = io::Result<()>>,
    traffic: &Traffic,
    idle_timeout: Duration,
    identity_end: Option<Instant>,
) -> &'static str {
    let expired = async {
        match identity_end {
            Some(end) => sleep_until(end).await,
            None => pending().await,
        }
    };
    tokio::select! {
        relayed = relaying => match relayed {
            Ok(()) => "both sides were done",
            Err(_) => "one side broke off",
        },
        () = traffic.idle(idle_timeout) => "nothing was carried for too long",
        () = expired => "the identity of the caller has expired",
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
    masked: Option<MaskedStream>,
    traffic: &Traffic,
) -> io::Result<()> {
    let (from_downstream, to_downstream) = split(downstream);
    let (from_upstream, to_upstream) = split(upstream);
    let sent = |bytes| traffic.count(|counts| counts.sent += bytes);
    let received = |bytes| traffic.count(|counts| counts.received += bytes);
    let to_program = async {
        match masked {
            None => copy(from_upstream, to_downstream, received).await,
            Some(masked) => copy_masked(from_upstream, to_downstream, masked, received).await,
        }
    };
    tokio::try_join!(copy(from_downstream, to_upstream, sent), to_program)?;
    Ok(())
}

/// Copies like [`copy`], with values masked.
async fn copy_masked(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut masked: MaskedStream,
    count: impl Fn(u64),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let (output, read) = match next_read(&mut from, &mut buffer, &mut masked).await? {
            Read::Bytes(read) => {
                let bytes = buffer.get(..read).unwrap_or_default();
                let output = masked.push(Bytes::copy_from_slice(bytes));
                let output = output.inspect_err(|refusal| masked.log_broken_off(refusal));
                (output.map_err(io::Error::other)?, read)
            }
            Read::Released(output) => (output, 0),
            Read::End => {
                to.write_all(&masked.release_all()).await?;
                return to.shutdown().await;
            }
        };
        to.write_all(&output).await?;
        to.flush().await?;
        if read > 0 {
            count(u64::try_from(read).unwrap_or(u64::MAX));
        }
    }
}

enum Read {
    Bytes(usize),
    /// Bytes that were held back, and are released because no more bytes came for a while.
    Released(Bytes),
    End,
}

async fn next_read(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
    masked: &mut MaskedStream,
) -> io::Result<Read> {
    let mut reading = pin!(from.read(buffer));
    for delay in [echo::TAIL_DELAY, echo::BEGUN_DELAY] {
        if !masked.holds_bytes() {
            break;
        }
        if let Ok(read) = timeout(delay, reading.as_mut()).await {
            return Ok(Read::of(read?));
        }
        let released = if delay == echo::TAIL_DELAY {
            masked.release_tail()
        } else {
            masked.release_all()
        };
        if !released.is_empty() {
            return Ok(Read::Released(released));
        }
    }
    Ok(Read::of(reading.await?))
}

impl Read {
    fn of(bytes: usize) -> Self {
        if bytes == 0 { Self::End } else { Self::Bytes(bytes) }
    }
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
