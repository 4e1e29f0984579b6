//! Rewrites the URL in the `endpoint` event of a server-sent event stream.
//!
//! A client of MCP's older transport (HTTP with SSE, revision 2024-11-05) posts its messages to this URL, so the URL
//! has to lead to the injector, like URLs in headers. Nothing else in a stream changes.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use http_body::{Body, Frame};

use crate::upstream::{BodyError, FramePoll};

/// Longest line that can name an endpoint. A longer line passes unchanged.
const MAX_LINE: usize = 16 * 1024;
/// The most lines of one stream whose URL is rewritten. MCP's transport sends one. A line beyond them becomes a comment,
/// because its URL would not lead to the injector, and a URL may be relative to a request URL of 60 KiB.
const MAX_ENDPOINTS: usize = 100;
const COMMENT: &[u8] = b":";
const EVENT: &[u8] = b"event:";
const DATA: &[u8] = b"data:";

/// Returns true for the response to a GET that is an uncompressed event stream.
pub(super) fn may_have_endpoint(method: &Method, headers: &HeaderMap) -> bool {
    let is_event_stream = |value: &[u8]| {
        let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
        essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    };
    method == Method::GET
        && !headers.contains_key(header::CONTENT_ENCODING)
        && headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| is_event_stream(value.as_bytes()))
}

pub(super) struct SseEndpointBody<B, R> {
    body: B,
    rewriter: EndpointRewriter<R>,
    /// Trailers, which have to follow the unterminated line at the end of the body.
    trailers: Option<Frame<Bytes>>,
}

impl<B, R: Fn(&str) -> Option<String>> SseEndpointBody<B, R> {
    /// `rewrite` returns a URL as the program has to see it, or `None` for a text that is not a URL.
    pub(super) fn new(body: B, rewrite: R) -> Self {
        Self {
            body,
            rewriter: EndpointRewriter::new(rewrite),
            trailers: None,
        }
    }
}

impl<B, R> Body for SseEndpointBody<B, R>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
    R: Fn(&str) -> Option<String> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> FramePoll {
        let this = &mut *self;
        loop {
            if let Some(trailers) = this.trailers.take() {
                return Poll::Ready(Some(Ok(trailers)));
            }
            let data = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rewriter.push(&data),
                    Err(trailers) => {
                        this.trailers = Some(trailers);
                        this.rewriter.take_rest()
                    }
                },
                None => match this.rewriter.take_rest() {
                    rest if rest.is_empty() => return Poll::Ready(None),
                    rest => rest,
                },
            };
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data.into()))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.trailers.is_none() && self.rewriter.line.is_empty() && self.body.is_end_stream()
    }
}

/// A parser of event streams (HTML, section 9.2.6) that keeps back only a line that may name an endpoint.
struct EndpointRewriter<R> {
    rewrite: R,
    /// The current line, if it may be an `event` field, or the `data` field of an endpoint.
    line: Vec<u8>,
    is_passing: bool,
    is_endpoint: bool,
    endpoints_left: usize,
    /// True after a `\r`. A `\n` that follows belongs to the same line break.
    is_after_return: bool,
}

impl<R: Fn(&str) -> Option<String>> EndpointRewriter<R> {
    fn new(rewrite: R) -> Self {
        Self {
            rewrite,
            line: Vec::new(),
            is_passing: false,
            is_endpoint: false,
            endpoints_left: MAX_ENDPOINTS,
            is_after_return: false,
        }
    }

    /// Returns the part of the stream that can be passed on after `piece` has arrived.
    fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(piece.len());
        for part in piece.split_inclusive(|byte| matches!(byte, b'\r' | b'\n')) {
            let (text, end) = match part.split_last() {
                Some((end @ (b'\r' | b'\n'), text)) => (text, Some(*end)),
                _ => (part, None),
            };
            self.push_text(text, &mut out);
            if let Some(end) = end {
                let is_same_end = end == b'\n' && self.is_after_return && text.is_empty();
                if !is_same_end {
                    self.end_line(&mut out);
                }
                out.push(end);
            }
            self.is_after_return = end == Some(b'\r');
        }
        out
    }

    fn take_rest(&mut self) -> Vec<u8> {
        mem::take(&mut self.line)
    }

    fn push_text(&mut self, text: &[u8], out: &mut Vec<u8>) {
        if !self.is_passing {
            self.line.extend_from_slice(text);
            if self.may_name_endpoint() {
                return;
            }
            self.is_passing = true;
            out.append(&mut self.line);
        } else {
            out.extend_from_slice(text);
        }
    }

    fn may_name_endpoint(&self) -> bool {
        let may_begin_with = |field: &[u8]| self.line.iter().zip(field).all(|(one, other)| one == other);
        self.line.len() <= MAX_LINE && (may_begin_with(EVENT) || self.is_endpoint && may_begin_with(DATA))
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        if mem::take(&mut self.is_passing) {
            return;
        }
        let line = mem::take(&mut self.line);
        if let Some(event) = line.strip_prefix(EVENT) {
            self.is_endpoint = event.strip_prefix(b" ").unwrap_or(event) == b"endpoint";
        }
        match self.endpoint_line(&line) {
            Some(rewritten) => out.extend_from_slice(&rewritten),
            None => out.extend_from_slice(&line),
        }
        if line.is_empty() {
            self.is_endpoint = false;
        }
    }

    /// Returns the line in place of `line`, or None for a line that does not change.
    fn endpoint_line(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        let url = line.strip_prefix(DATA).filter(|_| self.is_endpoint)?;
        let Some(left) = self.endpoints_left.checked_sub(1) else {
            return Some(COMMENT.to_vec());
        };
        self.endpoints_left = left;
        let url = (self.rewrite)(str::from_utf8(url).ok()?.trim())?;
        Some(format!("data: {url}").into_bytes())
    }
}

#[cfg(test)]
mod tests;
