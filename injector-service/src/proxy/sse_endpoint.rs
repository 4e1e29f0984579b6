//! The URL in the `endpoint` event of an event stream. A client of MCP's older transport (HTTP with SSE, revision
//! 2024-11-05) posts its messages there, so the URL is moved like one in a header. Nothing else in a stream changes.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use http_body::{Body, Frame};

use crate::upstream::BodyError;

/// The most bytes of a line that can name an endpoint. A longer line passes unchanged.
const MAX_LINE: usize = 16 * 1024;
const EVENT: &[u8] = b"event:";
const DATA: &[u8] = b"data:";

/// Returns true for the answer to a GET that is an event stream and is not compressed.
pub(super) fn may_have_endpoint(method: &Method, headers: &HeaderMap) -> bool {
    let is_events = |value: &[u8]| {
        let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
        essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    };
    method == Method::GET
        && !headers.contains_key(header::CONTENT_ENCODING)
        && headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| is_events(value.as_bytes()))
}

/// An event stream whose endpoints are moved.
pub(super) struct SseEndpointBody<B, M> {
    body: B,
    endpoints: Endpoints<M>,
    /// Trailers, which come after the line that the body ended in.
    last: Option<Frame<Bytes>>,
}

impl<B, M: Fn(&str) -> Option<String>> SseEndpointBody<B, M> {
    /// `moved` returns a URL as the program has to see it, or None for a text that is not a URL.
    pub(super) fn new(body: B, moved: M) -> Self {
        Self {
            body,
            endpoints: Endpoints::new(moved),
            last: None,
        }
    }
}

impl<B, M> Body for SseEndpointBody<B, M>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
    M: Fn(&str) -> Option<String> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            if let Some(last) = this.last.take() {
                return Poll::Ready(Some(Ok(last)));
            }
            let data = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.endpoints.push(&data),
                    Err(trailers) => {
                        this.last = Some(trailers);
                        this.endpoints.rest()
                    }
                },
                None => match this.endpoints.rest() {
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
        self.last.is_none() && self.endpoints.line.is_empty() && self.body.is_end_stream()
    }
}

/// A parser of event streams (HTML, section 9.2.6) that holds back no more than the line in which an endpoint may stand.
struct Endpoints<M> {
    moved: M,
    /// The begun line, as long as it may say that its event is an endpoint, or which.
    line: Vec<u8>,
    /// True when the begun line is none of those, and passes.
    is_passing: bool,
    /// True when the event is an endpoint, according to its lines so far.
    is_endpoint: bool,
    /// True after a `\r`, which ends the same line as a `\n` that follows.
    is_after_return: bool,
}

impl<M: Fn(&str) -> Option<String>> Endpoints<M> {
    fn new(moved: M) -> Self {
        Self {
            moved,
            line: Vec::new(),
            is_passing: false,
            is_endpoint: false,
            is_after_return: false,
        }
    }

    /// Returns the part of the stream that goes on when `piece` has come.
    fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(piece.len());
        for part in piece.split_inclusive(|byte| matches!(byte, b'\r' | b'\n')) {
            let (text, end) = match part.split_last() {
                Some((end @ (b'\r' | b'\n'), text)) => (text, Some(*end)),
                _ => (part, None),
            };
            self.text(text, &mut out);
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

    /// Returns the line that nothing ended.
    fn rest(&mut self) -> Vec<u8> {
        mem::take(&mut self.line)
    }

    fn text(&mut self, text: &[u8], out: &mut Vec<u8>) {
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
        let begins = |field: &[u8]| self.line.iter().zip(field).all(|(one, other)| one == other);
        self.line.len() <= MAX_LINE && (begins(EVENT) || self.is_endpoint && begins(DATA))
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        if mem::take(&mut self.is_passing) {
            return;
        }
        let line = mem::take(&mut self.line);
        if let Some(event) = line.strip_prefix(EVENT) {
            self.is_endpoint = event.strip_prefix(b" ").unwrap_or(event) == b"endpoint";
        }
        let moved = line
            .strip_prefix(DATA)
            .filter(|_| self.is_endpoint)
            .and_then(|url| (self.moved)(str::from_utf8(url).ok()?.trim()));
        match moved {
            Some(moved) => out.extend_from_slice(format!("data: {moved}").as_bytes()),
            None => out.extend_from_slice(&line),
        }
        if line.is_empty() {
            self.is_endpoint = false;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use futures_util::stream;
    use http::HeaderValue;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn moved(url: &str) -> Option<String> {
        url.strip_prefix('/').map(|rest| format!("/w/s/{rest}"))
    }

    #[test]
    fn endpoints_are_moved_wherever_the_stream_is_cut() {
        let long = format!("event: endpoint\ndata: /{}\n\n", "x".repeat(MAX_LINE));
        for (stream, expected) in [
            (
                "event: endpoint\ndata: /m?s=1\n\n",
                "event: endpoint\ndata: /w/s/m?s=1\n\n",
            ),
            (
                "event:endpoint\r\ndata:/m\r\n\r\n",
                "event:endpoint\r\ndata: /w/s/m\r\n\r\n",
            ),
            (
                "event: endpoint\rdata: /m\r\r",
                "event: endpoint\rdata: /w/s/m\r\r",
            ),
            (
                "id: 1\nevent: endpoint\n:\ndata: /m\n\n",
                "id: 1\nevent: endpoint\n:\ndata: /w/s/m\n\n",
            ),
            (
                "event: endpoint\ndata: /m\n\ndata: /m\n\nevent: message\ndata: /m\n\n",
                "event: endpoint\ndata: /w/s/m\n\ndata: /m\n\nevent: message\ndata: /m\n\n",
            ),
            ("event: endpoints\ndata: /m\n\n", "event: endpoints\ndata: /m\n\n"),
            (
                "event: endpoint\nevent: x\ndata: /m\n\n",
                "event: endpoint\nevent: x\ndata: /m\n\n",
            ),
            ("event: endpoint\ndata: m\n\n", "event: endpoint\ndata: m\n\n"),
            ("event: endpoint\nda", "event: endpoint\nda"),
            (
                "data: {\"a\": \"\u{e9}\"}\n\n: ping\n\neven",
                "data: {\"a\": \"\u{e9}\"}\n\n: ping\n\neven",
            ),
            (&long, &long),
        ] {
            for size in [1, 2, 3, 5, 7, stream.len()] {
                let mut endpoints = Endpoints::new(moved);
                let mut out = Vec::new();
                for piece in stream.as_bytes().chunks(size) {
                    out.extend(endpoints.push(piece));
                }
                out.extend(endpoints.rest());
                assert_eq!(String::from_utf8(out).unwrap(), expected, "{size}");
            }
        }
    }

    #[test]
    fn nothing_waits_that_is_not_an_endpoints() {
        let mut endpoints = Endpoints::new(moved);
        for piece in ["d", "ata: 1", "\n", ": ping", "\nretry", "\n\n", "ex", "event"] {
            assert_eq!(endpoints.push(piece.as_bytes()), piece.as_bytes());
        }
    }

    #[tokio::test]
    async fn the_end_of_the_stream_and_its_trailers_follow_the_last_line() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x", HeaderValue::from_static("1"));
        let end = || Frame::trailers(trailers.clone());
        let data = |text: &'static str| Frame::data(Bytes::from_static(text.as_bytes()));
        for (frames, expected) in [
            (vec![data("eve"), data("nt"), end()], ("event", true)),
            (vec![data("even"), data("")], ("even", false)),
            (vec![data("data: 1\n\n"), end()], ("data: 1\n\n", true)),
            (vec![], ("", false)),
        ] {
            let frames = stream::iter(frames.into_iter().map(Ok::<_, BodyError>));
            let collected = SseEndpointBody::new(StreamBody::new(frames), moved)
                .collect()
                .await
                .unwrap();
            let has_trailers = collected.trailers().is_some();
            assert_eq!(
                (collected.to_bytes().as_ref(), has_trailers),
                (expected.0.as_bytes(), expected.1)
            );
        }
    }

    #[test]
    fn only_event_streams_that_are_readable_are_searched() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            headers
        };
        let events = ("content-type", "Text/Event-Stream; charset=utf-8");
        assert!(may_have_endpoint(&Method::GET, &headers(&[events])));
        assert!(!may_have_endpoint(&Method::POST, &headers(&[events])));
        for pairs in [
            &[][..],
            &[("content-type", "text/plain")],
            &[("content-type", "text/event-streams")],
            &[events, ("content-encoding", "gzip")],
        ] {
            assert!(!may_have_endpoint(&Method::GET, &headers(pairs)));
        }
    }
}
