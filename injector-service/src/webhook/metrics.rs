//! The metrics of the webhook. `docs/metrics.md` describes them for operators.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

/// Upper bounds of the buckets for the duration of a review, in seconds.
const REVIEW_SECONDS: [f64; 8] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0];

/// The outcome of a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Injected,
    /// The pod has its sidecar already.
    Complete,
    NotRequested,
    Denied,
    /// The review is not about the creation of a pod.
    Ignored,
    /// The request is not a review.
    Malformed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReviewLabels {
    outcome: &'static str,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Complete => "complete",
            Self::NotRequested => "not_requested",
            Self::Denied => "denied",
            Self::Ignored => "ignored",
            Self::Malformed => "malformed",
        }
    }
}

/// Clones count together.
#[derive(Debug, Clone)]
pub(super) struct WebhookMetrics {
    reviews: Family<ReviewLabels, Counter>,
    pub(super) seconds: Histogram,
    renewal_failures: Counter,
}

impl WebhookMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reviews: Family::default(),
            seconds: Histogram::new(REVIEW_SECONDS),
            renewal_failures: Counter::default(),
        };
        registry.register(
            "aerostack_webhook_reviews",
            "Reviews by outcome",
            metrics.reviews.clone(),
        );
        registry.register(
            "aerostack_webhook_review_duration_seconds",
            "Time from the whole request of a review to its answer",
            metrics.seconds.clone(),
        );
        registry.register(
            "aerostack_webhook_renewal_failures",
            "Attempts to renew the certificate of the webhook's own authority that failed",
            metrics.renewal_failures.clone(),
        );
        metrics
    }

    pub(super) fn count(&self, outcome: Outcome) {
        let labels = ReviewLabels {
            outcome: outcome.label(),
        };
        self.reviews.get_or_create(&labels).inc();
    }

    pub(super) fn count_renewal_failure(&self) {
        self.renewal_failures.inc();
    }
}
