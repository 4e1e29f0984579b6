//! Connections to one server: pooled for it alone, dialled only where it may be dialled.

mod dial;
pub mod tls;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, Error, connect::capture_connection},
    rt::{TokioExecutor, TokioTimer},
};
use proto::{Reason, Refusal};

use crate::{
    address::Own,
    limits::UpstreamLimits,
    registry::server::{Protocol, Spec},
    veil::{Over, Veil},
};
use dial::{Connector, DialError};

/// Bytes of a response that may be under way on one HTTP/2 stream, and on one connection. So a hundred streams that
/// nobody reads do not keep the others on the connection from theirs; and see the data plane's own of many small frames.
const WINDOWS: (u32, u32) = (512 << 10, 64 << 20);

/// An error while a body was read, on either side.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// A body that is passed on as it comes.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// What every upstream shares.
pub struct Network {
    /// The CAs of the system and of the settings.
    pub roots: Arc<rustls::RootCertStore>,
    /// Our own listeners, which are never dialled.
    pub own: Own,
    /// How much connections may take.
    pub limits: UpstreamLimits,
}

/// The connections to one server as it is described now.
pub struct Upstream {
    /// For HTTP/1.1 in cleartext, or over TLS whatever ALPN gave.
    ordinary: Client<Connector, Body>,
    /// For HTTP/1.1 alone.
    http1: Client<Connector, Body>,
    /// For HTTP/2 without asking.
    prior_knowledge: Client<Connector, Body>,
    protocol: Protocol,
    tls: bool,
    veil: Veil,
    made: Instant,
}

/// Which version of HTTP a request has to go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Any version will do.
    Any,
    /// No other has upgrades. Not for a server that is called over HTTP/2 alone.
    Http1,
    /// gRPC does not work otherwise.
    Http2,
}

impl Upstream {
    /// Dials nothing yet.
    pub fn new(spec: &Spec, network: &Arc<Network>) -> Result<Self, Refusal> {
        let veil = Veil::default();
        let connector = |alpn: &[&[u8]]| Connector::new(spec, network, &veil, alpn);
        let ordinary = match spec.protocol {
            Protocol::Auto => connector(&[b"h2", b"http/1.1"])?,
            Protocol::Http1 => connector(&[b"http/1.1"])?,
            Protocol::Http2 => connector(&[b"h2"])?,
        };
        let ordinary = client(network.limits, false).build(ordinary);
        let http1 = match spec.protocol {
            Protocol::Auto if spec.url.is_tls() => {
                client(network.limits, false).build(connector(&[b"http/1.1"])?)
            }
            Protocol::Auto | Protocol::Http1 | Protocol::Http2 => ordinary.clone(),
        };
        Ok(Self {
            ordinary,
            http1,
            prior_knowledge: client(network.limits, true).build(connector(&[b"h2"])?),
            protocol: spec.protocol,
            tls: spec.url.is_tls(),
            veil,
            made: Instant::now(),
        })
    }

    /// Whether its connections are to take no more calls: they are no older than this. With new ones, names are resolved
    /// anew, and a balancer before the server gets to choose again.
    pub fn is_worn(&self, age: Duration) -> bool {
        self.made.elapsed() >= age
    }

    /// What covers the values that are on their way here.
    pub fn veil(&self) -> &Veil {
        &self.veil
    }

    /// What a request may go over.
    pub fn over(&self, needs: Needs) -> Over {
        match (self.protocol, needs, self.tls) {
            (Protocol::Http1, ..)
            | (Protocol::Auto, Needs::Any, false)
            | (Protocol::Auto, Needs::Http1, _) => Over::Http1,
            (Protocol::Http2, ..) | (Protocol::Auto, ..) => Over::Any,
        }
    }

    /// Sends one request, once: it is not repeated when a byte of it may have been sent.
    ///
    /// A connection that held a value uncovered in a buffer of its own carries nothing more after it.
    pub async fn send(
        &self,
        mut request: Request<Body>,
        needs: Needs,
        uncovered: Uncovered,
    ) -> Result<Response<Incoming>, Refusal> {
        let client = match (self.protocol, needs, self.tls) {
            (Protocol::Http2, ..) | (Protocol::Auto, Needs::Http2, _) => &self.prior_knowledge,
            (Protocol::Auto, Needs::Http1, _) => &self.http1,
            (Protocol::Http1, ..) | (Protocol::Auto, Needs::Any, _) => &self.ordinary,
        };
        let connection = (uncovered != Uncovered::Nothing).then(|| capture_connection(&mut request));
        let response = client.request(request).await.map_err(|error| refusal(&error));
        if let Some(connection) = connection
            && let Some(connected) = &*connection.connection_metadata()
        {
            let http2 = std::ptr::eq(client, &self.prior_knowledge) || connected.is_negotiated_h2();
            if uncovered == Uncovered::Head || http2 {
                connected.poison();
            }
        }
        response
    }
}

/// Values that a request holds without a cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uncovered {
    /// None.
    Nothing,
    /// In its body alone, which HTTP/1.1 writes without copying it, and HTTP/2 does not.
    Body,
    /// In its head.
    Head,
}

fn client(limits: UpstreamLimits, http2_only: bool) -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(limits.idle_timeout)
        .pool_max_idle_per_host(limits.max_idle)
        .http2_only(http2_only)
        .http2_initial_stream_window_size(WINDOWS.0)
        .http2_initial_connection_window_size(WINDOWS.1)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .http2_max_header_list_size(256 * 1024);
    builder
}

/// What went wrong, without the upstream's or the system's own words.
fn refusal(error: &Error) -> Refusal {
    let source = std::error::Error::source(error);
    let causes = std::iter::successors(source, |cause| cause.source());
    if let Some(dial) = causes.clone().find_map(|cause| cause.downcast_ref::<DialError>()) {
        return dial.refusal();
    }
    tracing::debug!(
        error = proto::serve::telemetry::chain(error),
        "upstream request failed"
    );
    let broken = "the upstream broke the connection before it answered";
    Refusal::new(Reason::UpstreamUnreachable, broken)
}
