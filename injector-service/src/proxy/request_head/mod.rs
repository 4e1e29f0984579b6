//! The heads of requests over HTTP/1.1, before hyper reads them.
//!
//! hyper answers what is no request by itself, without a reason, and takes lines that end without CR, and a body whose
//! length is told in two ways, which others may read differently. So [`Heads`] gives hyper only heads that it has checked.
//! In the place of one that is refused, hyper gets [`SUBSTITUTE`], which is answered with the refusal in its turn, and
//! nothing after it.

mod check;
mod chunked;

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use proto::{Reason, Refusal};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::watchdog::Watchdog;
use crate::limits::Limits;
use check::{Body, Head};
use chunked::Chunks;

/// The method of what stands for a request that is refused.
pub(super) const SUBSTITUTE_METHOD: &str = "MALFORMED";
const SUBSTITUTE: &[u8] = b"MALFORMED / HTTP/1.1\r\nconnection: close\r\n\r\n";
/// What every HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a head that are read at once.
const READ: usize = 4 * 1024;

/// A connection whose heads are checked.
pub(super) struct HeadCheckingStream<S> {
    stream: S,
    activity: Arc<Watchdog>,
    max: Max,
    part: Part,
    /// Bytes that were read before it was known what they are.
    held: BytesMut,
    /// How many of them were found good.
    released: usize,
    line: Line,
    /// True when the last request asked to go on in another protocol. What follows it may belong to that.
    upgrading: bool,
}

/// How much a head may have.
struct Max {
    bytes: usize,
    fields: usize,
}

/// What comes next.
enum Part {
    /// The first bytes of the connection.
    Beginning,
    Head,
    /// The rest of a body, in bytes.
    Data(u64),
    Chunks(Chunks),
    /// What is not ours to read: HTTP/2, another protocol, or a body without an end.
    Raw,
    /// Nothing: a request was refused.
    Refused,
}

/// The line of a head that comes next.
#[derive(Default)]
struct Line {
    start: usize,
    /// How many lines came before it.
    number: usize,
    /// Up to where it was looked through for its end.
    seen: usize,
}

impl<S> HeadCheckingStream<S> {
    /// Checks the heads on `stream`, which may be somewhat larger than the settings allow: `proxy/guard.rs` compares them
    /// with the settings.
    pub(super) fn new(stream: S, activity: Arc<Watchdog>, limits: &Limits, beyond: usize) -> Self {
        Self {
            stream,
            activity,
            max: Max {
                bytes: (limits.max_uri_size + limits.max_headers_size) * beyond,
                fields: limits.max_headers * beyond,
            },
            part: Part::Beginning,
            held: BytesMut::new(),
            released: 0,
            line: Line::default(),
            upgrading: false,
        }
    }

    /// Does what can be done with the bytes that were read. Returns false when more have to come.
    fn advance(&mut self) -> bool {
        if matches!(self.part, Part::Beginning | Part::Head) && self.activity.is_switched() {
            self.part = Part::Raw;
        }
        match &mut self.part {
            _ if self.held.is_empty() => return false,
            Part::Beginning if self.held.starts_with(PREFACE) => self.part = Part::Raw,
            Part::Beginning if PREFACE.starts_with(&self.held) => return false,
            Part::Beginning => self.part = Part::Head,
            Part::Head if self.upgrading && !self.activity.is_idle() => return false,
            Part::Head => match self.head() {
                Ok(whole) => return whole,
                Err(refusal) => self.refuse(refusal),
            },
            Part::Data(_) | Part::Chunks(_) => self.released = self.part.follow(&self.held),
            Part::Raw => self.released = self.held.len(),
            Part::Refused => return false,
        }
        true
    }

    /// Looks for the end of a head. Returns true when it was found, and the head is good.
    fn head(&mut self) -> Result<bool, Refusal> {
        if self.line.number == 0 {
            self.skip_empty_lines();
        }
        let is_new = self.line.seen == 0;
        while let Some(end) = self.line_end()? {
            if self.line.number == 0 {
                check::check_beginning(self.held.get(..end).unwrap_or_default())?;
            }
            if end - self.line.start == b"\r\n".len() {
                self.whole(end)?;
                return Ok(true);
            }
            self.line = Line {
                start: end,
                number: self.line.number + 1,
                seen: end,
            };
        }
        self.check_size(self.held.len())?;
        if is_new && self.line.number == 0 {
            check::check_beginning(&self.held)?;
        }
        Ok(false)
    }

    /// Skips line breaks before a request, which some clients send behind the body before it (RFC 9112, section 2.2).
    fn skip_empty_lines(&mut self) {
        while self.held.starts_with(b"\r\n") {
            self.held.advance(b"\r\n".len());
            self.line = Line::default();
        }
    }

    /// Returns the end of the next line, if it has come.
    fn line_end(&mut self) -> Result<Option<usize>, Refusal> {
        let unseen = self.held.get(self.line.seen..).unwrap_or_default();
        let Some(at) = memchr::memchr(b'\n', unseen) else {
            self.line.seen = self.held.len();
            return Ok(None);
        };
        let end = self.line.seen + at + 1;
        let line = self.held.get(self.line.start..end).unwrap_or_default();
        if line.ends_with(b"\r\n") {
            Ok(Some(end))
        } else {
            Err(check::malformed("a line of its head ends without CR"))
        }
    }

    fn check_size(&self, bytes: usize) -> Result<(), Refusal> {
        let fields = self.line.number.saturating_sub(1);
        if bytes <= self.max.bytes && fields <= self.max.fields {
            return Ok(());
        }
        let (reason, what) = match self.line.number {
            0 => (Reason::UriTooLong, "target is much longer; see --max-uri-size"),
            _ => (
                Reason::HeadersTooLarge,
                "head is much larger; see --max-headers and --max-headers-size",
            ),
        };
        let message = format!("the request's {what} than the settings allow; nothing was sent");
        Err(Refusal::new(reason, message))
    }

    /// Releases the head that ends there.
    fn whole(&mut self, end: usize) -> Result<(), Refusal> {
        self.check_size(end)?;
        let head = self.held.get(..end).unwrap_or_default();
        let Head {
            body,
            asks_for_upgrade,
        } = check::check(head, self.line.number.saturating_sub(1))?;
        self.part = match body {
            Body::Length(0) => Part::Head,
            Body::Length(length) => Part::Data(length),
            Body::Chunked => Part::Chunks(Chunks::new()),
        };
        self.upgrading = asks_for_upgrade;
        self.released = end;
        self.line = Line::default();
        Ok(())
    }

    /// Lets the refusal be told, and nothing more be read.
    fn refuse(&mut self, refusal: Refusal) {
        self.activity.refuse(refusal);
        self.held = BytesMut::from(SUBSTITUTE);
        self.released = SUBSTITUTE.len();
        self.part = Part::Refused;
    }
}

impl Part {
    /// Takes bytes up to the end of a body. Returns their number.
    fn follow(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Data(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= count as u64;
                if *left == 0 {
                    *self = Self::Head;
                }
                count
            }
            Self::Chunks(chunks) => {
                let count = chunks.follow(bytes);
                match chunks {
                    Chunks::End => *self = Self::Head,
                    Chunks::Lost => *self = Self::Raw,
                    _ => {}
                }
                count
            }
            Self::Beginning | Self::Head | Self::Raw | Self::Refused => 0,
        }
    }
}

impl<S: AsyncRead + Unpin> HeadCheckingStream<S> {
    /// Reads into the reader's own buffer what cannot be a head, and holds what follows it.
    fn poll_through(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Part::Data(_) | Part::Chunks(_) = self.part {
            let read = buffer.filled().get(before..).unwrap_or_default();
            let count = self.part.follow(read);
            if let Part::Head = self.part {
                self.held.extend_from_slice(read.get(count..).unwrap_or_default());
                buffer.set_filled(before + count);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads more of a head. Returns false when there is no more.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut scratch = [MaybeUninit::uninit(); READ];
        let mut buffer = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
        self.held.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(!buffer.filled().is_empty()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadCheckingStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.released > 0 {
                let count = this.released.min(buffer.remaining());
                buffer.put_slice(this.held.get(..count).unwrap_or_default());
                this.held.advance(count);
                this.released -= count;
                return Poll::Ready(Ok(()));
            }
            if this.advance() {
                continue;
            }
            match this.part {
                // The answer ends the connection.
                Part::Refused => return Poll::Pending,
                // It is read when it is known what it is.
                Part::Head if this.held.len() > this.max.bytes => return Poll::Pending,
                Part::Data(_) | Part::Chunks(_) | Part::Raw => return this.poll_through(context, buffer),
                Part::Beginning | Part::Head => {
                    if !ready!(this.poll_more(context))? {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadCheckingStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
