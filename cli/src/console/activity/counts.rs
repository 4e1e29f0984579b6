//! Numbers of calls, since a service started or between two samples.

use std::collections::BTreeMap;

use super::histogram::Histogram;

/// Largest number of different reasons that are counted. The protocol has fewer.
const MAX_REASONS: usize = 200;

/// Numbers of calls to one server of the injector, or of decrypts of the vault.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) calls: u64,
    /// Calls that the upstream answered with 5xx, and calls that were broken off.
    pub(crate) errors: u64,
    pub(crate) refused: u64,
    /// Secrets that a call went without.
    pub(crate) missed: u64,
    pub(crate) refusals: BTreeMap<String, u64>,
    pub(crate) seconds: Histogram,
}

impl Counts {
    pub(super) fn refuse(&mut self, reason: &str, number: u64) {
        self.refused = self.refused.saturating_add(number);
        if self.refusals.len() < MAX_REASONS {
            let sum = self.refusals.entry(reason.to_owned()).or_default();
            *sum = sum.saturating_add(number);
        }
    }

    /// Returns what was added since `before`. Counters that fell began anew, and everything that they count was added.
    pub(super) fn since(&self, before: &Self) -> Self {
        self.difference(before).unwrap_or_else(|| self.clone())
    }

    fn difference(&self, before: &Self) -> Option<Self> {
        let mut refusals = BTreeMap::new();
        for (reason, number) in &self.refusals {
            let old = before.refusals.get(reason).copied().unwrap_or_default();
            match number.checked_sub(old)? {
                0 => {}
                added => drop(refusals.insert(reason.clone(), added)),
            }
        }
        Some(Self {
            calls: self.calls.checked_sub(before.calls)?,
            errors: self.errors.checked_sub(before.errors)?,
            refused: self.refused.checked_sub(before.refused)?,
            missed: self.missed.checked_sub(before.missed)?,
            refusals,
            seconds: self.seconds.since(&before.seconds)?,
        })
    }

    pub(super) fn add(&mut self, other: &Self) {
        let Self {
            calls,
            errors,
            refused,
            missed,
            refusals,
            seconds,
        } = other;
        self.calls = self.calls.saturating_add(*calls);
        self.errors = self.errors.saturating_add(*errors);
        self.refused = self.refused.saturating_add(*refused);
        self.missed = self.missed.saturating_add(*missed);
        for (reason, number) in refusals {
            let sum = self.refusals.entry(reason.clone()).or_default();
            *sum = sum.saturating_add(*number);
        }
        self.seconds.add(seconds);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls == 0 && self.errors == 0 && self.missed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(calls: u64, refused: u64) -> Counts {
        let mut counts = Counts {
            calls,
            ..Counts::default()
        };
        counts.refuse("SECRET_MISSING", refused);
        counts
    }

    #[test]
    fn counters_that_fell_began_anew() {
        assert_eq!(counts(7, 3).since(&counts(5, 1)), counts(2, 2));
        assert_eq!(counts(2, 1).since(&counts(5, 1)), counts(2, 1));
        let quiet = counts(5, 1).since(&counts(5, 1));
        assert!(quiet.is_empty() && quiet.refusals.is_empty());
    }

    #[test]
    fn endless_reasons_are_not_kept() {
        let mut counts = Counts::default();
        (0..1_000).for_each(|number| counts.refuse(&format!("REASON_{number}"), 1));
        assert_eq!((counts.refused, counts.refusals.len()), (1_000, MAX_REASONS));
    }
}
