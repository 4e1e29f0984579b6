//! Answers to the questions what the identity of the console may do in a workspace and in the whole vault.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Time for which an answer is remembered. Each question is a refused call, which the services log and count, and a page must
/// not cause one whenever somebody looks at it. Roles change only when a service starts again.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Number of answers that are remembered.
const MAX_REMEMBERED: usize = 1_000;

/// A question that no RPC answers without a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Question {
    /// Asked only for an identity that is no administrator of the workspace.
    ChangeSecrets,
    ChangeServers,
    /// Belongs to no workspace: its answers are those for the workspace without a name.
    AdministerVault,
}

/// The answers, by question and workspace.
#[derive(Default)]
pub(super) struct RememberedAccess(Mutex<HashMap<(Question, String), (bool, Instant)>>);

impl RememberedAccess {
    pub(super) fn get(&self, question: Question, workspace: &str) -> Option<bool> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (may, asked) = answers.get(&(question, workspace.to_owned()))?;
        (asked.elapsed() < REMEMBERED).then_some(*may)
    }

    pub(super) fn keep(&self, question: Question, workspace: &str, may: bool) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MAX_REMEMBERED {
            answers.clear();
        }
        answers.insert((question, workspace.to_owned()), (may, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_remembered_for_its_question_and_workspace() {
        let answers = RememberedAccess::default();
        answers.keep(Question::ChangeServers, "w", false);
        answers.keep(Question::ChangeSecrets, "w", true);
        assert_eq!(answers.get(Question::ChangeServers, "w"), Some(false));
        assert_eq!(answers.get(Question::ChangeSecrets, "w"), Some(true));
        assert_eq!(answers.get(Question::ChangeServers, "v"), None);
    }
}
