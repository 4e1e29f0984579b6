//! The settings of hyper and h2 for connections of the data plane.

use hyper_util::{rt::TokioTimer, server::conn::auto};

use super::stream_timeout::StreamExecutor;
use crate::limits::Limits;

/// Bytes of a request body that h2 reads ahead on one stream. `--max-buffered-total` counts these bytes for each body
/// that has not ended, so that memory stays bounded even when nothing consumes the body.
pub(super) const STREAM_WINDOW: u32 = 64 << 10;
/// The window of a connection, as a multiple of the windows of all its streams, so that bodies that nobody reads use up
/// their own windows and never that of the other bodies on the connection. h2 also derives from this window how many
/// small DATA frames may wait: h2 counts each as 256 bytes, allows up to half of the window, and ends the connection
/// beyond that. With 4, all streams may have messages of 100 bytes waiting, and what waits takes at most twice as much
/// memory as the windows of all streams.
const CONNECTION_WINDOWS: u32 = 4;
/// The largest window that HTTP/2 has (RFC 9113, section 6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;
/// Resets that h2 may send on one connection by itself, over the connection's whole life, before it ends the
/// connection. h2 sends one for each frame that arrives on a stream that it has reset and forgotten, so a client whose
/// uploads are refused early causes several of them with each upload. Resets that the client does not read take at most
/// 32 MiB.
const RESETS_BY_H2: usize = 64 << 10;
/// The limits of the libraries, as a multiple of the injector's own limits. A request between the two limits gets a
/// refusal that names the setting; a library would only close the connection.
pub(super) const LIBRARY_LIMITS: usize = 2;
/// The smallest buffer that hyper accepts for an HTTP/1.1 head, in bytes.
const MIN_BUFFER: usize = 8 * 1024;

pub(super) fn builder(limits: &Limits) -> auto::Builder<StreamExecutor> {
    let head = (limits.max_uri_size + limits.max_headers_size) * LIBRARY_LIMITS;
    let mut http = auto::Builder::new(StreamExecutor {
        write_timeout: limits.write_timeout,
    });
    http.http1()
        .timer(TokioTimer::new())
        // The watchdog measures this time, without a timer for every call.
        .header_read_timeout(None)
        .max_headers(limits.max_headers * LIBRARY_LIMITS)
        .max_buf_size(head.max(MIN_BUFFER));
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_concurrent_streams)
        // A client may cancel all its calls at once, before any of them is accepted. h2 accepts all calls of a read
        // before the next read, so only a client that resets streams faster than they are accepted exceeds this.
        .max_pending_accept_reset_streams(limits.max_concurrent_streams as usize)
        .max_local_error_reset_streams(RESETS_BY_H2)
        .max_header_list_size(u32::try_from(head).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(connection_window(limits.max_concurrent_streams))
        .keep_alive_interval(limits.keepalive.ping.interval)
        .keep_alive_timeout(limits.keepalive.ping.timeout);
    http
}

fn connection_window(streams: u32) -> u32 {
    let all = STREAM_WINDOW.saturating_mul(streams);
    all.saturating_mul(CONNECTION_WINDOWS).min(MAX_WINDOW)
}
