//! A limit for interim (1xx) responses. hyper and h2 accept any number of them, so an upstream could keep a call, and a
//! busy thread, for ever.
//!
//! hyper reports every interim response over HTTP/1.1, but none over HTTP/2. So [`InterimLimit`] counts the HEADERS
//! frames that neither end their stream nor are followed by DATA. It also notifies [`ConnectionPing`] of a GOAWAY frame
//! with ENHANCE_YOUR_CALM, which hyper does not report either.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use futures_util::task::AtomicWaker;
use http::Request;
use proto::{Reason, Refusal};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ping::ConnectionPing;

const MAX_INTERIM: usize = 100;

/// Completes when the upstream has sent more than [`MAX_INTERIM`] interim responses to `request` over HTTP/1.1.
pub(super) fn limit_exceeded<B>(request: &mut Request<B>) -> impl Future<Output = Refusal> + use<B> {
    let received = Arc::new(InterimCount::default());
    let counted = received.clone();
    hyper::ext::on_informational(request, move |_| {
        if counted.count.fetch_add(1, Relaxed) == MAX_INTERIM {
            counted.waiting.wake();
        }
    });
    poll_fn(move |context| {
        received.waiting.register(context.waker());
        if received.count.load(Relaxed) <= MAX_INTERIM {
            return Poll::Pending;
        }
        let message = format!("the upstream sent more than {MAX_INTERIM} interim (1xx) responses");
        Poll::Ready(Refusal::new(Reason::UpstreamProtocol, message))
    })
}

#[derive(Default)]
struct InterimCount {
    count: AtomicUsize,
    waiting: AtomicWaker,
}

pin_project_lite::pin_project! {
    /// A connection that fails when its peer sends too many interim responses over HTTP/2.
    pub(super) struct InterimLimit<S> {
        #[pin]
        stream: S,
        frames: Option<ReceivedFrames>,
    }
}

impl<S> InterimLimit<S> {
    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// `ping` is `None` over HTTP/1.1.
    pub(super) fn new(stream: S, ping: Option<ConnectionPing>) -> Self {
        Self {
            stream,
            frames: ping.map(ReceivedFrames::new),
        }
    }
}

// The size of a frame's header, frame types, a flag and an error code (RFC 9113, sections 4.1, 6.1, 6.2, 6.4, 6.8 and 7).
const FRAME_HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;
const END_STREAM: u8 = 0x1;
/// The number of streams to count heads for. An abandoned call leaves its stream in the map until newer streams replace it.
const MAX_STREAMS: usize = 4096;

/// Counts the heads in the frames that a peer sends.
struct ReceivedFrames {
    header: [u8; FRAME_HEADER],
    /// Bytes of `header` that have arrived.
    header_len: usize,
    /// Bytes of the current frame's payload that have not arrived.
    payload_left: usize,
    /// The number of heads of each stream since the stream's last DATA frame.
    heads: HashMap<u32, usize>,
    /// The first 8 bytes of a GOAWAY frame's payload (last stream and error code), as far as they have arrived. `None`
    /// outside of such a frame.
    goaway: Option<Vec<u8>>,
    ping: ConnectionPing,
}

impl ReceivedFrames {
    fn new(ping: ConnectionPing) -> Self {
        Self {
            header: [0; FRAME_HEADER],
            header_len: 0,
            payload_left: 0,
            heads: HashMap::new(),
            goaway: None,
            ping,
        }
    }

    /// Parses the next bytes. Fails when a stream has too many heads.
    fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let (payload, rest) = bytes.split_at(self.payload_left.min(bytes.len()));
                self.payload_left -= payload.len();
                self.push_payload(payload);
                bytes = rest;
                continue;
            }
            let room = self.header.iter_mut().skip(self.header_len);
            let count = room.zip(bytes).map(|(place, byte)| *place = *byte).count();
            self.header_len += count;
            bytes = bytes.get(count..).unwrap_or_default();
            if self.header_len == FRAME_HEADER {
                self.header_len = 0;
                self.begin_frame()?;
            }
        }
        Ok(())
    }

    fn begin_frame(&mut self) -> io::Result<()> {
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        self.payload_left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.goaway = (kind == GOAWAY).then(Vec::new);
        match kind {
            HEADERS if flags & END_STREAM == 0 => self.count_head(stream),
            HEADERS | DATA | RST_STREAM => {
                self.heads.remove(&stream);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn push_payload(&mut self, bytes: &[u8]) {
        let Some(goaway) = &mut self.goaway else {
            return;
        };
        goaway.extend(bytes.iter().take(8 - goaway.len()));
        if let [_, _, _, _, code @ ..] = goaway.as_slice()
            && let Ok(code) = code.try_into().map(u32::from_be_bytes)
        {
            self.goaway = None;
            if code == ENHANCE_YOUR_CALM {
                self.ping.double_interval();
            }
        }
    }

    fn count_head(&mut self, stream: u32) -> io::Result<()> {
        if self.heads.len() >= MAX_STREAMS {
            let mut streams: Vec<_> = self.heads.keys().copied().collect();
            let (_, median, _) = streams.select_nth_unstable(MAX_STREAMS / 2);
            let median = *median;
            self.heads.retain(|stream, _| *stream >= median);
        }
        let heads = self.heads.entry(stream).or_default();
        *heads += 1;
        // One of the heads may be the final answer's.
        if *heads > MAX_INTERIM + 1 {
            let error = "the upstream sent too many interim (1xx) responses";
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(())
    }
}

impl<S: AsyncRead> AsyncRead for InterimLimit<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buffer.filled().len();
        ready!(this.stream.poll_read(context, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        Poll::Ready(match this.frames {
            Some(frames) => frames.push(read),
            None => Ok(()),
        })
    }
}

chassis::delegate_async_write!(InterimLimit<S: [AsyncWrite]>, |this| this.project().stream);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::Uid;

    use super::{
        super::ping::{PingInterval, PingIntervals},
        *,
    };

    fn frames() -> ReceivedFrames {
        ReceivedFrames::new(interval().of_connection())
    }

    fn interval() -> PingInterval {
        PingInterval::new(&PingIntervals::new(Duration::from_secs(5)), Uid::generate())
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    #[test]
    fn heads_are_counted_for_each_stream_until_its_data() {
        let interim = |stream| frame(HEADERS, 0x4, stream, b"\x88");
        let mut frames = frames();
        // The frames of two streams arrive in turn, one byte at a time.
        for _ in 0..=MAX_INTERIM {
            for stream in [1, 3] {
                for byte in interim(stream) {
                    frames.push(&[byte]).unwrap();
                }
            }
        }
        frames.push(&frame(DATA, 0, 1, b"data")).unwrap();
        frames.push(&frame(RST_STREAM, 0, 5, &[0; 4])).unwrap();
        frames.push(&interim(1)).unwrap();
        assert_eq!(
            frames.push(&interim(3)).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn a_goaway_with_enhance_your_calm_doubles_the_interval() {
        for (code, seconds) in [(0, 5), (11, 10)] {
            for pieces in [1, 3, 100] {
                let interval = interval();
                let mut frames = ReceivedFrames::new(interval.of_connection());
                let payload = [&[0, 0, 0, 7, 0, 0, 0, code][..], b"too_many_pings"].concat();
                let sent = [frame(DATA, 0, 1, &[11; 20]), frame(GOAWAY, 0, 0, &payload)].concat();
                for piece in sent.chunks(pieces) {
                    frames.push(piece).unwrap();
                }
                assert_eq!(interval.get(), Duration::from_secs(seconds));
            }
        }
    }

    #[test]
    fn abandoned_streams_are_forgotten() {
        let mut frames = frames();
        for stream in 0..50_000 {
            frames.push(&frame(HEADERS, 0, 2 * stream + 1, b"")).unwrap();
        }
        assert!(frames.heads.len() <= MAX_STREAMS);
    }
}
