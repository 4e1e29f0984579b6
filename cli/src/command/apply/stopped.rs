//! The failure of an apply that stopped at one of its changes.

use proto::{Reason, WorkspaceName};

use super::text::change_name;
use crate::{
    failure::{Failure, FailureKind},
    manifest::change::PlannedChange,
};

/// Adds to a failure the changes that were made before it and those that were not made. The failed change is among neither when
/// the service may have made it.
pub(super) fn stopped_at(
    workspace: &WorkspaceName,
    number: usize,
    changes: &[PlannedChange],
    failure: Failure,
) -> Failure {
    let names = |changes: &[PlannedChange]| {
        let names: Vec<_> = changes
            .iter()
            .map(|change| change_name(workspace, &change.step))
            .collect();
        match names.is_empty() {
            true => "nothing".to_owned(),
            false => names.join(", "),
        }
    };
    let (made, rest) = changes.split_at_checked(number).unwrap_or((changes, &[]));
    let (failed, later) = rest.split_at_checked(1).unwrap_or((rest, &[]));
    let (failed_name, message) = (names(failed), &failure.message);
    let made = names(made);
    if !is_outcome_unknown(&failure) {
        let message = format!(
            "{failed_name}: {message}; applied before: {made}; not applied: {}",
            names(rest)
        );
        return Failure { message, ..failure };
    }
    let again = "run the same command again: it compares with the present state, and makes what is missing";
    let hint = match &failure.hint {
        Some(hint) => format!("{hint}; then {again}"),
        None => again.to_owned(),
    };
    let message = format!(
        "{failed_name}: {message}; applied before: {made}; not known whether it was applied: {failed_name}; not applied: {}",
        names(later)
    );
    Failure { message, ..failure }.hint(hint)
}

/// Returns true when the service may have made the change in spite of the failure.
fn is_outcome_unknown(failure: &Failure) -> bool {
    let reasons = [Reason::OutcomeUnknown, Reason::StorageFullOutcomeUnknown];
    matches!(failure.kind, FailureKind::Unavailable | FailureKind::Internal)
        || failure.reason.is_some_and(|reason| reasons.contains(&reason))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use proto::ServerName;

    use super::*;
    use crate::manifest::change::Step;

    #[test]
    fn a_change_whose_outcome_is_unknown_is_not_called_unapplied() {
        let workspace = WorkspaceName::parse("w").unwrap();
        let change = |name: &str| PlannedChange {
            step: Step::RemoveServer {
                name: ServerName::parse(name).unwrap(),
                revision: 1,
                is_added_again: false,
            },
            fields: Vec::new(),
        };
        let changes = ["a", "b", "c"].map(change);
        let stopped = |kind, reason| {
            let failure = Failure {
                reason,
                ..Failure::new(kind, "it failed")
            };
            stopped_at(&workspace, 1, &changes, failure)
        };
        let refused = stopped(FailureKind::Refused, Some(Reason::PlanLimitReached));
        assert_eq!(
            refused.message,
            "delete server b: it failed; applied before: delete server a; not applied: delete server b, delete server c"
        );
        for (kind, reason) in [
            (FailureKind::Unavailable, None),
            (FailureKind::Internal, None),
            (FailureKind::Refused, Some(Reason::StorageFullOutcomeUnknown)),
        ] {
            let unknown = stopped(kind, reason);
            assert_eq!(
                unknown.message,
                "delete server b: it failed; applied before: delete server a; not known whether it was applied: delete server \
                 b; not applied: delete server c"
            );
            assert!(unknown.hint.unwrap().contains("run the same command again"));
        }
    }
}
