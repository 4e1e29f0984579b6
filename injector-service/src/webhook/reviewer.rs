//! Answers reviews with the settings of the webhook, and counts them.

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, Semaphore};

use super::{
    metrics::{Outcome, WebhookMetrics},
    review::{ReviewError, ReviewRequest},
    sidecar::InjectionSettings,
};

/// The state that all reviews share.
pub(super) struct Reviewer {
    pub(super) injection: InjectionSettings,
    /// The CAs of the vault, PEM.
    pub(super) vault_ca: Arc<ArcSwap<String>>,
    pub(super) metrics: WebhookMetrics,
    /// The right to hold a request's body in memory.
    pub(super) bodies: Semaphore,
    /// Held during a review, so that one body is parsed at a time: a parsed body needs many times its length.
    pub(super) review: Mutex<()>,
}

impl Reviewer {
    /// Returns the answer to a review, both as JSON.
    pub(super) async fn answer(&self, body: &[u8]) -> Result<String, ReviewError> {
        let _alone = self.review.lock().await;
        let began = Instant::now();
        let request = ReviewRequest::parse(body)?;
        let answered = request.review(&self.injection, &self.vault_ca.load());
        self.metrics.count(answered.outcome);
        self.metrics.seconds.observe(began.elapsed().as_secs_f64());
        Ok(answered.answer.to_string())
    }

    /// Counts a request that is not a review.
    pub(super) fn count_malformed(&self) {
        self.metrics.count(Outcome::Malformed);
    }
}
