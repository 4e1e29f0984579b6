//! A copy of a request, for when the upstream closes its connection without processing the request.
//!
//! The copy holds the bytes that the program sent, up to `--max-buffered-body`, until the upstream has responded. It
//! holds no secrets: these are decrypted and put in anew when the request is sent again.

use std::time::Duration;

use http::{HeaderMap, Version};
use proto::{Reason, Refusal};
use tokio::time::sleep;

use super::{context::CallContext, prepare::BareRequest};
use crate::proxy::{received_body::ReceivedBody, replay::ReplayBuffer};

/// The most retries of one request. Before each of them, another connection of the server has refused the request.
const MAX_RETRIES: u32 = 10;
/// The longest pause before the second retry. The pause doubles with each further retry; the first retry has no pause.
const FIRST_PAUSE: Duration = Duration::from_millis(4);

pub(super) struct RequestCopy {
    headers: HeaderMap,
    body: Option<ReplayBuffer>,
    version: Version,
    retries: u32,
}

impl RequestCopy {
    /// Returns the copy, and the request, whose body fills the copy while it is read.
    pub(super) fn of(request: BareRequest, context: CallContext<'_>) -> (Self, BareRequest) {
        let BareRequest { headers, body } = request;
        let limit = context.proxy.limits.max_buffered_body;
        let (body, replay) = body.replayable(limit, context.proxy.budget.empty_reservation());
        let copy = Self {
            headers: headers.clone(),
            body: replay,
            version: context.version,
            retries: 0,
        };
        (copy, BareRequest { headers, body })
    }

    /// Waits, and returns the request to send again. The pause is random, so that calls which an upstream refused at
    /// the same time do not return at the same time.
    pub(super) async fn again(&mut self) -> Result<BareRequest, Refusal> {
        if self.retries == MAX_RETRIES {
            let message = format!(
                "the upstream accepted the request {} times, and closed each connection without processing it",
                MAX_RETRIES + 1
            );
            return Err(Refusal::new(Reason::UpstreamUnreachable, message));
        }
        let body = self
            .body
            .as_ref()
            .and_then(|replay| ReceivedBody::replay(replay, self.version))
            .ok_or_else(not_copied)?;
        if self.retries > 0 {
            sleep(pause(self.retries)).await;
        }
        self.retries += 1;
        let headers = self.headers.clone();
        Ok(BareRequest { headers, body })
    }
}

/// Returns a random pause, or none at all when the system has no randomness.
fn pause(retries: u32) -> Duration {
    let most = FIRST_PAUSE * (1 << (retries - 1));
    let mut random = [0; 1];
    let _ = getrandom::fill(&mut random);
    most * u32::from(random[0]) / 255
}

pub(super) fn not_copied() -> Refusal {
    let message = "the upstream did not process the request, whose body was too large to be kept and sent again; \
                   see --max-buffered-body";
    Refusal::new(Reason::UpstreamUnreachable, message)
}
