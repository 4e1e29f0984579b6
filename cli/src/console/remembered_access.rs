//! Answers to the question whether the identity of the console may change the secrets of a workspace.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Time for which an answer is remembered. The vault reads its roles when it starts, and each question is a line of its audit
/// log.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Number of answers that are remembered.
const MAX_REMEMBERED: usize = 1_000;

/// The answers, by workspace.
#[derive(Default)]
pub(super) struct RememberedAccess(Mutex<HashMap<String, (bool, Instant)>>);

impl RememberedAccess {
    pub(super) fn get(&self, workspace: &str) -> Option<bool> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (may_edit, asked) = answers.get(workspace)?;
        (asked.elapsed() < REMEMBERED).then_some(*may_edit)
    }

    pub(super) fn keep(&self, workspace: &str, may_edit: bool) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MAX_REMEMBERED {
            answers.clear();
        }
        answers.insert(workspace.to_owned(), (may_edit, Instant::now()));
    }
}
