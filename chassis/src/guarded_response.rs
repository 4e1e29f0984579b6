//! A response that keeps a guard alive until the response ends.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::body::Body;

pin_project! {
    /// Wraps the future of a response, and then the body of that response. Drops `guard` at the end of the body, or
    /// together with the future when that is dropped before the response comes.
    pub(crate) struct GuardedResponse<T, G> {
        #[pin]
        inner: T,
        guard: Option<G>,
    }
}

impl<T, G> GuardedResponse<T, G> {
    pub(crate) fn new(inner: T, guard: G) -> Self {
        Self {
            inner,
            guard: Some(guard),
        }
    }
}

impl<F, E, G> Future for GuardedResponse<F, G>
where
    F: Future<Output = Result<http::Response<Body>, E>>,
{
    type Output = Result<http::Response<GuardedResponse<Body, G>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(context))?;
        let guard = this.guard.take();
        Poll::Ready(Ok(response.map(|inner| GuardedResponse { inner, guard })))
    }
}

impl<G> hyper::body::Body for GuardedResponse<Body, G> {
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
