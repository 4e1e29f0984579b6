//! Streams without a natural end, such as health watches. They end when the service shuts down.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body as _, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;

use proto::{Reason, Refusal};

/// A service whose calls end with `UNAVAILABLE` once `over` is cancelled and their answers are sent.
#[derive(Clone)]
pub(super) struct UntilShutdown<S> {
    inner: S,
    over: CancellationToken,
}

impl<S> UntilShutdown<S> {
    pub(super) fn new(inner: S, over: CancellationToken) -> Self {
        Self { inner, over }
    }
}

impl<S: NamedService> NamedService for UntilShutdown<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for UntilShutdown<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = EndingAnswer<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // The task that reads the request would keep the stream open, so the request's body ends as well.
        let request = request.map(|body| Body::new(Ending::new(body, self.over.clone(), false)));
        EndingAnswer {
            inner: self.inner.call(request),
            over: self.over.clone(),
        }
    }
}

pin_project! {
    /// The future of an answer.
    pub(super) struct EndingAnswer<F> {
        #[pin]
        inner: F,
        over: CancellationToken,
    }
}

impl<F> Future for EndingAnswer<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(context))?;
        let over = this.over.clone();
        Poll::Ready(Ok(answer.map(|body| {
            if body.is_end_stream() {
                body
            } else {
                Body::new(Ending::new(body, over, true))
            }
        })))
    }
}

pin_project! {
    /// A body that ends once `over` is cancelled and `inner` has no frame ready.
    struct Ending {
        #[pin]
        inner: Body,
        #[pin]
        over: WaitForCancellationFutureOwned,
        // True for an answer: its trailers tell the client the reason of the end.
        trailers: bool,
        ended: bool,
    }
}

impl Ending {
    fn new(inner: Body, over: CancellationToken, trailers: bool) -> Self {
        Self {
            inner,
            over: over.cancelled_owned(),
            trailers,
            ended: false,
        }
    }
}

impl hyper::body::Body for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        if *this.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = this.inner.poll_frame(context) {
            return Poll::Ready(frame);
        }
        ready!(this.over.poll(context));
        *this.ended = true;
        Poll::Ready(this.trailers.then(|| Ok(Frame::trailers(shutting_down()))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

fn shutting_down() -> HeaderMap {
    let status = Status::from(Refusal::new(Reason::ShuttingDown, "the service is shutting down"));
    let mut trailers = HeaderMap::new();
    // Fails only for a message that is not a valid header value.
    let _ = status.add_header(&mut trailers);
    trailers
}
