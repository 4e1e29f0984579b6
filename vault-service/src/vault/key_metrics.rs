//! Metrics of rotations and erasures.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use prost_types::Timestamp;

/// Metrics of rotations and erasures. Clones count together.
#[derive(Clone, Default)]
pub(crate) struct KeyMetrics {
    /// Records and workspaces that were moved to another key.
    pub(crate) rewrapped: Family<RotationLevel, Counter>,
    /// Rotations that are under way.
    pub(crate) under_way: Gauge,
    /// Records and workspaces that the rotations under way could not move in their last pass.
    pub(crate) unreadable: Gauge,
    /// Workspaces with deleted data that a holder of the store's files and the root key can still decrypt.
    pub(crate) unerased: Gauge,
    /// Time of the oldest of these deletions, in seconds since 1970; 0 if there is none.
    pub(crate) unerased_since: Gauge,
}

/// Metric label: what a rotation moves to another key.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct RotationLevel {
    level: &'static str,
}

impl RotationLevel {
    pub(super) const RECORDS: Self = Self { level: "record" };
    pub(super) const WORKSPACES: Self = Self { level: "workspace" };
}

/// The deletions that are not erased yet: the store's files still give the deleted values to the holder of the root key.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct PendingErasure {
    /// Number of workspaces with such deletions, deleted workspaces included.
    pub(crate) workspaces: u64,
    /// Time of the oldest of them.
    pub(crate) since: Option<Timestamp>,
}

impl KeyMetrics {
    pub(super) fn add_rewrapped(&self, level: RotationLevel, count: usize) {
        self.rewrapped
            .get_or_create(&level)
            .inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    pub(super) fn set_pending(&self, pending: &PendingErasure) {
        let PendingErasure { workspaces, since } = pending;
        self.unerased.set(i64::try_from(*workspaces).unwrap_or(i64::MAX));
        self.unerased_since.set(since.map_or(0, |since| since.seconds));
    }
}
