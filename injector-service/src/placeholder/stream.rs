//! The stream between hyper and the socket, which writes values instead of their placeholders.

use std::{
    io::{self, IoSlice},
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    ConnectionUse, Occurrence, PlaceholderTable,
    hpack::NEVER_INDEXED,
    http1::{self, MessageScanner},
    http2::{self, FrameScanner},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    Http1,
    Http2,
}

pin_project_lite::pin_project! {
    /// A connection that writes values instead of their placeholders.
    ///
    /// The stream copies the heads of requests, and the bytes before them in the same write, into `copied`. When the
    /// last head is complete, the stream moves the bytes, with values, to `pending`, writes them and wipes them. All
    /// other bytes pass without a copy.
    pub(crate) struct SubstitutingStream<S> {
        #[pin]
        stream: S,
        table: PlaceholderTable,
        scanner: HeadScanner,
        connection_use: ConnectionUse,
        copied: Vec<u8>,
        heads: Vec<HeadRanges>,
        // Bytes with values, of which the first `written` are written.
        pending: Zeroizing<Vec<u8>>,
        written: usize,
    }
}

#[derive(Debug, Clone)]
enum HeadScanner {
    Http1(MessageScanner),
    Http2(FrameScanner),
}

/// The ranges of one head in a buffer: one range in HTTP/1.1, and one for each frame in HTTP/2.
type HeadRanges = Vec<Range<usize>>;

impl HeadScanner {
    /// Consumes some of `bytes`. Returns the number of consumed bytes, and true when they belong to a head.
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

    /// Returns the number of bytes up to the end of the last head in `slices`. When that head continues behind
    /// `slices`, all bytes count.
    fn end_of_heads(&self, slices: &[IoSlice<'_>]) -> usize {
        let mut ahead = self.clone();
        let (mut at, mut end) = (0, 0);
        for slice in slices {
            let mut rest = &slice[..];
            while !rest.is_empty() {
                // A head may begin or end with the header of a frame, which `step` does not count as a part of the
                // head.
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

    /// Consumes the first `count` bytes, which contain no head.
    fn skip(&mut self, slices: &[IoSlice<'_>], count: usize) {
        for slice in first(slices, count) {
            let mut rest = slice;
            while !rest.is_empty() {
                let (count, _) = self.step(rest);
                rest = rest.get(count..).unwrap_or_default();
            }
        }
    }
}

fn first<'s>(slices: &'s [IoSlice<'_>], mut count: usize) -> impl Iterator<Item = &'s [u8]> {
    slices.iter().map(move |slice| {
        let length = count.min(slice.len());
        count -= length;
        slice.get(..length).unwrap_or_default()
    })
}

fn rest<'s>(slices: &'s [IoSlice<'_>], mut count: usize) -> impl Iterator<Item = IoSlice<'s>> {
    let rest = slices.iter().map(move |slice| {
        let length = count.min(slice.len());
        count -= length;
        IoSlice::new(slice.get(length..).unwrap_or_default())
    });
    rest.filter(|slice| !slice.is_empty())
}

impl<S> SubstitutingStream<S> {
    pub(crate) fn new(stream: S, table: PlaceholderTable, version: HttpVersion) -> Self {
        Self {
            stream,
            table,
            scanner: match version {
                HttpVersion::Http1 => HeadScanner::Http1(MessageScanner::new()),
                HttpVersion::Http2 => HeadScanner::Http2(FrameScanner::new()),
            },
            connection_use: ConnectionUse::default(),
            copied: Vec::new(),
            heads: Vec::new(),
            pending: Zeroizing::default(),
            written: 0,
        }
    }

    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Returns the inner stream, for use after the last head.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    pub(crate) fn connection_use(&self) -> &ConnectionUse {
        &self.connection_use
    }

    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.scanner, HeadScanner::Http2(_))
    }

    /// Copies the first `count` bytes, and replaces the placeholders in them when the last head is complete.
    fn copy_heads(self: Pin<&mut Self>, slices: &[IoSlice<'_>], count: usize) {
        let this = self.project();
        for slice in first(slices, count) {
            let mut rest = slice;
            while !rest.is_empty() {
                let within = this.scanner.is_within_head();
                let (count, in_head) = this.scanner.step(rest);
                let begins = !within && (in_head || this.scanner.is_within_head());
                if begins {
                    this.connection_use.count_request();
                    this.heads.push(HeadRanges::new());
                }
                if let (true, Some(head)) = (in_head, this.heads.last_mut()) {
                    extend(head, this.copied.len()..this.copied.len() + count);
                }
                let (step, behind) = rest.split_at_checked(count).unwrap_or((rest, &[]));
                this.copied.extend_from_slice(step);
                rest = behind;
            }
        }
        if !this.scanner.is_within_head() {
            let substitute = match this.scanner {
                HeadScanner::Http1(_) => substitute_plain,
                HeadScanner::Http2(_) => substitute_huffman,
            };
            substitute(this.table, this.copied, this.heads, this.pending);
            this.copied.clear();
            this.heads.clear();
        }
    }
}

/// Appends `range` to a head. Adjacent ranges become one.
fn extend(head: &mut HeadRanges, range: Range<usize>) {
    match head.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        Some(_) | None => head.push(range),
    }
}

fn substitute_plain(
    table: &PlaceholderTable,
    copied: &[u8],
    heads: &[HeadRanges],
    pending: &mut Zeroizing<Vec<u8>>,
) {
    let mut occurrences = Vec::new();
    for part in heads.iter().flatten() {
        let head = copied.get(part.clone()).unwrap_or_default();
        let in_head = http1::take_occurrences(table, head).into_iter();
        occurrences.extend(in_head.map(|Occurrence { range, substitution }| Occurrence {
            range: part.start + range.start..part.start + range.end,
            substitution,
        }));
    }
    let values = occurrences.iter().map(|each| each.substitution.plain.value.len());
    reserve(pending, copied.len() + values.sum::<usize>());
    let mut done = 0;
    for Occurrence { range, substitution } in &occurrences {
        pending.extend_from_slice(copied.get(done..range.start).unwrap_or_default());
        pending.extend_from_slice(&substitution.plain.value);
        done = range.end;
    }
    pending.extend_from_slice(copied.get(done..).unwrap_or_default());
}

/// Writes `copied` into `pending`, with the codes of values over the codes of their placeholders, and marks the fields
/// with values as never indexed. The boundary of two frames may split a code.
fn substitute_huffman(
    table: &PlaceholderTable,
    copied: &[u8],
    heads: &[HeadRanges],
    pending: &mut Zeroizing<Vec<u8>>,
) {
    reserve(pending, copied.len());
    pending.extend_from_slice(copied);
    for ranges in heads {
        let fragments = ranges
            .iter()
            .map(|range| copied.get(range.clone()).unwrap_or_default());
        let block = fragments.collect::<Vec<_>>().concat();
        for (field_start, Occurrence { range, substitution }) in http2::take_occurrences(table, &block) {
            let positions = || ranges.iter().cloned().flatten();
            let first = positions().nth(field_start);
            if let Some(first) = first.and_then(|position| pending.get_mut(position)) {
                *first |= NEVER_INDEXED;
            }
            let code = substitution.huffman.iter().flat_map(|pair| pair.value.iter());
            for (position, byte) in positions().skip(range.start).zip(code) {
                if let Some(target) = pending.get_mut(position) {
                    *target = *byte;
                }
            }
        }
    }
}

/// Gives `pending` its final capacity at once, because a buffer that grows leaves copies of values behind.
fn reserve(pending: &mut Zeroizing<Vec<u8>>, length: usize) {
    if pending.capacity() < length {
        *pending = Zeroizing::new(Vec::with_capacity(length));
    }
}

impl<S: Write> SubstitutingStream<S> {
    /// Writes the pending bytes, and wipes them when all are written.
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

    /// Writes the pending bytes, together with the bytes of `slices` after the first `copied`. Returns the number of
    /// bytes of `slices` that are copied or written. Pending bytes that the socket does not accept now are written
    /// before the next write or flush.
    fn poll_write_after_heads(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        copied: usize,
    ) -> Poll<io::Result<usize>> {
        let mut this = self.as_mut().project();
        let behind: Vec<_> = rest(slices, copied).collect();
        if !behind.is_empty() && this.stream.is_write_vectored() {
            let all: Vec<_> = [IoSlice::new(this.pending)].into_iter().chain(behind).collect();
            let Poll::Ready(count) = this.stream.as_mut().poll_write_vectored(context, &all)? else {
                return Poll::Ready(Ok(copied));
            };
            *this.written = count.min(this.pending.len());
            let passed = count - *this.written;
            this.scanner.skip(all.get(1..).unwrap_or_default(), passed);
            if *this.written < this.pending.len() {
                return Poll::Ready(Ok(copied));
            }
            // All pending bytes are written, so `poll_pending` only wipes the buffer.
            return self.poll_pending(context).map_ok(|()| copied + passed);
        }
        match self.poll_pending(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(copied)),
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
        let copied = self.scanner.end_of_heads(slices);
        if copied == 0 {
            let this = self.project();
            let count = ready!(this.stream.poll_write_vectored(context, slices))?;
            this.scanner.skip(slices, count);
            return Poll::Ready(Ok(count));
        }
        self.as_mut().copy_heads(slices, copied);
        self.poll_write_after_heads(context, slices, copied)
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
        // Without a byte in `buffer`, the answer means the end of the connection.
        match !self.is_http2() && self.connection_use.is_closing(context) {
            true => Poll::Ready(Ok(())),
            false => self.project().stream.poll_read(context, buffer),
        }
    }
}

#[cfg(test)]
mod tests;
