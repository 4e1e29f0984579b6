//! Masks values in the body of an answer and in its trailers.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, header, response::Parts};
use http_body::{Body as _, Frame, SizeHint};
use proto::{Reason, Refusal};
use tokio::time::{Sleep, sleep};

use super::{BEGUN_DELAY, EchoFilter, Framing, MaskedStream, TAIL_DELAY, content_coding};
use crate::{
    proxy::{buffer_budget::BufferBudget, grpc::encoding::Encoding, received_body::ReceivedBody},
    upstream::{Body, BodyError, FramePoll},
};

/// The body of an answer whose values are masked, as far as the server's settings say.
pub(in crate::proxy) struct MaskedBody {
    source: Source,
    /// Masks the trailers.
    filter: Option<EchoFilter>,
}

enum Source {
    Unchanged(ReceivedBody),
    Masked(Box<MaskedData>),
}

/// Returns a body without the values of `filter`, and changes `head` if the body is decoded.
pub(in crate::proxy) fn mask_body(
    body: ReceivedBody,
    filter: Option<EchoFilter>,
    head: &mut Parts,
    budget: &BufferBudget,
) -> Result<MaskedBody, Refusal> {
    let source = match &filter {
        Some(filter) if filter.masks_bodies() && !body.is_end_stream() => {
            let body = content_coding::decode(body, &mut head.headers, budget)?;
            let (framing, keeps_length) = framing(&mut head.headers, budget)?;
            Source::Masked(Box::new(MaskedData {
                body,
                keeps_length,
                stream: MaskedStream::new(filter.clone(), framing),
                timer: None,
                last: None,
                has_ended: false,
            }))
        }
        _ => Source::Unchanged(body),
    };
    Ok(MaskedBody { source, filter })
}

/// Returns the framing of a body, and true if masking keeps the length of the body.
fn framing(headers: &mut HeaderMap, budget: &BufferBudget) -> Result<(Framing, bool), Refusal> {
    if !is_grpc(headers) {
        check_messages_are_plain(headers)?;
        return Ok((Framing::None, true));
    }
    let encoding = Encoding::named_by(headers);
    let keeps_length = encoding == Encoding::Identity;
    if !keeps_length {
        headers.remove(header::CONTENT_LENGTH);
    }
    Ok((Framing::grpc(encoding, budget.empty_reservation()), keeps_length))
}

/// Refuses the compressed messages of gRPC-Web and of Connect, which are not decoded.
fn check_messages_are_plain(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut encodings = ["grpc-encoding", "connect-content-encoding"]
        .into_iter()
        .flat_map(|name| headers.get_all(name));
    match encodings.all(|encoding| encoding == "identity") {
        true => Ok(()),
        false => Err(Refusal::new(
            Reason::UpstreamEncodingUnsupported,
            "the upstream compressed the messages of an answer, although it was asked not to, so that values in them cannot \
             be masked",
        )),
    }
}

/// gRPC-Web has other messages, and its `Content-Type` begins alike.
fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .map_or(&b""[..], |value| value.as_bytes());
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest, [] | [b'+' | b';' | b' ', ..]))
}

impl http_body::Body for MaskedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> FramePoll {
        let this = &mut *self;
        let mut frame = ready!(match &mut this.source {
            Source::Unchanged(body) => Pin::new(body).poll_frame(context),
            Source::Masked(body) => Pin::new(body).poll_frame(context),
        });
        if let (Some(filter), Some(Ok(frame))) = (&this.filter, &mut frame)
            && let Some(trailers) = frame.trailers_mut()
        {
            filter.mask_trailers(trailers)?;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Unchanged(body) => body.is_end_stream(),
            Source::Masked(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Unchanged(body) => body.size_hint(),
            Source::Masked(body) => body.size_hint(),
        }
    }
}

/// A body whose data are masked.
struct MaskedData {
    body: Body,
    keeps_length: bool,
    stream: MaskedStream,
    /// Runs while bytes are held, with the bytes that it will release.
    timer: Option<(Pin<Box<Sleep>>, Release)>,
    /// The trailers, which have to follow the held bytes.
    last: Option<Frame<Bytes>>,
    has_ended: bool,
}

#[derive(Clone, Copy)]
enum Release {
    Tail,
    All,
}

impl MaskedData {
    /// Returns the bytes of `data` that can be given out. After the last data of the body, these are all bytes.
    fn push(&mut self, data: Bytes) -> Result<Bytes, Refusal> {
        let output = self.stream.push(data)?;
        let output = if self.body.is_end_stream() && self.stream.holds_bytes() {
            [output, self.stream.release_all()].concat().into()
        } else {
            output
        };
        self.set_timer(Release::Tail);
        Ok(output)
    }

    /// Notes the end of the body. Inside a message, the end is an error: the part of the message that was not given out
    /// would be missing without a trace.
    fn end(&mut self) -> Result<(), Refusal> {
        self.has_ended = true;
        match self.stream.is_between_messages() {
            true => Ok(()),
            false => Err(Refusal::new(
                Reason::UpstreamProtocol,
                "the upstream's answer ends inside a message",
            )),
        }
    }

    fn set_timer(&mut self, release: Release) {
        let delay = match release {
            Release::Tail => TAIL_DELAY,
            Release::All => BEGUN_DELAY,
        };
        let is_holding = self.stream.holds_bytes();
        self.timer = is_holding.then(|| (Box::pin(sleep(delay)), release));
    }

    /// Returns the held bytes after their delay.
    fn poll_release(&mut self, context: &mut Context<'_>) -> Poll<Bytes> {
        loop {
            let Some((timer, release)) = &mut self.timer else {
                return Poll::Pending;
            };
            let release = *release;
            ready!(timer.as_mut().poll(context));
            let released = match release {
                Release::Tail => self.stream.release_tail(),
                Release::All => self.stream.release_all(),
            };
            self.set_timer(Release::All);
            if !released.is_empty() {
                return Poll::Ready(released);
            }
        }
    }
}

impl http_body::Body for MaskedData {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> FramePoll {
        let this = &mut *self;
        loop {
            if let Some(last) = this.last.take() {
                return Poll::Ready(Some(Ok(last)));
            }
            if this.has_ended {
                return Poll::Ready(None);
            }
            let data = match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Pending => ready!(this.poll_release(context)),
                Poll::Ready(Some(Err(error))) => {
                    this.has_ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => match this.push(data) {
                        Ok(output) => output,
                        Err(refusal) => {
                            this.has_ended = true;
                            return Poll::Ready(Some(Err(refusal.into())));
                        }
                    },
                    Err(last) => {
                        this.end()?;
                        this.last = Some(last);
                        this.stream.release_all()
                    }
                },
                Poll::Ready(None) => {
                    this.end()?;
                    this.stream.release_all()
                }
            };
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let nothing_is_left =
            || self.body.is_end_stream() && !self.stream.holds_bytes() && self.stream.is_between_messages();
        self.last.is_none() && (self.has_ended || nothing_is_left())
    }

    /// The hint is read before the first frame.
    fn size_hint(&self) -> SizeHint {
        if self.keeps_length {
            self.body.size_hint()
        } else {
            SizeHint::default()
        }
    }
}
