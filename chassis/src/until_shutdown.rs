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

/// A service whose calls end with `UNAVAILABLE` once `stop` is cancelled and their answers are sent.
#[derive(Clone)]
pub(super) struct UntilShutdown<S> {
    inner: S,
    stop: CancellationToken,
}

impl<S> UntilShutdown<S> {
    pub(super) fn new(inner: S, stop: CancellationToken) -> Self {
        Self { inner, stop }
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
    type Future = EndingResponse<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // The task that reads the request would keep the stream open, so the request's body ends as well.
        let request = request.map(|body| Body::new(EndingBody::new(body, self.stop.clone(), false)));
        EndingResponse {
            inner: self.inner.call(request),
            stop: self.stop.clone(),
        }
    }
}

pin_project! {
    /// The future of an answer.
    pub(super) struct EndingResponse<F> {
        #[pin]
        inner: F,
        stop: CancellationToken,
    }
}

impl<F> Future for EndingResponse<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(context))?;
        let stop = this.stop.clone();
        Poll::Ready(Ok(answer.map(|body| {
            if body.is_end_stream() {
                body
            } else {
                Body::new(EndingBody::new(body, stop, true))
            }
        })))
    }
}

pin_project! {
    /// A body that ends once `stop` is cancelled and `inner` has no frame ready.
    struct EndingBody {
        #[pin]
        inner: Body,
        #[pin]
        stop: WaitForCancellationFutureOwned,
        // True for an answer: its trailers tell the client the reason of the end.
        trailers: bool,
        ended: bool,
    }
}

impl EndingBody {
    fn new(inner: Body, stop: CancellationToken, trailers: bool) -> Self {
        Self {
            inner,
            stop: stop.cancelled_owned(),
            trailers,
            ended: false,
        }
    }
}

impl hyper::body::Body for EndingBody {
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
        ready!(this.stop.poll(context));
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
