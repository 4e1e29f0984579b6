//! The last step before the socket: stand-ins become values.

use std::{
    io::{self, IoSlice},
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Found, PlaceholderTable, http1::Messages, http2::Frames};

/// What is spoken over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
}

pin_project_lite::pin_project! {
    /// A connection that writes values instead of their stand-ins.
    ///
    /// The connection copies whole heads, and the bytes that one write has before them. All other bytes pass without a
    /// copy.
    pub(crate) struct SubstitutingStream<S> {
        #[pin]
        stream: S,
        placeholders: PlaceholderTable,
        follower: Follower,
        // Copied bytes up to the end of a head, or of its received part, with the stand-ins still in them.
        taken: Vec<u8>,
        // The positions of heads in `taken`.
        heads: Vec<Head>,
        // The bytes with values in place: written from `written` on, and then wiped.
        pending: Zeroizing<Vec<u8>>,
        written: usize,
    }
}

/// Finds the beginnings and ends of heads on a connection.
#[derive(Debug, Clone)]
enum Follower {
    Http1(Messages),
    Http2(Frames),
}

/// The ranges of one head among other bytes: one range in HTTP/1.1, and one for each frame in HTTP/2.
type Head = Vec<Range<usize>>;

impl Follower {
    /// Takes some of the next bytes. Returns their number, and true when they belong to a head.
    fn step(&mut self, bytes: &[u8]) -> (usize, bool) {
        match self {
            Self::Http1(messages) => messages.step(bytes),
            Self::Http2(frames) => frames.step(bytes),
        }
    }

    /// Returns true when a head has begun and has not ended.
    fn is_within_head(&self) -> bool {
        match self {
            Self::Http1(messages) => messages.is_within_head(),
            Self::Http2(frames) => frames.is_within_head(),
        }
    }

    /// Returns the number of bytes up to the end of the last head in `slices`, or of the received part of that head.
    fn end_of_heads(&self, slices: &[IoSlice<'_>]) -> usize {
        let mut ahead = self.clone();
        let (mut at, mut end) = (0, 0);
        for slice in slices {
            let mut rest = &slice[..];
            while !rest.is_empty() {
                // A head may end with a frame's header, or begin with one.
                let within = ahead.is_within_head();
                let (count, in_head) = ahead.step(rest);
                at += count;
                if within || in_head || ahead.is_within_head() {
                    end = at;
                }
                rest = rest.get(count..).unwrap_or_default();
            }
        }
        end
    }

    /// Steps over the first `count` bytes, which contain no head.
    fn pass(&mut self, slices: &[IoSlice<'_>], count: usize) {
        for slice in first(slices, count) {
            let mut rest = slice;
            while !rest.is_empty() {
                let (count, _) = self.step(rest);
                rest = rest.get(count..).unwrap_or_default();
            }
        }
    }
}

/// Returns the first `count` bytes.
fn first<'s>(slices: &'s [IoSlice<'_>], mut count: usize) -> impl Iterator<Item = &'s [u8]> {
    slices.iter().map(move |slice| {
        let length = count.min(slice.len());
        count -= length;
        slice.get(..length).unwrap_or_default()
    })
}

/// Returns the bytes after the first `count` bytes.
fn rest<'s>(slices: &'s [IoSlice<'_>], mut count: usize) -> impl Iterator<Item = IoSlice<'s>> {
    let rest = slices.iter().map(move |slice| {
        let length = count.min(slice.len());
        count -= length;
        IoSlice::new(slice.get(length..).unwrap_or_default())
    });
    rest.filter(|slice| !slice.is_empty())
}

impl<S> SubstitutingStream<S> {
    /// Over `stream`, for what `placeholders` covers.
    pub(crate) fn new(stream: S, placeholders: PlaceholderTable, wire: HttpVersion) -> Self {
        Self {
            stream,
            placeholders,
            follower: match wire {
                HttpVersion::Http1 => Follower::Http1(Messages::new()),
                HttpVersion::Http2 => Follower::Http2(Frames::new()),
            },
            taken: Vec::new(),
            heads: Vec::new(),
            pending: Zeroizing::default(),
            written: 0,
        }
    }

    /// The connection itself.
    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Returns the connection itself, for use after the last head.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    /// Whether HTTP/2 is spoken over the connection.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.follower, Follower::Http2(_))
    }

    /// Copies the first `count` bytes, and replaces the stand-ins in them when the last head is complete.
    fn take_over(self: Pin<&mut Self>, slices: &[IoSlice<'_>], count: usize) {
        let this = self.project();
        for slice in first(slices, count) {
            let mut rest = slice;
            while !rest.is_empty() {
                let within = this.follower.is_within_head();
                let (count, in_head) = this.follower.step(rest);
                let begins = !within && (in_head || this.follower.is_within_head());
                if begins {
                    this.heads.push(Head::new());
                }
                if let (true, Some(head)) = (in_head, this.heads.last_mut()) {
                    add(head, this.taken.len()..this.taken.len() + count);
                }
                let (step, behind) = rest.split_at_checked(count).unwrap_or((rest, &[]));
                this.taken.extend_from_slice(step);
                rest = behind;
            }
        }
        if !this.follower.is_within_head() {
            match this.follower {
                Follower::Http1(_) => unveil_text(this.placeholders, this.taken, this.heads, this.pending),
                Follower::Http2(_) => unveil_code(this.placeholders, this.taken, this.heads, this.pending),
            }
            this.taken.clear();
            this.heads.clear();
        }
    }
}

/// Appends `part` to the head's last range when both are adjacent, or else as a new range.
fn add(head: &mut Head, part: Range<usize>) {
    match head.last_mut() {
        Some(last) if last.end == part.start => last.end = part.end,
        Some(_) | None => head.push(part),
    }
}

/// Writes `taken` into `pending`, with values instead of their stand-ins.
fn unveil_text(
    placeholders: &PlaceholderTable,
    taken: &[u8],
    heads: &[Head],
    pending: &mut Zeroizing<Vec<u8>>,
) {
    let mut found = Vec::new();
    for part in heads.iter().flatten() {
        let in_head = super::http1::find(placeholders, taken.get(part.clone()).unwrap_or_default());
        found.extend(in_head.into_iter().map(|Found { range, hidden }| Found {
            range: part.start + range.start..part.start + range.end,
            hidden,
        }));
    }
    let values: usize = found.iter().map(|found| found.hidden.text.value.len()).sum();
    make_room(pending, taken.len() + values);
    let mut done = 0;
    for Found { range, hidden } in &found {
        pending.extend_from_slice(taken.get(done..range.start).unwrap_or_default());
        pending.extend_from_slice(&hidden.text.value);
        done = range.end;
    }
    pending.extend_from_slice(taken.get(done..).unwrap_or_default());
}

/// Writes `taken` into `pending`, with the codes of values over those of their stand-ins, which frames may split.
fn unveil_code(
    placeholders: &PlaceholderTable,
    taken: &[u8],
    heads: &[Head],
    pending: &mut Zeroizing<Vec<u8>>,
) {
    make_room(pending, taken.len());
    pending.extend_from_slice(taken);
    for parts in heads {
        let parts_of = |part: &Range<usize>| taken.get(part.clone()).unwrap_or_default();
        let block = parts.iter().map(parts_of).collect::<Vec<_>>().concat();
        for Found { range, hidden } in super::http2::find(placeholders, &block) {
            let places = parts.iter().cloned().flatten().skip(range.start);
            let code = hidden.code.iter().flat_map(|code| code.value.iter());
            for (place, byte) in places.zip(code) {
                if let Some(place) = pending.get_mut(place) {
                    *place = *byte;
                }
            }
        }
    }
}

/// Gives `pending` its final capacity from the start, because a buffer that grows leaves copies of values behind.
fn make_room(pending: &mut Zeroizing<Vec<u8>>, length: usize) {
    if pending.capacity() < length {
        *pending = Zeroizing::new(Vec::with_capacity(length));
    }
}

impl<S: Write> SubstitutingStream<S> {
    /// Writes what was taken over.
    fn poll_pending(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        while let Some(rest @ [_, ..]) = this.pending.get(*this.written..) {
            match ready!(this.stream.as_mut().poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => *this.written += count,
            }
        }
        this.pending.as_mut_slice().zeroize();
        this.pending.clear();
        *this.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Writes the copied bytes, together with the bytes of `slices` after the first `taken`. Returns the number of
    /// bytes of `slices` that are done with. Copied bytes that cannot be written at once follow with the next write or
    /// flush.
    fn poll_write_behind(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        taken: usize,
    ) -> Poll<io::Result<usize>> {
        let mut this = self.as_mut().project();
        let behind: Vec<_> = rest(slices, taken).collect();
        if !behind.is_empty() && this.stream.is_write_vectored() {
            let all: Vec<_> = [IoSlice::new(this.pending)].into_iter().chain(behind).collect();
            let Poll::Ready(count) = this.stream.as_mut().poll_write_vectored(context, &all)? else {
                return Poll::Ready(Ok(taken));
            };
            *this.written = count.min(this.pending.len());
            let passed = count - *this.written;
            this.follower.pass(all.get(1..).unwrap_or_default(), passed);
            if *this.written < this.pending.len() {
                return Poll::Ready(Ok(taken));
            }
            // Nothing is left to write, so `poll_pending` only wipes the buffer.
            return self.poll_pending(context).map_ok(|()| taken + passed);
        }
        match self.poll_pending(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }
}

impl<S: Write> Write for SubstitutingStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.as_mut().poll_pending(context))?;
        let taken = self.follower.end_of_heads(slices);
        if taken == 0 {
            let this = self.project();
            let count = ready!(this.stream.poll_write_vectored(context, slices))?;
            this.follower.pass(slices, count);
            return Poll::Ready(Ok(count));
        }
        self.as_mut().take_over(slices, taken);
        self.poll_write_behind(context, slices, taken)
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

impl<S: Read> Read for SubstitutingStream<S> {
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

    use http::header;
    use hyper_util::rt::TokioIo;
    use memchr::memmem;
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    use super::{
        super::{PlaceholderGuard, PossibleVersions},
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
    async fn begun(
        placeholders: &PlaceholderTable,
    ) -> (
        SubstitutingStream<TokioIo<DuplexStream>>,
        DuplexStream,
        PlaceholderGuard,
        usize,
    ) {
        let (near, far) = duplex(8);
        let (stand_in, cover) = placeholders
            .cover(&header::AUTHORIZATION, VALUE, PossibleVersions::Http1Only)
            .unwrap();
        let head = |value: &[u8]| [b"GET / HTTP/1.1\r\nauthorization: ", value, b"\r\n\r\n"].concat();
        let mut stream =
            SubstitutingStream::new(TokioIo::new(near), placeholders.clone(), HttpVersion::Http1);
        let bytes = head(stand_in.as_bytes());
        let taken = std::future::poll_fn(|context| Pin::new(&mut stream).poll_write(context, &bytes)).await;
        assert_eq!(taken.unwrap(), bytes.len());
        assert_eq!(stream.pending.capacity(), bytes.len() + VALUE.len(), "it grew");
        (stream, far, cover, head(VALUE).len())
    }

    #[tokio::test]
    async fn a_value_is_wiped_when_it_was_written_and_the_buffer_is_kept() {
        let (mut stream, mut far, cover, length) = begun(&PlaceholderTable::default()).await;
        let mut place = Place::of(&stream.pending);
        assert!(place.holds_value(), "the test sees nothing");
        let flushed = std::future::poll_fn(|context| Pin::new(&mut stream).poll_flush(context));
        let mut arrived = vec![0; length];
        let (flushed, read) = tokio::join!(flushed, far.read_exact(&mut arrived));
        flushed.unwrap();
        read.unwrap();
        assert!(memmem::find(&arrived, VALUE).is_some());
        assert!(!place.holds_value());
        let mut place = Place::of(&cover.hidden.text.value);
        assert!(place.holds_value());
        drop(cover);
        assert!(!place.holds_value());
    }

    #[tokio::test]
    async fn a_value_is_wiped_when_its_connection_ends_before_it_was_written() {
        let (stream, _far, _cover, _) = begun(&PlaceholderTable::default()).await;
        let mut place = Place::of(&stream.pending);
        assert!(place.holds_value(), "the test sees nothing");
        drop(stream);
        assert!(!place.holds_value());
    }
}
