//! A limit for interim (1xx) responses. hyper and h2 accept any number of them, so an upstream could keep a call, and a
//! busy thread, for ever.
//!
//! hyper reports every interim response over HTTP/1.1, but none over HTTP/2. So [`InterimLimit`] counts the HEADERS
//! frames that neither end their stream nor are followed by DATA. It also tells [`ConnectionPing`] of a GOAWAY frame with
//! ENHANCE_YOUR_CALM, of which hyper says nothing either.

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

/// The most interim responses to one request.
const MAX_INTERIM: usize = 100;

/// Completes when the upstream has sent too many interim responses to `request` over HTTP/1.1.
pub(super) fn too_many<B>(request: &mut Request<B>) -> impl Future<Output = Refusal> + use<B> {
    let received = Arc::new(InterimCount::default());
    let of_hyper = received.clone();
    hyper::ext::on_informational(request, move |_| {
        if of_hyper.count.fetch_add(1, Relaxed) == MAX_INTERIM {
            of_hyper.waiting.wake();
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

/// The interim responses that arrived for one request.
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
        // None over HTTP/1.1.
        frames: Option<ReceivedFrames>,
    }
}

impl<S> InterimLimit<S> {
    /// The connection itself.
    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// `ping` is that of an HTTP/2 connection, and None over HTTP/1.1.
    pub(super) fn new(stream: S, ping: Option<ConnectionPing>) -> Self {
        Self {
            stream,
            frames: ping.map(ReceivedFrames::new),
        }
    }
}

/// The size of a frame's header, and types, flags and a code of frames (RFC 9113, sections 4.1, 6.1, 6.2, 6.4, 6.8 and 7).
const FRAME_HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;
const END_STREAM: u8 = 0x1;
/// The most streams to count heads for. An abandoned call leaves its stream in the map until newer streams replace it.
const MAX_STREAMS: usize = 4096;

/// Counts the heads in the frames that a peer sends.
struct ReceivedFrames {
    /// The received part of the next frame's header.
    header: [u8; FRAME_HEADER],
    come: usize,
    /// Bytes of the current frame's payload that are still to come.
    left: usize,
    /// The number of heads of each stream since the stream's last DATA frame.
    heads: HashMap<u32, usize>,
    /// The received part of the last stream and the code of a GOAWAY frame. None outside of one.
    goaway: Option<Vec<u8>>,
    ping: ConnectionPing,
}

impl ReceivedFrames {
    fn new(ping: ConnectionPing) -> Self {
        Self {
            header: [0; FRAME_HEADER],
            come: 0,
            left: 0,
            heads: HashMap::new(),
            goaway: None,
            ping,
        }
    }

    /// Reads the next bytes. Fails when a stream has too many heads.
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (payload, rest) = bytes.split_at(self.left.min(bytes.len()));
                self.left -= payload.len();
                self.payload(payload);
                bytes = rest;
                continue;
            }
            let room = self.header.iter_mut().skip(self.come);
            let count = room.zip(bytes).map(|(place, byte)| *place = *byte).count();
            self.come += count;
            bytes = bytes.get(count..).unwrap_or_default();
            if self.come == FRAME_HEADER {
                self.come = 0;
                self.begin()?;
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.goaway = (kind == GOAWAY).then(Vec::new);
        match kind {
            HEADERS if flags & END_STREAM == 0 => self.head(stream),
            HEADERS | DATA | RST_STREAM => {
                self.heads.remove(&stream);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn payload(&mut self, bytes: &[u8]) {
        let Some(goaway) = &mut self.goaway else {
            return;
        };
        // The last stream and the code have four bytes each.
        goaway.extend(bytes.iter().take(8 - goaway.len()));
        if let [_, _, _, _, code @ ..] = goaway.as_slice()
            && let Ok(code) = code.try_into().map(u32::from_be_bytes)
        {
            self.goaway = None;
            if code == ENHANCE_YOUR_CALM {
                self.ping.was_too_often();
            }
        }
    }

    fn head(&mut self, stream: u32) -> io::Result<()> {
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
            Some(frames) => frames.take(read),
            None => Ok(()),
        })
    }
}

impl<S: AsyncWrite> AsyncWrite for InterimLimit<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.project().stream.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().stream.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_shutdown(context)
    }
}

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
                    frames.take(&[byte]).unwrap();
                }
            }
        }
        frames.take(&frame(DATA, 0, 1, b"data")).unwrap();
        frames.take(&frame(RST_STREAM, 0, 5, &[0; 4])).unwrap();
        frames.take(&interim(1)).unwrap();
        assert_eq!(
            frames.take(&interim(3)).unwrap_err().kind(),
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
                    frames.take(piece).unwrap();
                }
                assert_eq!(interval.get(), Duration::from_secs(seconds));
            }
        }
    }

    #[test]
    fn streams_that_were_given_up_are_forgotten() {
        let mut frames = frames();
        for stream in 0..50_000 {
            frames.take(&frame(HEADERS, 0, 2 * stream + 1, b"")).unwrap();
        }
        assert!(frames.heads.len() <= MAX_STREAMS);
    }
}
