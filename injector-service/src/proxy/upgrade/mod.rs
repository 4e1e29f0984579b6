//! HTTP/1.1 upgrades, for example to WebSocket (RFC 9110, section 7.8).
//!
//! The request for an upgrade is a call like any other, with the same checks and the same secrets. When the upstream
//! switches to a protocol that the request named, the connection becomes a tunnel: bytes pass both ways, unread and
//! unchanged, except that values are masked on the way to the program when the server's `scrub` is `all`.

mod protocols;
mod tunnel;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header, request::Parts};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use proto::{CallId, Reason, Refusal};
use tokio::time::Instant;

use super::{
    echo::EchoFilter,
    watchdog::{ActiveCall, Watchdog},
};
use crate::{dialect::Dialect, registry::server::Protocol, upstream::Body};
use tunnel::{Tunnel, TunnelMasking};

pub(super) struct UpgradeRequest {
    protocols: Vec<String>,
    downstream: OnUpgrade,
}

pub(super) struct UpgradeResponse {
    protocols: HeaderValue,
    tunnel: Tunnel,
}

/// The tunnel that a downstream connection becomes after its last HTTP message, if any. Clones share it.
#[derive(Clone)]
pub(super) struct ConnectionUpgrade(Arc<SharedUpgrade>);

struct SharedUpgrade {
    watchdog: Arc<Watchdog>,
    /// The tunnel, and a call that keeps the connection from being idle.
    tunnel: OnceLock<(Tunnel, ActiveCall)>,
}

impl UpgradeRequest {
    /// Takes the request for an upgrade out of the request. Returns `None` for an ordinary request. A server may ignore
    /// a request for an upgrade (RFC 9110, section 7.8), and the injector ignores those that are malformed, come with
    /// gRPC, or would lead to HTTP again.
    pub(super) fn find(
        parts: &mut Parts,
        dialect: Dialect,
        protocol: Protocol,
    ) -> Result<Option<Self>, Refusal> {
        let Some(downstream) = parts.extensions.remove::<OnUpgrade>() else {
            return Ok(None);
        };
        let cannot_upgrade = parts.version != Version::HTTP_11 || dialect == Dialect::Grpc;
        let protocols = protocols::requested(&parts.headers);
        if cannot_upgrade || protocols.is_empty() {
            return Ok(None);
        }
        match protocol {
            Protocol::Http2 => Err(Refusal::new(
                Reason::UpstreamProtocol,
                "this server is called over HTTP/2, where connections are not upgraded; its protocol would have to be \
                 HTTP1 or AUTO",
            )),
            Protocol::Auto | Protocol::Http1 => Ok(Some(Self {
                protocols,
                downstream,
            })),
        }
    }

    /// Adds the fields of the request for an upgrade to headers that have no other fields about the connection.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) -> Result<(), Refusal> {
        add_upgrade(headers, &joined(&self.protocols)?);
        Ok(())
    }
}

impl UpgradeResponse {
    /// Returns the upgrade that the upstream's response announces, or `None` for an ordinary response. The tunnel ends at
    /// `identity_end` at the latest.
    pub(super) fn find(
        request: Option<UpgradeRequest>,
        response: &mut Response<Incoming>,
        call_id: &CallId,
        echo_filter: Option<&EchoFilter>,
        identity_end: Option<Instant>,
    ) -> Result<Option<Self>, Refusal> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(None);
        }
        let requested = request.and_then(|request| {
            let protocols = protocols::agreed(response.headers(), &request.protocols)?;
            Some((request, protocols))
        });
        let Some((request, protocols)) = requested else {
            // The caller drops the response, which closes the connection.
            return Err(Refusal::new(
                Reason::UpstreamProtocol,
                "the upstream switched to a protocol that it was not asked for",
            ));
        };
        Ok(Some(Self {
            protocols: joined(&protocols)?,
            tunnel: Tunnel {
                downstream: request.downstream,
                upstream: hyper::upgrade::on(response),
                call_id: call_id.clone(),
                masking: echo_filter.and_then(|filter| TunnelMasking::new(filter, &protocols)),
                identity_end,
            },
        }))
    }

    /// Adds the upgrade to the response for the program, where [`ConnectionUpgrade::record`] finds the tunnel.
    pub(super) fn add_to(self, response: &mut Response<Body>) {
        add_upgrade(response.headers_mut(), &self.protocols);
        response.extensions_mut().insert(self.tunnel);
    }
}

impl ConnectionUpgrade {
    pub(super) fn new(watchdog: Arc<Watchdog>) -> Self {
        Self(Arc::new(SharedUpgrade {
            watchdog,
            tunnel: OnceLock::new(),
        }))
    }

    /// Takes the tunnel out of `response`, if it has one. The tunnel counts as a call from here on, so that the
    /// connection is not closed as idle.
    pub(super) fn record<B>(&self, mut response: Response<B>) -> Response<B> {
        if let Some(tunnel) = response.extensions_mut().remove::<Tunnel>() {
            self.0.watchdog.upgrade();
            let call = self.0.watchdog.begin_call();
            // The cell is empty: the connection has no HTTP message after an upgrade.
            let _ = self.0.tunnel.set((tunnel, call));
        }
        response
    }

    /// Runs the tunnel, if there is one, until no bytes passed for `idle_timeout` or the identity
    /// of the caller has expired. hyper must have dropped the
    /// connection before.
    pub(super) async fn run_tunnel(&self, idle_timeout: Duration) {
        if let Some((tunnel, _call)) = self.0.tunnel.get() {
            tunnel.clone().run(idle_timeout).await;
        }
    }
}

fn add_upgrade(headers: &mut HeaderMap, protocols: &HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocols.clone());
}

fn joined(protocols: &[String]) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_str(&protocols.join(", "))
        .map_err(|_| Refusal::new(Reason::Internal, "names of protocols do not make a header"))
}
