//! Checks the heads of HTTP/1.1 requests before hyper reads them.
//!
//! hyper answers a malformed head itself, without a reason. hyper also accepts lines that end without CR, and a body
//! with two statements of its length, which other servers may read differently (request smuggling). Therefore
//! [`HeadCheckingStream`] gives hyper only heads that it has checked. Instead of a refused head, hyper reads
//! [`SUBSTITUTE`] and nothing after it. The proxy answers this request with the refusal, after all earlier requests.

mod check;
mod chunked;

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use http::Method;
use proto::{Reason, Refusal};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::watchdog::{ActiveCall, Watchdog};
use crate::limits::Limits;
use check::{BodyLength, CheckedHead};
use chunked::ChunkedBody;

const SUBSTITUTE_METHOD: &str = "MALFORMED";
const SUBSTITUTE: &[u8] = b"MALFORMED / HTTP/1.1\r\nconnection: close\r\n\r\n";
/// The first bytes of an HTTP/2 connection (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Most bytes that one read of a head takes from the connection.
const READ: usize = 4 * 1024;

/// Returns the refusal to answer the call with, when the call's request is the substitute for a refused head.
pub(super) fn refusal(call: &ActiveCall, method: &Method) -> Option<Refusal> {
    let is_substitute = method.as_str() == SUBSTITUTE_METHOD;
    call.refusal().filter(|_| is_substitute).cloned()
}

pub(super) struct HeadCheckingStream<S> {
    stream: S,
    watchdog: Arc<Watchdog>,
    max: HeadLimits,
    section: Section,
    /// Bytes that hyper has not read. The first `released` of them are checked.
    buffer: BytesMut,
    released: usize,
    line: LineCursor,
    /// True when the last request asked for an upgrade. The bytes after it may belong to another protocol.
    may_upgrade: bool,
}

struct HeadLimits {
    bytes: usize,
    fields: usize,
}

/// The part of the connection that the next byte belongs to.
enum Section {
    /// The beginning of the connection: the preface of HTTP/2, or a head.
    Start,
    Head,
    Data(u64),
    Chunked(ChunkedBody),
    /// Bytes that are not checked: HTTP/2, another protocol, or a chunked body that is malformed.
    Unchecked,
    Refused,
}

/// The next line of a head. Offsets are those of the buffer.
#[derive(Default)]
struct LineCursor {
    start: usize,
    number: usize,
    /// Offset up to which the buffer contains no end of this line.
    searched: usize,
}

impl<S> HeadCheckingStream<S> {
    /// Accepts heads of `factor` times the sizes in `limits`. `CheckedRequest` enforces the exact limits later, and can
    /// tell the client which limit a head exceeds.
    pub(super) fn new(stream: S, watchdog: Arc<Watchdog>, limits: &Limits, factor: usize) -> Self {
        Self {
            stream,
            watchdog,
            max: HeadLimits {
                bytes: (limits.max_uri_size + limits.max_headers_size) * factor,
                fields: limits.max_headers * factor,
            },
            section: Section::Start,
            buffer: BytesMut::new(),
            released: 0,
            line: LineCursor::default(),
            may_upgrade: false,
        }
    }

    /// Processes the buffered bytes by one step. Returns false when more bytes have to arrive first.
    fn advance(&mut self) -> bool {
        if matches!(self.section, Section::Start | Section::Head) && self.watchdog.is_upgraded() {
            self.section = Section::Unchecked;
        }
        match &mut self.section {
            _ if self.buffer.is_empty() => return false,
            Section::Start if self.buffer.starts_with(PREFACE) => self.section = Section::Unchecked,
            Section::Start if PREFACE.starts_with(&self.buffer) => return false,
            Section::Start => self.section = Section::Head,
            Section::Head if self.may_upgrade && !self.watchdog.has_no_call() => return false,
            Section::Head => match self.check_head() {
                Ok(is_complete) => return is_complete,
                Err(refusal) => self.refuse(refusal),
            },
            Section::Data(_) | Section::Chunked(_) => self.released = self.section.consume(&self.buffer),
            Section::Unchecked => self.released = self.buffer.len(),
            Section::Refused => return false,
        }
        true
    }

    /// Checks the lines of a head that have arrived. Returns true when the head is complete and released.
    fn check_head(&mut self) -> Result<bool, Refusal> {
        if self.line.number == 0 {
            self.skip_empty_lines();
        }
        let is_new = self.line.searched == 0;
        while let Some(end) = self.line_end()? {
            if self.line.number == 0 {
                check::check_beginning(self.buffer.get(..end).unwrap_or_default())?;
            }
            if end - self.line.start == b"\r\n".len() {
                self.release_head(end)?;
                return Ok(true);
            }
            self.line = LineCursor {
                start: end,
                number: self.line.number + 1,
                searched: end,
            };
        }
        self.check_size(self.buffer.len())?;
        if is_new && self.line.number == 0 {
            check::check_beginning(&self.buffer)?;
        }
        Ok(false)
    }

    /// Skips line breaks before a request. Some clients send them after the body of the request before it (RFC 9112,
    /// section 2.2).
    fn skip_empty_lines(&mut self) {
        while self.buffer.starts_with(b"\r\n") {
            self.buffer.advance(b"\r\n".len());
            self.line = LineCursor::default();
        }
    }

    fn line_end(&mut self) -> Result<Option<usize>, Refusal> {
        let unsearched = self.buffer.get(self.line.searched..).unwrap_or_default();
        let Some(at) = memchr::memchr(b'\n', unsearched) else {
            self.line.searched = self.buffer.len();
            return Ok(None);
        };
        let end = self.line.searched + at + 1;
        let line = self.buffer.get(self.line.start..end).unwrap_or_default();
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

    /// Checks and releases the head that ends at `end`.
    fn release_head(&mut self, end: usize) -> Result<(), Refusal> {
        self.check_size(end)?;
        let head = self.buffer.get(..end).unwrap_or_default();
        let CheckedHead { body, may_upgrade } = check::check(head, self.line.number.saturating_sub(1))?;
        self.section = match body {
            BodyLength::Bytes(0) => Section::Head,
            BodyLength::Bytes(length) => Section::Data(length),
            BodyLength::Chunked => Section::Chunked(ChunkedBody::new()),
        };
        self.may_upgrade = may_upgrade;
        self.released = end;
        self.line = LineCursor::default();
        Ok(())
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.watchdog.refuse(refusal);
        self.buffer = BytesMut::from(SUBSTITUTE);
        self.released = SUBSTITUTE.len();
        self.section = Section::Refused;
    }
}

impl Section {
    /// Consumes bytes up to the end of a body. Returns their number.
    fn consume(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Data(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= count as u64;
                if *left == 0 {
                    *self = Self::Head;
                }
                count
            }
            Self::Chunked(body) => {
                let count = body.consume(bytes);
                match body {
                    ChunkedBody::End => *self = Self::Head,
                    ChunkedBody::Lost => *self = Self::Unchecked,
                    _ => {}
                }
                count
            }
            Self::Start | Self::Head | Self::Unchecked | Self::Refused => 0,
        }
    }
}

impl<S: AsyncRead + Unpin> HeadCheckingStream<S> {
    /// Reads into `buffer` directly, and keeps the bytes after the end of a body for the check of the next head.
    fn poll_read_through(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Section::Data(_) | Section::Chunked(_) = self.section {
            let read = buffer.filled().get(before..).unwrap_or_default();
            let count = self.section.consume(read);
            if let Section::Head = self.section {
                self.buffer
                    .extend_from_slice(read.get(count..).unwrap_or_default());
                buffer.set_filled(before + count);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads more of a head. Returns false at the end of the connection.
    fn poll_read_head(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut scratch = [MaybeUninit::uninit(); READ];
        let mut buffer = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
        self.buffer.extend_from_slice(buffer.filled());
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
                buffer.put_slice(this.buffer.get(..count).unwrap_or_default());
                this.buffer.advance(count);
                this.released -= count;
                return Poll::Ready(Ok(()));
            }
            if this.advance() {
                continue;
            }
            match this.section {
                // The connection ends with the response.
                Section::Refused => return Poll::Pending,
                // Pipelined bytes wait until the call before them has decided whether the connection is upgraded.
                Section::Head if this.buffer.len() > this.max.bytes => return Poll::Pending,
                Section::Data(_) | Section::Chunked(_) | Section::Unchecked => {
                    return this.poll_read_through(context, buffer);
                }
                Section::Start | Section::Head => {
                    if !ready!(this.poll_read_head(context))? {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

chassis::delegate_async_write!(HeadCheckingStream<S: [AsyncWrite + Unpin]>, |this| Pin::new(
    &mut this.get_mut().stream
));
