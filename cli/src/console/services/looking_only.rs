//! The workspaces whose servers this identity may not change.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Time for which a refusal is remembered. The injector logs and counts each refusal, and a page must not cause one whenever
/// somebody looks at it. Roles change only when the injector starts again.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The refusals of the last minute, by workspace.
#[derive(Default)]
pub(super) struct LookingOnly(Mutex<HashMap<String, Instant>>);

impl LookingOnly {
    pub(super) fn has(&self, workspace: &str) -> bool {
        let refused = self.locked().get(workspace).copied();
        refused.is_some_and(|at| at.elapsed() < REMEMBERED)
    }

    pub(super) fn remember(&self, workspace: &str) {
        let mut refused = self.locked();
        refused.retain(|_, at| at.elapsed() < REMEMBERED);
        refused.insert(workspace.to_owned(), Instant::now());
    }

    /// A panic while the lock is held leaves no state that a later request must not see.
    fn locked(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_remembered_for_its_workspace() {
        let refused = LookingOnly::default();
        refused.remember("w");
        assert!(refused.has("w") && !refused.has("v"));
    }
}
