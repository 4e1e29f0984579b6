//! What is told of a call: one log line, and counters.

use std::{sync::Arc, time::Instant};

use chassis::telemetry::{self, field};
use http::{Method, StatusCode};
use proto::{CallId, Refusal};

use crate::{
    inject::Resolved,
    metrics::Metrics,
    registry::{Entry, Tally, server::Injection},
};

/// What is known of a call so far.
pub(super) struct Record {
    pub(super) call_id: CallId,
    /// The origin of the web page that calls, when it may.
    pub(super) page: Option<String>,
    started: Instant,
    method: Method,
    /// The server, once it is known.
    entry: Option<Arc<Entry>>,
    injected: Names,
    missed: Names,
    /// Secrets that the call goes without, because the server does not name the call's path or method.
    withheld: Names,
    /// How often the request was sent again.
    repeats: u32,
    /// Secrets at the end of a body of which the upstream had not got so much when it answered.
    unsent: Names,
}

/// Names of secrets, as a log line has them.
#[derive(Default)]
struct Names {
    text: String,
    count: usize,
}

impl Names {
    fn add(&mut self, names: &str, count: usize) {
        if self.count > 0 && count > 0 {
            self.text.push(',');
        }
        self.text.push_str(names);
        self.count += count;
    }
}

impl Record {
    pub(super) fn new(method: Method) -> Self {
        Self {
            call_id: CallId::generate(),
            page: None,
            started: Instant::now(),
            method,
            entry: None,
            injected: Names::default(),
            missed: Names::default(),
            withheld: Names::default(),
            repeats: 0,
            unsent: Names::default(),
        }
    }

    /// Forgets what was injected: the request is sent again, with secrets that are decrypted anew.
    pub(super) fn repeated(&mut self) {
        (self.injected, self.missed) = Default::default();
        self.withheld = Names::default();
        self.repeats += 1;
    }

    pub(super) fn server(&mut self, entry: &Arc<Entry>) {
        self.entry = Some(entry.clone());
    }

    /// The names of the workspace and of the server; empty when the server is not known.
    fn of(&self) -> (&str, &str) {
        self.entry.as_ref().map_or(("", ""), |entry| {
            (entry.server.workspace.as_str(), entry.server.name.as_str())
        })
    }

    /// The counts that this call belongs to.
    fn tally<'a>(&'a self, metrics: &'a Metrics) -> &'a Tally {
        self.entry
            .as_ref()
            .map_or(&*metrics.unknown, |entry| entry.tally())
    }

    /// Counts the values of a call that the upstream got, although its answer is not forwarded.
    pub(super) fn count_injected(&self, metrics: &Metrics) {
        self.tally(metrics).secrets(self.injected.count, 0);
    }

    pub(super) fn resolved(&mut self, resolved: &[Resolved<'_>]) {
        for secret in resolved {
            let names = if secret.value.is_some() {
                &mut self.injected
            } else {
                &mut self.missed
            };
            names.add(secret.secret.as_str(), 1);
        }
    }

    /// Records secrets that this call goes without, because the server names the calls that get secrets, and not this
    /// one.
    pub(super) fn withheld(&mut self, injections: &[Injection]) {
        for injection in injections {
            self.withheld.add(injection.secret.as_str(), 1);
        }
    }

    /// A body was to carry the secrets, and there is none.
    pub(super) fn no_body(&mut self) {
        let Names { text, count } = std::mem::take(&mut self.injected);
        self.missed.add(&text, count);
    }

    /// The upstream answered before the body's secrets were sent.
    pub(super) fn unsent(&mut self) {
        self.unsent = std::mem::take(&mut self.injected);
    }

    pub(super) fn forwarded(&self, status: StatusCode, metrics: &Metrics) {
        let (workspace, server) = self.of();
        let tally = self.tally(metrics);
        tally.forwarded(status, self.started.elapsed());
        tally.secrets(self.injected.count, self.missed.count);
        tracing::info!(
            { field::WORKSPACE } = workspace,
            { field::SERVER } = server,
            method = self.method.as_str(),
            injected = self.injected.text,
            missed = self.missed.text,
            withheld = self.withheld.text,
            repeats = self.repeats,
            unsent = self.unsent.text,
            status = status.as_u16(),
            { field::MS } = telemetry::ms(self.started),
            { field::CALL_ID } = self.call_id.as_str(),
            "call forwarded"
        );
    }

    /// For what happens after the answer's head was forwarded.
    pub(super) fn afterwards(&self, entry: &Arc<Entry>) -> Afterwards {
        Afterwards {
            call_id: self.call_id.clone(),
            entry: entry.clone(),
        }
    }

    pub(super) fn answered(&self, what: &'static str) {
        let (workspace, server) = self.of();
        tracing::info!(
            { field::WORKSPACE } = workspace,
            { field::SERVER } = server,
            method = self.method.as_str(),
            { field::MS } = telemetry::ms(self.started),
            { field::CALL_ID } = self.call_id.as_str(),
            what,
            "call answered"
        );
    }

    /// Lists the call's secrets by what became of them.
    pub(super) fn secrets(&self) -> String {
        let lists = [
            ("injected", &self.injected),
            ("missing", &self.missed),
            ("withheld", &self.withheld),
            ("unsent", &self.unsent),
        ];
        let lists = lists.into_iter().filter(|(_, names)| names.count > 0);
        let lists: Vec<_> = lists
            .map(|(what, names)| format!("{what}: {}", names.text))
            .collect();
        lists.join("; ")
    }

    pub(super) fn refused(&self, refusal: &Refusal, metrics: &Metrics) {
        let (workspace, server) = self.of();
        let tally = self.tally(metrics);
        tally.refused(refusal.reason, self.started.elapsed());
        tally.secrets(0, self.missed.count);
        tracing::warn!(
            { field::WORKSPACE } = workspace,
            { field::SERVER } = server,
            method = self.method.as_str(),
            { field::REASON } = refusal.reason.name(),
            { field::DETAIL } = refusal.message,
            missed = self.missed.text,
            repeats = self.repeats,
            { field::MS } = telemetry::ms(self.started),
            { field::CALL_ID } = self.call_id.as_str(),
            "call refused"
        );
    }
}

/// What is told of a call while its messages go by.
pub(super) struct Afterwards {
    pub(super) call_id: CallId,
    entry: Arc<Entry>,
}

impl Afterwards {
    /// One more message got its secrets.
    pub(super) fn resolved(&self, resolved: &[Resolved<'_>]) {
        let missed: Vec<_> = resolved
            .iter()
            .filter(|secret| secret.value.is_none())
            .map(|secret| secret.secret.as_str())
            .collect();
        let tally = self.entry.tally();
        tally.secrets(resolved.len() - missed.len(), missed.len());
        if !missed.is_empty() {
            tracing::info!(
                { field::WORKSPACE } = self.entry.server.workspace.as_str(),
                { field::SERVER } = self.entry.server.name.as_str(),
                missed = missed.join(","),
                { field::CALL_ID } = self.call_id.as_str(),
                "message forwarded without secrets"
            );
        }
    }

    /// The request was not sent on to its end.
    pub(super) fn broken_off(&self, refusal: &Refusal) {
        self.entry.tally().broken_off(refusal);
        tracing::warn!(
            { field::WORKSPACE } = self.entry.server.workspace.as_str(),
            { field::SERVER } = self.entry.server.name.as_str(),
            { field::REASON } = refusal.reason.name(),
            { field::DETAIL } = refusal.message,
            { field::CALL_ID } = self.call_id.as_str(),
            "call broken off"
        );
    }
}
