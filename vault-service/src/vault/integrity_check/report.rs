//! The result of a check.

use super::damage::RepairOutcome;
use crate::store::LogDamage;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct IntegrityReport {
    /// Number of workspaces whose active KEK can be unwrapped.
    pub workspaces: u64,
    /// Number of secrets of which a version authenticates.
    pub secrets: u64,
    /// Number of further versions that authenticate.
    pub older: u64,
    /// Number of damaged items by outcome: kept, older than acknowledged, lost, and doubtful.
    pub damage_by_outcome: [u64; 4],
    /// Extent to which the log could be read.
    pub log_damage: LogDamage,
    /// Reason for which the vault would refuse to open the store; `None` if it would open the store.
    pub refusal: Option<String>,
}

impl IntegrityReport {
    pub fn damaged(&self) -> u64 {
        self.damage_by_outcome.iter().sum()
    }

    /// Returns true when the store has all acknowledged data.
    pub fn is_complete(&self) -> bool {
        self.damaged() == 0 && self.log_damage.lost_nothing()
    }

    /// Returns true when the store has all acknowledged data, has no corrected errors, and can be opened.
    pub fn is_sound(&self) -> bool {
        self.is_complete() && self.log_damage.corrected_messages == 0 && self.refusal.is_none()
    }

    pub(super) fn count(&mut self, outcome: RepairOutcome) {
        let [kept, older, lost, doubtful] = &mut self.damage_by_outcome;
        *match outcome {
            RepairOutcome::Kept => kept,
            RepairOutcome::Older => older,
            RepairOutcome::Lost => lost,
            RepairOutcome::Doubtful => doubtful,
        } += 1;
    }
}

/// Treatment of secrets that may have been deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoubtfulSecrets {
    LeaveOut,
    Keep,
}
