//! Answers reviews with the settings of the webhook, and counts them.

use std::time::Instant;

use chassis::tls::Reloading;
use tokio::sync::Mutex;

use super::{
    bodies::Bodies,
    metrics::{Outcome, WebhookMetrics},
    review::{ReviewError, ReviewRequest},
    sidecar::InjectionSettings,
};

/// The state that all reviews share.
pub(super) struct Reviewer {
    pub(super) injection: InjectionSettings,
    /// The CAs of the vault, PEM.
    pub(super) vault_ca: Reloading<String>,
    pub(super) metrics: WebhookMetrics,
    pub(super) bodies: Bodies,
    /// Held during a review, so that one body is parsed at a time: a parsed body needs many times its length.
    pub(super) one_at_a_time: Mutex<()>,
}

impl Reviewer {
    /// Returns the answer to a review, both as JSON.
    pub(super) async fn answer(&self, body: &[u8]) -> Result<String, ReviewError> {
        let _alone = self.one_at_a_time.lock().await;
        let began = Instant::now();
        let request = ReviewRequest::parse(body)?;
        let vault_ca = self.vault_ca.current();
        let vault_ca = vault_ca.expect("the content of a file is there from the start");
        let answered = request.review(&self.injection, &vault_ca);
        self.metrics.count(answered.outcome);
        self.metrics.seconds.observe(began.elapsed().as_secs_f64());
        Ok(answered.answer.to_string())
    }

    /// Counts a request that is not a review.
    pub(super) fn count_malformed(&self) {
        self.metrics.count(Outcome::Malformed);
    }
}
