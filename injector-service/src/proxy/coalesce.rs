//! Bodies that are passed on as they come, in pieces that receivers like, and without trailers that they must not get.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::upstream::BodyError;

/// Pieces smaller than this that are there at the same time go on as one: each would be a frame of its own in HTTP/2,
/// or a chunk, and receivers take a multitude of tiny frames for an attack.
const SMALL: usize = 1024;
/// Up to about this many bytes.
const TOGETHER: usize = 16 * 1024;

/// A body whose trailers are cleaned, and whose small pieces are put together.
pub(super) struct CoalescingBody<B, F> {
    body: B,
    clean: F,
    /// What came behind small pieces.
    next: Option<Result<Frame<Bytes>, BodyError>>,
}

impl<B, F> CoalescingBody<B, F> {
    pub(super) fn new(body: B, clean: F) -> Self {
        Self {
            body,
            clean,
            next: None,
        }
    }
}

impl<B, F> CoalescingBody<B, F>
where
    B: http_body::Body<Data = Bytes, Error: Into<BodyError>> + Unpin,
    F: Fn(&mut HeaderMap),
{
    fn poll_one(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            let mut frame = frame.map_err(Into::into)?;
            if let Some(trailers) = frame.trailers_mut() {
                (self.clean)(trailers);
            }
            Ok(frame)
        }))
    }

    /// What is there already is put behind a first, small piece.
    fn together(&mut self, first: Bytes, context: &mut Context<'_>) -> Bytes {
        let mut together = BytesMut::new();
        while together.len() < TOGETHER && !self.body.is_end_stream() {
            let Poll::Ready(Some(frame)) = self.poll_one(context) else {
                break;
            };
            match frame.as_ref().ok().and_then(Frame::data_ref) {
                Some(more) if more.len() < SMALL => {
                    if together.is_empty() {
                        together.reserve(TOGETHER + SMALL);
                        together.extend_from_slice(&first);
                    }
                    together.extend_from_slice(more);
                }
                _ => {
                    self.next = Some(frame);
                    break;
                }
            }
        }
        if together.is_empty() {
            first
        } else {
            together.freeze()
        }
    }
}

impl<B, F> http_body::Body for CoalescingBody<B, F>
where
    B: http_body::Body<Data = Bytes, Error: Into<BodyError>> + Unpin,
    F: Fn(&mut HeaderMap) + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(next) = this.next.take() {
            return Poll::Ready(Some(next));
        }
        let frame = ready!(this.poll_one(context));
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(match frame.into_data() {
                Ok(first) if first.len() < SMALL => Frame::data(this.together(first, context)),
                Ok(data) => Frame::data(data),
                Err(frame) => frame,
            })),
            other => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use http::HeaderValue;
    use http_body_util::BodyExt as _;

    use super::*;

    /// Frames that are all there, some of them only when asked for a second time.
    fn trailed(
        frames: Vec<Result<Frame<Bytes>, &'static str>>,
        pending_at: usize,
    ) -> CoalescingBody<
        impl http_body::Body<Data = Bytes, Error = BodyError> + Unpin,
        impl Fn(&mut HeaderMap) + Unpin,
    > {
        let mut at = 0;
        let mut frames = frames.into_iter();
        let stream = futures_util::stream::poll_fn(move |context| {
            at += 1;
            if at == pending_at + 1 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(frames.next().map(|frame| frame.map_err(BodyError::from)))
        });
        CoalescingBody::new(
            http_body_util::StreamBody::new(stream),
            |trailers: &mut HeaderMap| {
                trailers.remove("bad");
            },
        )
    }

    fn data(bytes: &[u8]) -> Result<Frame<Bytes>, &'static str> {
        Ok(Frame::data(Bytes::copy_from_slice(bytes)))
    }

    async fn lengths<B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin>(
        mut body: B,
    ) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(frame) = body.frame().await {
            said.push(match frame {
                Err(error) => error.to_string(),
                Ok(frame) => match frame.into_data() {
                    Ok(data) => data.len().to_string(),
                    Err(frame) => format!("{:?}", frame.into_trailers().unwrap()),
                },
            });
        }
        said
    }

    #[tokio::test]
    async fn small_pieces_that_are_there_go_on_together_and_nothing_is_lost() {
        let (small, large) = ([1; 7], [2; SMALL]);
        let mut trailers = HeaderMap::new();
        trailers.insert("good", HeaderValue::from_static("1"));
        trailers.insert("bad", HeaderValue::from_static("1"));
        let end = || Ok(Frame::trailers(trailers.clone()));
        for (frames, pending_at, expected) in [
            (
                vec![data(&small), data(&small), end()],
                9,
                vec!["14", r#"{"good": "1"}"#],
            ),
            (vec![data(&small), data(&small), data(&small)], 2, vec!["14", "7"]),
            (
                vec![data(&small), data(&large), data(&small)],
                9,
                vec!["7", "1024", "7"],
            ),
            (vec![data(&small), end()], 1, vec!["7", r#"{"good": "1"}"#]),
            (vec![data(&large), data(&large)], 9, vec!["1024", "1024"]),
            (vec![], 9, vec![]),
        ] {
            assert_eq!(lengths(trailed(frames, pending_at)).await, expected);
        }
        let many = (0..5000).map(|_| data(&small)).collect();
        let together = lengths(trailed(many, 9999)).await;
        assert_eq!(together.len(), 3, "{together:?}");
        let sum: usize = together
            .iter()
            .map(|length| length.parse::<usize>().unwrap())
            .sum();
        assert_eq!(sum, 35_000);
        let broken = lengths(trailed(vec![data(&small), Err("broken")], 9)).await;
        assert_eq!(broken, ["7", "broken"]);
    }
}
