//! The state of a request body while it is sent upstream.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use proto::{Reason, Refusal};

use crate::upstream::BodyError;

/// State that a request body shares with the call that sends it. HTTP libraries report only that a body failed, so the
/// body leaves the reason here. Clones share the state.
#[derive(Clone, Default)]
pub(super) struct UploadState(Arc<UploadShared>);

#[derive(Default)]
struct UploadShared {
    /// Set at most once, because a body ends with its first error.
    failure: OnceLock<Refusal>,
    secrets_pending: AtomicBool,
}

impl UploadState {
    /// Returns the reason why the body failed, if it did.
    pub(super) fn failure(&self) -> Option<Refusal> {
        self.0.failure.get().cloned()
    }

    /// Records why the injector stops sending the body, and returns the error in which the body has to end.
    pub(super) fn fail(&self, refusal: Refusal) -> BodyError {
        let _ = self.0.failure.set(refusal.clone());
        refusal.into()
    }

    /// Records that the program ended the body early. The call then fails for that reason, and not because the upstream
    /// saw an incomplete request.
    pub(super) fn fail_incomplete(&self, error: BodyError) -> BodyError {
        let _ = self.0.failure.set(incomplete());
        error
    }

    /// Returns true while secrets at the end of a large JSON body have not been sent.
    pub(super) fn are_secrets_pending(&self) -> bool {
        self.0.secrets_pending.load(Relaxed)
    }

    pub(super) fn set_secrets_pending(&self, are_pending: bool) {
        self.0.secrets_pending.store(are_pending, Relaxed);
    }
}

pub(super) fn incomplete() -> Refusal {
    Refusal::new(Reason::BodyInvalid, "the body ended before it was whole")
}
