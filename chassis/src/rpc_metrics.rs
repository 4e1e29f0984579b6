//! Metrics of the RPCs that a service answers. The names are those of go-grpc-middleware, for which dashboards and alert
//! rules exist.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::authz::AccessTable;

/// Upper bounds of the buckets for the duration of an RPC, in seconds.
const SECONDS: [f64; 11] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0,
];

/// An RPC of the authorization table, or [`UNKNOWN`].
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Method {
    grpc_service: &'static str,
    grpc_method: &'static str,
}

/// Stands for every RPC that is not in the authorization table, so that a client with invented names adds no time series.
const UNKNOWN: Method = Method {
    grpc_service: "unknown",
    grpc_method: "unknown",
};

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Handled {
    grpc_service: &'static str,
    grpc_method: &'static str,
    grpc_code: &'static str,
}

/// Counts the RPCs of a service, as the outermost layer. Clones count together.
#[derive(Clone)]
pub struct RpcMetrics {
    table: AccessTable,
    handled: Family<Handled, Counter>,
    seconds: Family<Method, Histogram>,
}

impl RpcMetrics {
    /// Registers the metrics of the RPCs in `table`.
    pub fn register(registry: &mut Registry, table: AccessTable) -> Self {
        let metrics = Self {
            table,
            handled: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
        };
        registry.register(
            "grpc_server_handled",
            "RPCs that ended, by method and status code",
            metrics.handled.clone(),
        );
        registry.register(
            "grpc_server_handling_seconds",
            "Time from the head of an RPC to the end of its answer, by method",
            metrics.seconds.clone(),
        );
        metrics
    }

    fn begin(&self, path: &str) -> Running {
        Running {
            metrics: self.clone(),
            method: method(self.table, path),
            began: Instant::now(),
            code: Code::Cancelled,
        }
    }
}

fn method(table: AccessTable, path: &str) -> Method {
    let known = table.iter().find(|(known, _)| *known == path);
    let parts = known.and_then(|(path, _)| path.trim_start_matches('/').split_once('/'));
    parts.map_or(UNKNOWN, |(grpc_service, grpc_method)| Method {
        grpc_service,
        grpc_method,
    })
}

impl<S> Layer<S> for RpcMetrics {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured {
            inner,
            metrics: self.clone(),
        }
    }
}

/// The service that [`RpcMetrics`] makes.
#[derive(Clone)]
pub struct Measured<S> {
    inner: S,
    metrics: RpcMetrics,
}

impl<S> Service<http::Request<Body>> for Measured<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = MeasuredFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        MeasuredFuture {
            running: Some(self.metrics.begin(request.uri().path())),
            inner: self.inner.call(request),
        }
    }
}

pin_project! {
    /// The future of an answer.
    pub struct MeasuredFuture<F> {
        #[pin]
        inner: F,
        running: Option<Running>,
    }
}

impl<F> Future for MeasuredFuture<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>>,
{
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(context))?;
        let mut running = this.running.take();
        if let Some(running) = &mut running {
            running.note_code(answer.headers());
        }
        Poll::Ready(Ok(answer.map(|inner| Body::new(MeasuredBody { inner, running }))))
    }
}

/// The body of an answer. Its drop ends the RPC.
struct MeasuredBody {
    inner: Body,
    running: Option<Running>,
}

impl hyper::body::Body for MeasuredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let (Some(Ok(frame)), Some(running)) = (&frame, &mut self.running)
            && let Some(trailers) = frame.trailers_ref()
        {
            running.note_code(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A running RPC. Its drop counts it, so that an RPC whose client gives up is counted as well.
struct Running {
    metrics: RpcMetrics,
    method: Method,
    began: Instant,
    code: Code,
}

impl Running {
    fn note_code(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get(Status::GRPC_STATUS) {
            self.code = Code::from_bytes(status.as_bytes());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Method {
            grpc_service,
            grpc_method,
        } = self.method;
        let handled = Handled {
            grpc_service,
            grpc_method,
            grpc_code: code_name(self.code),
        };
        self.metrics.handled.get_or_create(&handled).inc();
        let seconds = self.metrics.seconds.get_or_create(&self.method);
        seconds.observe(self.began.elapsed().as_secs_f64());
    }
}

/// Returns the name of a code in go-grpc-middleware, which differs from that of gRPC's specification.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
