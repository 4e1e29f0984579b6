//! Streams that a client may hold for as long as it likes, and that end when the service shuts down.

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

/// A service whose calls end with UNAVAILABLE once `over` is cancelled and they have nothing more to say.
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
        // The request ends too: the task that reads it would otherwise keep its stream open.
        let request = request.map(|body| Body::new(Ending::new(body, self.over.clone(), false)));
        EndingAnswer {
            inner: self.inner.call(request),
            over: self.over.clone(),
        }
    }
}

pin_project! {
    /// An answer that is awaited.
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
    /// A body that ends when it has nothing to say once `over` is cancelled.
    struct Ending {
        #[pin]
        inner: Body,
        #[pin]
        over: WaitForCancellationFutureOwned,
        // Whether trailers tell the peer why the body ends.
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
    // Fails only for a message that no header can hold.
    let _ = status.add_header(&mut trailers);
    trailers
}
