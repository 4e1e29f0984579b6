//! Connections to upstreams. Each server has its own pools, and dials only addresses that may be dialled.

mod answer_connection;
mod body;
mod broken_connection;
mod context;
mod delayed_errors;
mod dial;
mod ecdsa;
mod fault;
mod framing;
mod head;
mod http2;
mod interim;
mod ping;
mod socket;
mod tls;
mod transport;
mod trusted_roots;
mod verify;

use std::{io, sync::Arc, time::Instant};

use http::{Request, Response};
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::{
    client::legacy::{Builder, Client, Error, connect::capture_connection},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use proto::{CallId, Refusal};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, join, split};

use crate::{
    limits::UpstreamLimits,
    placeholder::{ConnectionUse, PlaceholderTable, SubstitutingStream},
    registry::server::{Protocol, Server},
};
use broken_connection::broken;
use dial::{Connector, DialError};
use fault::TlsFault;
use http2::{Http2Client, Http2Outcome};
use ping::PingInterval;
use socket::Socket;

pub(crate) use answer_connection::AnswerConnection;
pub(crate) use body::{Body, BodyError, FramePoll};
pub(crate) use context::{ClientCertificateSource, DialContext};
pub(crate) use http2::RefusingConnection;
pub(crate) use ping::PingIntervals;
pub(crate) use transport::{RequiredVersion, Transport};
pub(crate) use trusted_roots::TrustedRoots;

/// The connections to one revision of one server.
pub(crate) struct Upstream {
    http1: Client<Connector, Body>,
    http2: Http2Client,
    http2_connector: Connector,
    negotiating_connector: Connector,
    protocol: Protocol,
    tls: bool,
    placeholders: PlaceholderTable,
    limits: UpstreamLimits,
    created: Instant,
    /// The CAs for upstreams at the time at which the pools were made.
    roots: Option<Arc<TrustedRoots>>,
}

impl Upstream {
    /// Returns the pools of a server, which are empty at first. `client_certificate` is `None` when the server has no
    /// client certificate.
    pub(crate) fn new(
        server: &Server,
        shared: &Arc<DialContext>,
        client_certificate: Option<&ClientCertificateSource>,
    ) -> Result<Self, Refusal> {
        let spec = &server.spec;
        let placeholders = PlaceholderTable::default();
        let ping = PingInterval::new(&shared.ping_intervals, server.uid);
        let roots = shared.roots.current();
        let connector = |transport| {
            let trusted = roots.as_deref();
            Connector::new(
                spec,
                transport,
                shared,
                trusted,
                &placeholders,
                &ping,
                client_certificate,
            )
        };
        Ok(Self {
            http1: http1_builder(shared.limits).build(connector(Transport::Http1)?),
            http2: Http2Client::new(shared.limits, shared.keepalive.upstream_ping.timeout),
            http2_connector: connector(Transport::Http2)?,
            negotiating_connector: connector(Transport::Negotiated)?,
            protocol: spec.protocol,
            tls: spec.url.is_tls(),
            placeholders,
            limits: shared.limits,
            created: Instant::now(),
            roots,
        })
    }

    /// Returns true when new calls should get new pools. One reason is that these pools are `--upstream-max-connection-age` old:
    /// new ones resolve the name again, and a load balancer chooses again. The other is that the CAs for upstreams were replaced.
    pub(crate) fn is_stale(&self, shared: &DialContext) -> bool {
        let of_current_roots = match (&self.roots, shared.roots.current()) {
            (Some(used), Some(current)) => Arc::ptr_eq(used, &current),
            (used, current) => used.is_none() && current.is_none(),
        };
        !of_current_roots || self.created.elapsed() >= shared.limits.max_connection_age
    }

    /// Returns the values that are on their way to this upstream.
    pub(crate) fn placeholders(&self) -> &PlaceholderTable {
        &self.placeholders
    }

    /// Decides over which versions of HTTP a request is sent.
    pub(crate) fn transport(&self, needs: RequiredVersion) -> Transport {
        match (self.protocol, needs) {
            (Protocol::Http1, _) | (Protocol::Auto, RequiredVersion::Http1) => Transport::Http1,
            (Protocol::Http2, _) | (Protocol::Auto, RequiredVersion::Http2) => Transport::Http2,
            (Protocol::Auto, RequiredVersion::Any) if self.tls && !self.http2.server_chose_http1() => {
                Transport::Negotiated
            }
            (Protocol::Auto, RequiredVersion::Any) => Transport::Http1,
        }
    }

    /// Sends one request once: it is not retried when a byte of it may have been sent. It is sent on another connection
    /// than `refusing` where there may be one. A connection that held a value in clear in a buffer of its own is not used
    /// for further requests. `call_id` is for the log lines of a connection that fails.
    pub(crate) async fn send(
        &self,
        request: Request<Body>,
        transport: Transport,
        in_clear: ClearValues,
        refusing: &[RefusingConnection],
        call_id: &CallId,
    ) -> Result<SendOutcome, Refusal> {
        let outcome = self
            .send_over(request, transport, in_clear, refusing, call_id)
            .await?;
        if let SendOutcome::Answered(answer) = &outcome {
            // Nobody looks for values in an answer that is refused here.
            head::check(answer.response.headers(), self.limits)
                .inspect_err(|_| answer.connection.retire())?;
        }
        Ok(outcome)
    }

    async fn send_over(
        &self,
        request: Request<Body>,
        transport: Transport,
        in_clear: ClearValues,
        refusing: &[RefusingConnection],
        call_id: &CallId,
    ) -> Result<SendOutcome, Refusal> {
        let connector = match transport {
            Transport::Http1 => return self.send_http1(request, in_clear, call_id).await,
            Transport::Http2 => &self.http2_connector,
            Transport::Negotiated => &self.negotiating_connector,
        };
        let retire = in_clear != ClearValues::None;
        let sent = self.http2.send(request, connector, retire, refusing, call_id);
        match sent.await? {
            Http2Outcome::Answered(response, slot) => Ok(SendOutcome::Answered(UpstreamResponse {
                response,
                connection: Arc::new(AnswerConnection::http2(slot)),
            })),
            Http2Outcome::NotProcessed(refusing) => Ok(SendOutcome::NotProcessed(refusing)),
            Http2Outcome::UseHttp1(request) => self.send_http1(request, in_clear, call_id).await,
        }
    }

    async fn send_http1(
        &self,
        mut request: Request<Body>,
        in_clear: ClearValues,
        call_id: &CallId,
    ) -> Result<SendOutcome, Refusal> {
        framing::set_fields(&mut request);
        let connection = capture_connection(&mut request);
        let too_many_interim = interim::limit_exceeded(&mut request);
        // A call that is given up before its answer closes its connection.
        let response = tokio::select! {
            biased;
            response = self.http1.request(request) => response.map_err(|error| refusal(&error, call_id)),
            refusal = too_many_interim => Err(refusal),
        };
        let mut response = response?;
        let connection_use = response.extensions_mut().remove::<ConnectionUse>();
        let connection = AnswerConnection::http1(connection, connection_use.unwrap_or_default());
        if in_clear == ClearValues::Head {
            connection.retire();
        }
        Ok(SendOutcome::Answered(UpstreamResponse {
            response,
            connection: Arc::new(connection),
        }))
    }
}

pub(crate) enum SendOutcome {
    Answered(UpstreamResponse),
    /// The server did not process the request (RFC 9113, section 8.7), which may be sent again.
    NotProcessed(RefusingConnection),
}

/// The answer of an upstream, and its connection, which has to be kept until the body has ended.
pub(crate) struct UpstreamResponse {
    pub(crate) response: Response<Incoming>,
    pub(crate) connection: Arc<AnswerConnection>,
}

/// The part of a request that holds values themselves instead of placeholders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClearValues {
    None,
    /// Only the body. HTTP/1.1 writes a body without copying it, HTTP/2 copies it.
    Body,
    Head,
}

/// Returns the connection under an upgraded one. Placeholders are not replaced there, because no heads follow an upgrade.
pub(crate) fn upgraded_io(upgraded: Upgraded) -> io::Result<impl AsyncRead + AsyncWrite> {
    let Ok(parts) = upgraded.downcast::<SubstitutingStream<Socket>>() else {
        return Err(io::Error::other(
            "the upgraded connection is not one to an upstream",
        ));
    };
    let (read, write) = split(TokioIo::new(parts.io.into_inner()));
    // hyper may have read beyond the answer's head.
    Ok(join(io::Cursor::new(parts.read_buf).chain(read), write))
}

fn http1_builder(limits: UpstreamLimits) -> Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http1_max_headers(head::http1_fields(limits))
        .http1_max_buf_size(head::http1_buffer(limits))
        .pool_idle_timeout(limits.idle_timeout)
        .pool_max_idle_per_host(limits.max_idle);
    builder
}

/// Returns the refusal for an error of hyper-util's client, without the upstream's or the system's own words.
fn refusal(error: &Error, call_id: &CallId) -> Refusal {
    let source = std::error::Error::source(error);
    let mut causes = std::iter::successors(source, |cause| cause.source());
    match causes.find_map(|cause| cause.downcast_ref::<DialError>()) {
        Some(dial) => dial.refusal(call_id),
        None => match TlsFault::find(error) {
            Some(fault) => fault.refusal(call_id),
            None => broken(error, call_id),
        },
    }
}
