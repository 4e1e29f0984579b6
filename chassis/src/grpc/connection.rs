//! One gRPC connection.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time,
};
use tokio_stream::StreamExt as _;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::{
    body::Body,
    transport::{Server, server::Connected},
};
use tower::Service;

use super::{
    connection_slot::ConnectionSlot,
    retirement::{CallCounter, RunningCalls},
    write_watchdog::{WatchedService, WriteWatchdog},
};
use crate::{caller::Caller, keepalive::Ping, tls::PeerTrust};

/// Time limit for receiving the connection preface, from the end of the TLS handshake on. hyper sets no limit of its own.
pub(super) const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// Size of the preface that an HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// Longest time for which a client may accept no byte of an answer before its connection is closed.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that a connection at its maximum age gives its running calls to finish.
pub(super) const AGED_GRACE: Duration = Duration::from_secs(5);
/// Time without a call after which a retired connection is closed even if its client has not acknowledged the end. It
/// counts from the write of the last answer's last byte: as long as a client reads, however slowly, [`WRITE_TIMEOUT`] alone
/// limits its time.
///
/// A graceful end waits for the answer to a PING (RFC 9113, section 6.8). A client whose program is stopped sends none,
/// and would keep the value of a secret in the connection's buffers until the PING timeout of some minutes.
pub(super) const RETIRED_GRACE: Duration = Duration::from_secs(30);
/// Maximum number of stream resets that h2 sends on one connection of its own accord before it ends the connection.
/// tonic's default is no limit, so a client that reads nothing could fill the memory with resets.
const MAX_LOCAL_RESETS: usize = 1024;

/// A service that answers calls: the handlers behind the authorization layer.
pub trait GrpcService:
    Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<S> GrpcService for S where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// Resource limits of one connection.
pub(super) struct ConnectionLimits {
    /// Maximum number of concurrent streams.
    pub(super) streams: u32,
    /// Maximum size of a header list that the client sends, in bytes.
    pub(super) header_list: u32,
    /// HTTP/2 flow-control windows of one stream and of the connection, in bytes; `None` keeps hyper's defaults.
    pub(super) windows: Option<(u32, u32)>,
    /// Time for which the connection accepts new calls; `None` sets no limit.
    pub(super) age: Option<Duration>,
}

/// Serves one connection until its client closes it.
///
/// The connection ends gracefully, so that running calls finish, when it is retired ([`super::retirement`]), when it
/// reaches its maximum age, and on `shutdown`. It is cut off when its slot is evicted, when its client does not read an
/// answer ([`super::write_watchdog`]), when the CA of its client's certificate is removed, and when a graceful end takes too
/// long.
///
/// tonic ends all connections of a server together, so each connection gets a server of its own.
pub(super) async fn serve_connection<IO, S: GrpcService>(
    stream: IO,
    trust: PeerTrust,
    caller: Caller,
    slot: ConnectionSlot,
    (limits, ping): (&ConnectionLimits, Ping),
    service: S,
    shutdown: &CancellationToken,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (closed, evictor, address) = (shutdown.child_token(), slot.evictor(), caller.address);
    let connection = Connection::new(stream, caller, slot.clone(), closed.clone().drop_guard());
    let (calls, watchdog) = (RunningCalls::new(), WriteWatchdog::default());
    let service = WatchedService::new(CallCounter::new(service, calls.clone()), watchdog.clone());
    let age = limits.age;
    let graceful_end = {
        let (calls, slot) = (calls.clone(), slot.clone());
        async move {
            let retired_or_aged = async {
                tokio::select! {
                    () = calls.retired() => {}
                    () = aged(age, &slot) => {}
                }
            };
            let _ = closed.run_until_cancelled(retired_or_aged).await;
        }
    };
    let (stream_window, connection_window) = limits.windows.unzip();
    let served = Server::builder()
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .http2_max_header_list_size(limits.header_list)
        .http2_max_pending_accept_reset_streams(Some(limits.streams as usize))
        .http2_max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
        .http2_keepalive_interval(Some(ping.interval))
        .http2_keepalive_timeout(Some(ping.timeout))
        .serve_with_incoming_shutdown(
            service,
            tokio_stream::once(Ok::<_, io::Error>(connection)).chain(tokio_stream::pending()),
            graceful_end,
        );
    let cut_off = async {
        let end_of_retirement = async {
            calls.retired().await;
            calls.none_for(RETIRED_GRACE, &watchdog).await;
        };
        tokio::select! {
            () = aged(age.map(|age| age + AGED_GRACE), &slot) => {}
            () = end_of_retirement => {
                tracing::debug!("retired connection closed: its client does not acknowledge the end");
            }
            () = watchdog.stalled(WRITE_TIMEOUT) => {
                tracing::debug!("connection closed: its client does not read an answer");
            }
            () = trust.lost() => {
                tracing::info!(peer = %address, "connection closed: the CA of its client's certificate was removed");
            }
        }
        evictor.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::warn!(%error, "connection not served");
        },
        () = cut_off => {}
    }
}

/// Completes when the connection has reached `age` and its client has no role; never completes when `age` is `None`.
async fn aged(age: Option<Duration>, slot: &ConnectionSlot) {
    if let Some(age) = age {
        time::sleep(age).await;
        if !slot.has_role() {
            return;
        }
    }
    std::future::pending().await
}

/// The byte stream of a connection. Reads fail when the preface does not arrive in time, and reads and writes fail once
/// the connection is evicted.
struct Connection<IO> {
    stream: IO,
    caller: Caller,
    preface: Option<MissingPreface>,
    evicted: Pin<Box<WaitForCancellationFutureOwned>>,
    slot: ConnectionSlot,
    /// Cancels the token that ends the tasks of this connection.
    _closed: DropGuard,
}

/// The part of the preface that has not arrived. h2 compares its contents.
struct MissingPreface {
    bytes: usize,
    deadline: Pin<Box<time::Sleep>>,
}

impl<IO> Connection<IO> {
    fn new(stream: IO, caller: Caller, slot: ConnectionSlot, closed: DropGuard) -> Self {
        Self {
            stream,
            caller,
            preface: Some(MissingPreface {
                bytes: PREFACE,
                deadline: Box::pin(time::sleep(PREFACE_TIMEOUT)),
            }),
            evicted: Box::pin(slot.evicted()),
            slot,
            _closed: closed,
        }
    }

    fn note_read(&mut self, bytes: usize) {
        self.preface = self.preface.take().and_then(|preface| {
            let missing = preface.bytes.saturating_sub(bytes);
            (missing > 0).then_some(MissingPreface {
                bytes: missing,
                ..preface
            })
        });
    }

    /// Returns true when the preface is late. Otherwise `context` is woken when it becomes late.
    fn poll_preface_is_late(&mut self, context: &mut Context<'_>) -> bool {
        let preface = self.preface.as_mut();
        preface.is_some_and(|preface| preface.deadline.as_mut().poll(context).is_ready())
    }

    /// Returns `polled`, or an error when `polled` is pending and the connection is evicted.
    fn unless_evicted<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_pending() && self.evicted.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        polled
    }
}

impl<IO> Drop for Connection<IO> {
    fn drop(&mut self) {
        self.slot.release();
    }
}

impl<IO> Connected for Connection<IO> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.caller.clone()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Connection<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_ready() {
            self.note_read(buffer.filled().len() - before);
        } else if self.poll_preface_is_late(context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.unless_evicted(context, polled)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Connection<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.unless_evicted(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.unless_evicted(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.unless_evicted(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.unless_evicted(context, polled)
    }
}
