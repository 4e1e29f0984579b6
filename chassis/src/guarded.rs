//! An answer that keeps a guard alive until the answer ends.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::body::Body;

pin_project! {
    /// The future of an answer, and then the answer's body. Drops `guard` at the body's end, or with the future when no
    /// answer comes.
    pub(super) struct Guarded<T, G> {
        #[pin]
        inner: T,
        guard: Option<G>,
    }
}

impl<T, G> Guarded<T, G> {
    pub(super) fn new(inner: T, guard: G) -> Self {
        Self {
            inner,
            guard: Some(guard),
        }
    }
}

impl<F, E, G> Future for Guarded<F, G>
where
    F: Future<Output = Result<http::Response<Body>, E>>,
{
    type Output = Result<http::Response<Guarded<Body, G>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(context))?;
        let guard = this.guard.take();
        Poll::Ready(Ok(answer.map(|inner| Guarded { inner, guard })))
    }
}

impl<G> hyper::body::Body for Guarded<Body, G> {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        self.project().inner.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
