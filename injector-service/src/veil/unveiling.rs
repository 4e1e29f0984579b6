//! The last step before the socket: stand-ins become values.

use std::{
    io::{self, IoSlice},
    ops::Range,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use memchr::memmem;
use zeroize::Zeroize as _;

use super::{KEY, MARK, SHORTEST_CODE, SYMBOLS, Veil, key_of};

/// The code of [`MARK`] in HPACK.
const MARK_CODE: &[u8; 5] = &[0x42, 0x4e, 0x02, 0x90, 0x61];

/// What is spoken over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
}

pin_project_lite::pin_project! {
    /// A connection over which stand-ins are written as what they stand for.
    pub(crate) struct Unveiling<S> {
        #[pin]
        stream: S,
        veil: Veil,
        wire: Wire,
        // What was taken over but not written yet: everything from `written` on.
        pending: Vec<u8>,
        written: usize,
        // Where in it values are: wiped when all is written.
        values: Vec<Range<usize>>,
    }

    impl<S> PinnedDrop for Unveiling<S> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            wipe(this.pending, this.values);
        }
    }
}

impl<S> Unveiling<S> {
    /// Over `stream`, for what `veil` covers.
    pub(crate) fn new(stream: S, veil: Veil, wire: Wire) -> Self {
        Self {
            stream,
            veil,
            wire,
            pending: Vec::new(),
            written: 0,
            values: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Whether HTTP/2 is spoken over the connection.
    pub(crate) fn is_http2(&self) -> bool {
        self.wire == Wire::Http2
    }
}

/// Empties `pending`, after wiping the values in it.
fn wipe(pending: &mut Vec<u8>, values: &mut Vec<Range<usize>>) {
    for value in values.drain(..) {
        if let Some(value) = pending.get_mut(value) {
            value.zeroize();
        }
    }
    pending.clear();
}

/// A stand-in that was found: where it is, and what goes there.
struct Found {
    at: usize,
    length: usize,
    value: std::sync::Arc<super::Hidden>,
}

impl Wire {
    /// The first stand-in in `bytes`, from `from` on.
    fn find(self, veil: &Veil, bytes: &[u8], from: usize) -> Option<Found> {
        let mark: &[u8] = match self {
            Self::Http1 => MARK,
            Self::Http2 => MARK_CODE,
        };
        let mut from = from;
        loop {
            let at = from + memmem::find(bytes.get(from..)?, mark)?;
            let behind = bytes.get(at + mark.len()..)?;
            if let Some(value) = self.key(behind).and_then(|key| veil.find(key)) {
                let length = match (self, &value.code) {
                    (Self::Http1, _) => Some(value.symbols),
                    (Self::Http2, Some(code)) => Some(code.len()),
                    (Self::Http2, None) => None,
                };
                if let Some(length) = length.filter(|length| at + length <= bytes.len()) {
                    return Some(Found { at, length, value });
                }
            }
            // Somebody else's bytes that look like it.
            from = at + 1;
        }
    }

    fn key(self, behind: &[u8]) -> Option<super::Key> {
        match self {
            Self::Http1 => {
                let text = behind.get(..KEY)?;
                let number = |byte: &u8| SYMBOLS.iter().position(|symbol| symbol == byte);
                key_of(
                    text.iter()
                        .map(|byte| number(byte).and_then(|at| u8::try_from(at).ok())),
                )
            }
            Self::Http2 => {
                let code = behind.get(..SHORTEST_CODE - MARK_CODE.len())?;
                let bits = code
                    .iter()
                    .fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
                let symbol = |at: usize| u8::try_from(bits >> (5 * (KEY - 1 - at)) & 0x1f).ok();
                key_of((0..KEY).map(symbol))
            }
        }
    }

    /// Every stand-in in `bytes`.
    fn find_all(self, veil: &Veil, bytes: &[u8]) -> Vec<Found> {
        let first = self.find(veil, bytes, 0);
        std::iter::successors(first, |last| self.find(veil, bytes, last.at + last.length)).collect()
    }

    /// Appends `bytes` to `out`, every stand-in as what it stands for.
    fn unveil(self, bytes: &[u8], found: Vec<Found>, out: &mut Vec<u8>, values: &mut Vec<Range<usize>>) {
        let mut done = 0;
        for Found { at, length, value } in found {
            out.extend_from_slice(bytes.get(done..at).unwrap_or_default());
            let begins = out.len();
            match (self, &value.code) {
                (Self::Http2, Some(code)) => out.extend_from_slice(code),
                (Self::Http1, _) | (Self::Http2, None) => out.extend_from_slice(&value.plain),
            }
            values.push(begins..out.len());
            value.placed.store(true, Ordering::Release);
            done = at + length;
        }
        out.extend_from_slice(bytes.get(done..).unwrap_or_default());
    }
}

impl<S: Write> Unveiling<S> {
    /// Writes what was taken over.
    fn poll_pending(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        while let Some(rest @ [_, ..]) = this.pending.get(*this.written..) {
            let written = ready!(this.stream.as_mut().poll_write(context, rest));
            match written {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => *this.written += count,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if *this.written > 0 {
            wipe(this.pending, this.values);
            *this.written = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes everything over when there is a stand-in in it. How much that was; nothing when there is none.
    fn take_over(self: Pin<&mut Self>, slices: &[IoSlice<'_>]) -> Option<usize> {
        let this = self.project();
        // Most of what is written holds none.
        let first = slices
            .iter()
            .position(|slice| this.wire.find(this.veil, slice, 0).is_some())?;
        let found: Vec<Vec<Found>> = slices
            .iter()
            .enumerate()
            .map(|(number, slice)| match number < first {
                true => Vec::new(),
                false => this.wire.find_all(this.veil, slice),
            })
            .collect();
        let taken: usize = slices.iter().map(|slice| slice.len()).sum();
        let values: usize = found.iter().flatten().map(|found| found.value.plain.len()).sum();
        // Of this size from the start: a buffer that grows leaves copies behind.
        if this.pending.capacity() < taken + values {
            *this.pending = Vec::with_capacity(taken + values);
        }
        for (slice, found) in slices.iter().zip(found) {
            this.wire.unveil(slice, found, this.pending, this.values);
        }
        Some(taken)
    }
}

impl<S: Write> Write for Unveiling<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.as_mut().poll_pending(context))?;
        let Some(taken) = self.as_mut().take_over(slices) else {
            return self.project().stream.poll_write_vectored(context, slices);
        };
        // What cannot be written at once is written with the next write or flush.
        match self.poll_pending(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_pending(context))?;
        self.project().stream.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_pending(context))?;
        self.project().stream.poll_shutdown(context)
    }
}

impl<S: Read> Read for Unveiling<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.project().stream.poll_read(context, buffer)
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt as _};

    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    use super::{
        super::{Cover, Over},
        *,
    };

    const VALUE: &[u8] = b"ghp_0123456789abcdefghijABCDEFGHIJ";

    /// Where a buffer is, to be looked at also after it was emptied or freed.
    struct Place {
        memory: File,
        at: u64,
        bytes: Vec<u8>,
    }

    impl Place {
        fn of(buffer: &Vec<u8>) -> Self {
            Self {
                memory: File::open("/proc/self/mem").unwrap(),
                at: u64::try_from(buffer.as_ptr().addr()).unwrap(),
                bytes: vec![0; buffer.capacity()],
            }
        }

        fn holds_value(&mut self) -> bool {
            self.memory.read_exact_at(&mut self.bytes, self.at).unwrap();
            // Where a buffer was freed, its beginning is the allocator's.
            memmem::find(&self.bytes, &VALUE[16..]).is_some()
        }
    }

    /// A connection that has taken a head over and written a part of it; its other end, and the head's length.
    async fn begun(veil: &Veil) -> (Unveiling<TokioIo<DuplexStream>>, DuplexStream, Cover, usize) {
        let (near, far) = duplex(8);
        let (stand_in, cover) = veil.cover(VALUE, Over::Http1).unwrap();
        let head = |value: &[u8]| [b"GET / HTTP/1.1\r\nauthorization: ", value, b"\r\n\r\n"].concat();
        let mut stream = Unveiling::new(TokioIo::new(near), veil.clone(), Wire::Http1);
        let bytes = head(stand_in.as_bytes());
        let taken = std::future::poll_fn(|context| Pin::new(&mut stream).poll_write(context, &bytes)).await;
        assert_eq!(taken.unwrap(), bytes.len());
        assert_eq!(stream.pending.capacity(), bytes.len() + VALUE.len(), "it grew");
        (stream, far, cover, head(VALUE).len())
    }

    #[tokio::test]
    async fn a_value_is_wiped_when_it_was_written_and_the_buffer_is_kept() {
        let (mut stream, mut far, cover, length) = begun(&Veil::default()).await;
        let mut place = Place::of(&stream.pending);
        assert!(place.holds_value(), "the test sees nothing");
        let flushed = std::future::poll_fn(|context| Pin::new(&mut stream).poll_flush(context));
        let mut arrived = vec![0; length];
        let (flushed, read) = tokio::join!(flushed, far.read_exact(&mut arrived));
        flushed.unwrap();
        read.unwrap();
        assert!(memmem::find(&arrived, VALUE).is_some());
        assert!(!place.holds_value());
        let mut place = Place::of(&cover.hidden.plain);
        assert!(place.holds_value());
        drop(cover);
        assert!(!place.holds_value());
    }

    #[tokio::test]
    async fn a_value_is_wiped_when_its_connection_ends_before_it_was_written() {
        let (stream, _far, _cover, _) = begun(&Veil::default()).await;
        let mut place = Place::of(&stream.pending);
        assert!(place.holds_value(), "the test sees nothing");
        drop(stream);
        assert!(!place.holds_value());
    }
}
