//! The probes `/livez`, `/readyz`, `/startupz` and `/metrics`, over plain HTTP so that kubelets and Prometheus reach them.

use std::{convert::Infallible, io, net::IpAddr, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::{body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{
    net::{TcpListener, TcpStream},
    time,
};
use tokio_util::sync::CancellationToken;

use super::{
    connection_slots::{Eviction, Slots},
    dial::without_brackets,
    listen,
    readiness::ReadinessProblem,
};

/// Maximum number of concurrent connections. The oldest connection is evicted for a newcomer, so that a probe is always
/// answered.
const MAX_CONNECTIONS: usize = 256;
/// Time limit for receiving the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for a connection: one request, and an answer that the client may read slowly.
const MAX_DURATION: Duration = Duration::from_secs(10);

/// Returns the reason for which a service cannot do its work at present, if there is one.
pub type Readiness = Arc<dyn Fn() -> Result<(), ReadinessProblem> + Send + Sync>;

/// The place that a client of the probes connects from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DetailAccess {
    Loopback,
    Network,
}

impl DetailAccess {
    /// Returns as much of the problem as the client may read.
    fn text(self, problem: &ReadinessProblem) -> String {
        match (&problem.detail, self) {
            (Some(detail), Self::Loopback) => detail.clone(),
            (Some(_), Self::Network) => format!("{}; the log says more", problem.cause),
            (None, _) => problem.cause.to_owned(),
        }
    }

    /// Both ends have to be loopback addresses: the proxy of a mesh connects from a loopback address to the address of the pod.
    fn of(stream: &TcpStream) -> io::Result<Self> {
        let ends = [stream.peer_addr()?, stream.local_addr()?];
        let is_loopback = ends.iter().all(|end| end.ip().to_canonical().is_loopback());
        Ok(if is_loopback {
            Self::Loopback
        } else {
            Self::Network
        })
    }
}

/// The sources of the answers.
#[derive(Clone)]
pub struct Probes {
    /// Metrics for `/metrics`.
    pub metrics: Arc<Registry>,
    /// Readiness for `/readyz`.
    pub ready: Readiness,
    /// The reason for `/startupz` for which the start is not complete. A service without it has no such page.
    pub started: Option<Readiness>,
}

/// Serves until `shutdown` is cancelled.
pub async fn serve(listener: TcpListener, probes: Probes, shutdown: CancellationToken) {
    let slots = Slots::new("probe", MAX_CONNECTIONS, Eviction::OldestIdle);
    listen::accept(listener, slots, shutdown.clone(), |stream, _, slot| {
        let (probes, shutdown) = (probes.clone(), shutdown.clone());
        tokio::spawn(async move {
            // The slot counts the connection as idle from its start, so that a newcomer can evict the connection at any
            // time.
            slot.started();
            tokio::select! {
                _ = time::timeout(MAX_DURATION, probes.connection(stream)) => {}
                () = slot.evicted() => {}
                () = shutdown.cancelled() => {}
            }
        });
    })
    .await;
}

impl Probes {
    /// Answers the one request of a connection. A client reconnects for its next request, because a connection kept
    /// open would occupy the slot of a probe.
    async fn connection(self, stream: TcpStream) {
        let access = DetailAccess::of(&stream).unwrap_or(DetailAccess::Network);
        let answer =
            service_fn(|request| std::future::ready(Ok::<_, Infallible>(self.answer(&request, access))));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .keep_alive(false)
            .max_headers(64)
            .serve_connection(TokioIo::new(stream), answer);
        // An error means that the peer failed or left, and leaves nothing to do here.
        let _ = connection.await;
    }

    fn answer(&self, request: &Request<Incoming>, access: DetailAccess) -> Response<Full<Bytes>> {
        if !host_is_ours(request) {
            return text(
                StatusCode::MISDIRECTED_REQUEST,
                "this port is asked by IP address or localhost only\n",
            );
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        }
        match (request.uri().path(), &self.started) {
            ("/livez", _) => text(StatusCode::OK, "ok\n"),
            ("/readyz", _) => probe(&self.ready, "not ready", access),
            ("/startupz", Some(started)) => probe(started, "not started", access),
            ("/metrics", _) => self.metrics(),
            (_, Some(_)) => text(
                StatusCode::NOT_FOUND,
                "there are /livez, /readyz, /startupz and /metrics\n",
            ),
            (_, None) => text(StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n"),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut page = String::new();
        if encode(&mut page, &self.metrics).is_err() {
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "metrics could not be written\n",
            );
        }
        let mut response = text(StatusCode::OK, page);
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
        );
        response
    }
}

fn probe(state: &Readiness, negative: &str, access: DetailAccess) -> Response<Full<Bytes>> {
    match state() {
        Ok(()) => text(StatusCode::OK, "ok\n"),
        Err(problem) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{negative}: {}\n", access.text(&problem)),
        ),
    }
}

/// Returns true when the `Host` header is an IP address or `localhost`. Other names are refused, so that a web page whose
/// domain resolves to this machine cannot read the probes (DNS rebinding).
fn host_is_ours(request: &Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let Some(authority) = host.to_str().ok().and_then(|host| host.parse::<Uri>().ok()) else {
        return false;
    };
    authority.host().is_some_and(|host| {
        host.eq_ignore_ascii_case("localhost") || without_brackets(host).parse::<IpAddr>().is_ok()
    })
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

#[cfg(test)]
mod tests;
