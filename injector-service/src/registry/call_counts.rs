//! Counts of the calls to one server, for `/metrics`.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;
use prometheus_client::metrics::histogram::Histogram;
use proto::{Reason, Refusal};

/// Upper bounds of the buckets for the duration of a call, in seconds.
const CALL_SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// The result of a call, as labels of metrics. The number of values is fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallOutcome {
    /// `FORWARDED`, or the name of the reason of the refusal.
    pub(crate) outcome: &'static str,
    /// The class of the answer's HTTP status, such as `2xx`. For a refused gRPC call, the class of the HTTP status that
    /// another call would have got.
    pub(crate) status_class: &'static str,
}

/// A part of an upstream's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EchoPart {
    Head,
    Body,
    Trailers,
}

impl EchoPart {
    pub(crate) const ALL: [Self; 3] = [Self::Head, Self::Body, Self::Trailers];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Body => "body",
            Self::Trailers => "trailers",
        }
    }
}

/// Counts of the calls to one server, or of the calls that name no known server.
#[derive(Debug)]
pub(crate) struct CallCounts {
    outcomes: Mutex<BTreeMap<CallOutcome, u64>>,
    broken_off: Mutex<BTreeMap<&'static str, u64>>,
    injected: AtomicU64,
    missed: AtomicU64,
    echoed_in_head: AtomicU64,
    echoed_in_body: AtomicU64,
    echoed_in_trailers: AtomicU64,
    seconds: Histogram,
}

impl Default for CallCounts {
    fn default() -> Self {
        Self {
            outcomes: Mutex::default(),
            broken_off: Mutex::default(),
            injected: AtomicU64::default(),
            missed: AtomicU64::default(),
            echoed_in_head: AtomicU64::default(),
            echoed_in_body: AtomicU64::default(),
            echoed_in_trailers: AtomicU64::default(),
            seconds: Histogram::new(CALL_SECONDS),
        }
    }
}

impl CallCounts {
    /// Counts a call whose answer came from the upstream, `duration` after the call began.
    pub(crate) fn count_forwarded(&self, status: StatusCode, duration: Duration) {
        let outcome = CallOutcome {
            outcome: "FORWARDED",
            status_class: status_class(status),
        };
        self.count(outcome, duration);
    }

    /// Counts a call that the injector refused, `duration` after the call began.
    pub(crate) fn count_refused(&self, reason: Reason, duration: Duration) {
        let outcome = CallOutcome {
            outcome: reason.name(),
            status_class: status_class(reason.http_status()),
        };
        self.count(outcome, duration);
    }

    fn count(&self, outcome: CallOutcome, duration: Duration) {
        *lock(&self.outcomes).entry(outcome).or_default() += 1;
        self.seconds.observe(duration.as_secs_f64());
    }

    /// Counts a call that the injector ended before its end, after the answer had begun.
    pub(crate) fn count_broken_off(&self, refusal: &Refusal) {
        *lock(&self.broken_off).entry(refusal.reason.name()).or_default() += 1;
    }

    /// Adds to the numbers of secrets that requests got and that requests went without.
    pub(crate) fn count_secrets(&self, injected: usize, missed: usize) {
        for (count, secrets) in [(&self.injected, injected), (&self.missed, missed)] {
            count.fetch_add(u64::try_from(secrets).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// Counts an answer with the value of a secret in `part`.
    pub(crate) fn count_echo(&self, part: EchoPart) {
        self.echoed_in(part).fetch_add(1, Relaxed);
    }

    /// Returns the number of answers with the value of a secret in `part`.
    pub(crate) fn echoes(&self, part: EchoPart) -> u64 {
        self.echoed_in(part).load(Relaxed)
    }

    fn echoed_in(&self, part: EchoPart) -> &AtomicU64 {
        match part {
            EchoPart::Head => &self.echoed_in_head,
            EchoPart::Body => &self.echoed_in_body,
            EchoPart::Trailers => &self.echoed_in_trailers,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.outcomes).is_empty()
    }

    pub(crate) fn outcomes(&self) -> BTreeMap<CallOutcome, u64> {
        lock(&self.outcomes).clone()
    }

    /// Returns the number of calls that were broken off, for each reason.
    pub(crate) fn broken_off_by_reason(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.broken_off).clone()
    }

    pub(crate) fn injected(&self) -> u64 {
        self.injected.load(Relaxed)
    }

    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }

    /// Returns the histogram of the time from the head of a call to the head of its answer.
    pub(crate) fn seconds(&self) -> &Histogram {
        &self.seconds
    }
}

fn lock<T>(counts: &Mutex<T>) -> MutexGuard<'_, T> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

fn status_class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        // HTTP allows any number of three digits.
        _ => "other",
    }
}
