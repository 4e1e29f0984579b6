//! The parts of the log that hold no readable message.

use super::scan::Gap;

/// The gaps, in the log's order.
#[derive(Default)]
pub(in crate::store) struct Gaps(Vec<Gap>);

impl Gaps {
    pub(super) fn new(mut gaps: Vec<Gap>) -> Self {
        gaps.sort_by_key(|gap| gap.end);
        Self(gaps)
    }

    pub(in crate::store) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    pub(in crate::store) fn bytes(&self) -> u64 {
        self.0.iter().map(|gap| gap.bytes).fold(0, u64::saturating_add)
    }

    /// Returns the maximum number of messages that the gaps ending after `lsn` can have held.
    pub(in crate::store) fn messages_after(&self, lsn: u64) -> u64 {
        let after = self.0.partition_point(|gap| gap.end <= lsn);
        let after = self.0.get(after..).unwrap_or_default();
        after.iter().map(|gap| gap.messages).fold(0, u64::saturating_add)
    }

    /// Returns true when a message written after `from` and before `end` may be in a gap.
    pub(super) fn any_between(&self, from: u64, end: u64) -> bool {
        let after = self.0.partition_point(|gap| gap.end <= from);
        // Gaps do not overlap, except for gaps of unknown place, which come last.
        let nearest = [self.0.get(after), self.0.last()];
        nearest
            .into_iter()
            .flatten()
            .any(|gap| gap.end > from && gap.from < end)
    }
}
