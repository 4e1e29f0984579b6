//! Connections to one server: pooled for it alone, dialled only where it may be dialled.

mod dial;
mod ecdsa;
mod fault;
mod framing;
mod head;
mod http2;
mod hung_up;
mod interim;
mod ping;
pub mod tls;
mod verify;

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{
    body::{Frame, Incoming},
    upgrade::Upgraded,
};
use hyper_util::{
    client::legacy::{Client, Error, connect::capture_connection},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use proto::{Reason, Refusal};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, join, split};

use crate::{
    address::OwnListeners,
    keepalive::Keepalive,
    limits::UpstreamLimits,
    placeholder::{PlaceholderTable, PossibleVersions, SubstitutingStream},
    registry::server::{Protocol, Server},
};
use dial::{Connector, DialError, Socket};
use fault::TlsFault;
use http2::{Http2, Outcome};
use ping::PingInterval;

pub(crate) use http2::{RefusingConnection, StreamSlot};
pub use ping::PingIntervals;

/// An error while a body was read, on either side.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// The result of polling a body for its next frame.
pub(crate) type FramePoll = Poll<Option<Result<Frame<Bytes>, BodyError>>>;
/// A body that is passed on as it comes.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Fetches the client certificate for one handshake with an upstream.
pub type ClientCertificateSource =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Arc<CertifiedKey>, Refusal>> + Send>> + Send + Sync>;

/// What every upstream shares.
pub struct DialContext {
    /// The CAs of the system and of the settings.
    pub roots: Arc<rustls::RootCertStore>,
    /// Our own listeners, which are never dialled.
    pub own: OwnListeners,
    /// How much connections may take.
    pub limits: UpstreamLimits,
    /// How dead upstreams are noticed.
    pub keepalive: Keepalive,
    /// How often PING frames are sent to each.
    pub ping_intervals: Arc<PingIntervals>,
}

/// The connections to one server as it is described now.
pub struct Upstream {
    http1: Client<Connector, Body>,
    http2: Http2,
    /// For HTTP/2 and nothing else.
    only_http2: Connector,
    /// For what the server likes better, by ALPN.
    either: Connector,
    /// That it chose HTTP/1.1 when it had the choice. It is not asked again by this upstream, which does not get old.
    chose_http1: AtomicBool,
    protocol: Protocol,
    tls: bool,
    placeholders: PlaceholderTable,
    limits: UpstreamLimits,
    made: Instant,
}

/// Which version of HTTP a request has to go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequiredVersion {
    /// Any version will do.
    Any,
    /// No other has upgrades. Not for a server that is called over HTTP/2 alone.
    Http1,
    /// gRPC does not work otherwise.
    Http2,
}

/// The versions of HTTP that one request may be sent over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Http1,
    Http2,
    /// The version that the upstream chooses by ALPN, or the one of a connection that is open already.
    Negotiated,
}

impl Transport {
    pub(crate) fn over(self) -> PossibleVersions {
        match self {
            Self::Http1 => PossibleVersions::Http1Only,
            Self::Http2 | Self::Negotiated => PossibleVersions::Any,
        }
    }
}

impl Upstream {
    /// Dials nothing yet. `identify` fetches the client certificate, if the server has one.
    pub fn new(
        server: &Server,
        network: &Arc<DialContext>,
        identify: Option<&ClientCertificateSource>,
    ) -> Result<Self, Refusal> {
        let spec = &server.spec;
        let placeholders = PlaceholderTable::default();
        let ping = PingInterval::new(&network.ping_intervals, server.uid);
        let connector = |alpn: &[&[u8]]| Connector::new(spec, network, &placeholders, &ping, alpn, identify);
        Ok(Self {
            http1: http1(network.limits).build(connector(&[b"http/1.1"])?),
            http2: Http2::new(network.limits, network.keepalive.upstream_ping.timeout),
            only_http2: connector(&[b"h2"])?,
            either: connector(&[b"h2", b"http/1.1"])?,
            chose_http1: AtomicBool::new(false),
            protocol: spec.protocol,
            tls: spec.url.is_tls(),
            placeholders,
            limits: network.limits,
            made: Instant::now(),
        })
    }

    /// Whether its connections are to take no more calls: they are no older than this. With new ones, names are resolved
    /// anew, and a balancer before the server gets to choose again.
    pub fn is_older_than(&self, age: Duration) -> bool {
        self.made.elapsed() >= age
    }

    /// What covers the values that are on their way here.
    pub fn placeholders(&self) -> &PlaceholderTable {
        &self.placeholders
    }

    /// Decides over which versions of HTTP a request is sent.
    pub(crate) fn transport(&self, needs: RequiredVersion) -> Transport {
        match (self.protocol, needs) {
            (Protocol::Http1, _) | (Protocol::Auto, RequiredVersion::Http1) => Transport::Http1,
            (Protocol::Http2, _) | (Protocol::Auto, RequiredVersion::Http2) => Transport::Http2,
            (Protocol::Auto, RequiredVersion::Any) if self.tls && !self.chose_http1.load(Relaxed) => {
                Transport::Negotiated
            }
            (Protocol::Auto, RequiredVersion::Any) => Transport::Http1,
        }
    }

    /// Sends one request, once: it is not repeated when a byte of it may have been sent. `refusing` are the
    /// connections on which the server did not process the same request before; another one is used where there may be
    /// one.
    ///
    /// A connection that held a value uncovered in a buffer of its own carries nothing more after it.
    pub(crate) async fn send(
        &self,
        request: Request<Body>,
        transport: Transport,
        uncovered: ClearValues,
        refusing: &[RefusingConnection],
    ) -> Result<SendOutcome, Refusal> {
        let delivery = self.deliver(request, transport, uncovered, refusing).await?;
        if let SendOutcome::Answered(answer) = &delivery {
            head::check(answer.response.headers(), self.limits)?;
        }
        Ok(delivery)
    }

    async fn deliver(
        &self,
        request: Request<Body>,
        transport: Transport,
        uncovered: ClearValues,
        refusing: &[RefusingConnection],
    ) -> Result<SendOutcome, Refusal> {
        let connector = match transport {
            Transport::Http1 => return self.send_http1(request, uncovered).await,
            Transport::Http2 => &self.only_http2,
            Transport::Negotiated => &self.either,
        };
        let last = uncovered != ClearValues::None;
        match self.http2.send(request, connector, last, refusing).await? {
            Outcome::Answered(response, slot) => Ok(SendOutcome::Answered(UpstreamResponse {
                response,
                slot: Some(slot),
            })),
            Outcome::NotProcessed(refusing) => Ok(SendOutcome::NotProcessed(refusing)),
            Outcome::Http1(request) => {
                self.chose_http1.store(true, Relaxed);
                self.send_http1(request, uncovered).await
            }
        }
    }

    async fn send_http1(
        &self,
        mut request: Request<Body>,
        uncovered: ClearValues,
    ) -> Result<SendOutcome, Refusal> {
        framing::tell(&mut request);
        let connection = (uncovered == ClearValues::Head).then(|| capture_connection(&mut request));
        // Given up before its answer, a call takes its connection with it.
        let too_many = interim::too_many(&mut request);
        let response = tokio::select! {
            biased;
            response = self.http1.request(request) => response.map_err(|error| refusal(&error)),
            refusal = too_many => Err(refusal),
        };
        if let Some(connection) = connection
            && let Some(connected) = &*connection.connection_metadata()
        {
            connected.poison();
        }
        let answer = |response| UpstreamResponse { response, slot: None };
        response.map(|response| SendOutcome::Answered(answer(response)))
    }
}

/// What became of a request that was sent.
pub(crate) enum SendOutcome {
    Answered(UpstreamResponse),
    /// The server did not process it (RFC 9113, section 8.7), so it may be sent again.
    NotProcessed(RefusingConnection),
}

/// What came back of a call, and its slot on its connection if it shares that with others: to be kept until the answer's
/// body has ended.
pub(crate) struct UpstreamResponse {
    pub(crate) response: Response<Incoming>,
    pub(crate) slot: Option<Arc<StreamSlot>>,
}

/// Values that a request holds without a cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClearValues {
    /// None.
    None,
    /// In its body alone, which HTTP/1.1 writes without copying it, and HTTP/2 does not.
    Body,
    /// In its head.
    Head,
}

/// Returns the connection under an upgraded one. An upgraded connection carries no heads, and so no placeholders.
pub(crate) fn bare(upgraded: Upgraded) -> io::Result<impl AsyncRead + AsyncWrite> {
    let Ok(parts) = upgraded.downcast::<SubstitutingStream<Socket>>() else {
        return Err(io::Error::other(
            "the upgraded connection is not one to an upstream",
        ));
    };
    let (read, write) = split(TokioIo::new(parts.io.into_inner()));
    // hyper may have read beyond the answer's head.
    Ok(join(io::Cursor::new(parts.read_buf).chain(read), write))
}

fn http1(limits: UpstreamLimits) -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http1_max_headers(head::fields(limits))
        .http1_max_buf_size(head::buffer(limits))
        .pool_idle_timeout(limits.idle_timeout)
        .pool_max_idle_per_host(limits.max_idle);
    builder
}

/// What went wrong, without the upstream's or the system's own words.
fn refusal(error: &Error) -> Refusal {
    let source = std::error::Error::source(error);
    let mut causes = std::iter::successors(source, |cause| cause.source());
    match causes.find_map(|cause| cause.downcast_ref::<DialError>()) {
        Some(dial) => dial.refusal(),
        None => match TlsFault::find(error) {
            Some(fault) => fault.refusal(),
            None => broken(error),
        },
    }
}

fn broken(error: &(dyn std::error::Error + 'static)) -> Refusal {
    if let Some(refusal) = head::too_large(error) {
        return refusal;
    }
    tracing::debug!(
        error = chassis::telemetry::chain(error),
        "upstream request failed"
    );
    let broken = "the upstream broke the connection before it answered";
    Refusal::new(Reason::UpstreamUnreachable, broken)
}
