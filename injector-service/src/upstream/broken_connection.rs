//! The refusal of a call whose connection broke.

use chassis::telemetry::{chain, field};
use proto::{CallId, Reason, Refusal};

use super::head;

/// Returns the refusal for a connection that broke, or whose answer had too large a head.
pub(super) fn broken(error: &(dyn std::error::Error + 'static), call_id: &CallId) -> Refusal {
    if let Some(refusal) = head::refusal(error) {
        return refusal;
    }
    tracing::debug!(
        { field::CALL_ID } = call_id.as_str(),
        error = chain(error),
        "upstream request failed"
    );
    let broken = "the upstream broke the connection before it answered";
    Refusal::new(Reason::UpstreamUnreachable, broken)
}
