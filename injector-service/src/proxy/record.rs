//! What is told of a call: one log line, and counters.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use http::{Method, StatusCode};
use proto::{
    Refusal,
    serve::telemetry::{self, field},
};

use crate::{inject::Resolved, metrics::Metrics, registry::server::Server};

/// Makes the ids that tie a log line to an answer.
pub(super) struct CallIds {
    process: u32,
    next: AtomicU64,
}

impl CallIds {
    pub(super) fn new() -> Self {
        let [a, b, c, d, ..] = *proto::Uid::generate().as_bytes();
        Self {
            process: u32::from_be_bytes([a, b, c, d]),
            next: AtomicU64::new(1),
        }
    }

    pub(super) fn next(&self) -> String {
        format!(
            "{:08x}-{:x}",
            self.process,
            self.next.fetch_add(1, Ordering::Relaxed)
        )
    }
}

/// What is known of a call so far.
pub(super) struct Record {
    pub(super) call_id: String,
    /// The origin of the web page that calls, when it may.
    pub(super) page: Option<String>,
    started: Instant,
    method: Method,
    workspace: String,
    server: String,
    injected: Vec<String>,
    missed: Vec<String>,
}

impl Record {
    pub(super) fn new(call_id: String, method: Method) -> Self {
        Self {
            call_id,
            page: None,
            started: Instant::now(),
            method,
            workspace: String::new(),
            server: String::new(),
            injected: Vec::new(),
            missed: Vec::new(),
        }
    }

    pub(super) fn server(&mut self, server: &Server) {
        self.workspace = server.workspace.to_string();
        self.server = server.name.to_string();
    }

    pub(super) fn resolved(&mut self, resolved: &[Resolved]) {
        for secret in resolved {
            let names = if secret.value.is_some() {
                &mut self.injected
            } else {
                &mut self.missed
            };
            names.push(secret.secret.to_string());
        }
    }

    /// A body was to carry the secrets, and there is none.
    pub(super) fn no_body(&mut self) {
        self.missed.append(&mut self.injected);
    }

    pub(super) fn forwarded(&self, status: StatusCode, metrics: &Metrics) {
        metrics.forwarded(self.injected.len());
        metrics.missed(&self.workspace, &self.server, self.missed.len());
        tracing::info!(
            { field::WORKSPACE } = self.workspace, { field::SERVER } = self.server, method = %self.method,
            injected = self.injected.join(","), missed = self.missed.join(","), status = status.as_u16(),
            { field::MS } = telemetry::ms(self.started), { field::CALL_ID } = self.call_id, "call forwarded"
        );
    }

    /// For what happens after the answer's head was forwarded.
    pub(super) fn afterwards(&self, metrics: &Metrics) -> Afterwards {
        Afterwards {
            call_id: self.call_id.clone(),
            workspace: self.workspace.clone(),
            server: self.server.clone(),
            metrics: metrics.clone(),
        }
    }

    pub(super) fn answered(&self, what: &'static str) {
        tracing::info!(
            { field::WORKSPACE } = self.workspace, { field::SERVER } = self.server, method = %self.method,
            { field::MS } = telemetry::ms(self.started), { field::CALL_ID } = self.call_id, what, "call answered"
        );
    }

    pub(super) fn refused(&self, refusal: &Refusal, metrics: &Metrics) {
        metrics.refused(refusal.reason);
        metrics.missed(&self.workspace, &self.server, self.missed.len());
        tracing::warn!(
            { field::WORKSPACE } = self.workspace, { field::SERVER } = self.server, method = %self.method,
            { field::REASON } = refusal.reason.name(), { field::DETAIL } = refusal.message,
            missed = self.missed.join(","), { field::MS } = telemetry::ms(self.started), { field::CALL_ID } = self.call_id, "call refused"
        );
    }
}

/// What is told of a call while its messages go by.
pub(super) struct Afterwards {
    call_id: String,
    workspace: String,
    server: String,
    metrics: Metrics,
}

impl Afterwards {
    /// One more message got its secrets.
    pub(super) fn resolved(&self, resolved: &[Resolved]) {
        let missed: Vec<_> = resolved
            .iter()
            .filter(|secret| secret.value.is_none())
            .map(|secret| secret.secret.as_str())
            .collect();
        self.metrics.injected(resolved.len() - missed.len());
        self.metrics.missed(&self.workspace, &self.server, missed.len());
        if !missed.is_empty() {
            tracing::info!(
                { field::WORKSPACE } = self.workspace,
                { field::SERVER } = self.server,
                missed = missed.join(","),
                { field::CALL_ID } = self.call_id,
                "message forwarded without secrets"
            );
        }
    }

    /// The request was not sent on to its end.
    pub(super) fn broken_off(&self, refusal: &Refusal) {
        self.metrics.refused(refusal.reason);
        tracing::warn!(
            { field::WORKSPACE } = self.workspace,
            { field::SERVER } = self.server,
            { field::REASON } = refusal.reason.name(),
            { field::DETAIL } = refusal.message,
            { field::CALL_ID } = self.call_id,
            "call broken off"
        );
    }
}
