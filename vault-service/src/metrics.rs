//! What `/metrics` shows of the vault.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use proto::{Reason, vault::v1::DecryptStatus};

use crate::{audit_log::AuditMetrics, vault::Progress};

/// Counters; clones count together.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    decrypts: Family<Outcome, Counter>,
    secrets: Family<Status, Counter>,
    sealed: Gauge,
    /// Metrics of the audit log.
    pub(crate) audit: AuditMetrics,
    /// Of the rotations of keys.
    pub(crate) rotations: Progress,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Status {
    status: &'static str,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let decrypts = metrics.decrypts.clone();
        registry.register(
            "aerostack_vault_decrypts",
            "Decrypts answered, by OK or the reason of the refusal",
            decrypts,
        );
        let secrets = metrics.secrets.clone();
        registry.register(
            "aerostack_vault_decrypted_secrets",
            "Secrets asked for, by what became of them",
            secrets,
        );
        let sealed = metrics.sealed.clone();
        registry.register(
            "aerostack_vault_sealed",
            "Whether the root key is still to come",
            sealed,
        );
        let AuditMetrics {
            lines,
            omitted,
            failing,
        } = metrics.audit.clone();
        registry.register("aerostack_vault_audit_lines", "Lines of the audit log", lines);
        registry.register(
            "aerostack_vault_audit_omitted",
            "Lines left out of the audit log, which it tells of",
            omitted,
        );
        registry.register(
            "aerostack_vault_audit_failing",
            "Whether the audit log cannot be written",
            failing,
        );
        let Progress {
            rewrapped,
            under_way,
            unreadable,
            unerased,
            unerased_since,
        } = metrics.rotations.clone();
        registry.register(
            "aerostack_vault_rewrapped",
            "Records and workspaces moved to another key",
            rewrapped,
        );
        registry.register(
            "aerostack_vault_rotations",
            "Rotations of keys that are under way",
            under_way,
        );
        registry.register(
            "aerostack_vault_rotations_unreadable",
            "Records and workspaces that rotations under way could not move",
            unreadable,
        );
        registry.register(
            "aerostack_vault_unerased_workspaces",
            "Workspaces in which something was deleted that is not erased from the store's files yet",
            unerased,
        );
        registry.register(
            "aerostack_vault_unerased_since_seconds",
            "When the first of that was deleted, in seconds since 1970; 0 without any",
            unerased_since,
        );
        metrics
    }

    pub(crate) fn sealed(&self, sealed: bool) {
        self.sealed.set(sealed.into());
    }

    pub(crate) fn decrypt(&self, refused: Option<Reason>) {
        self.decrypts
            .get_or_create(&Outcome {
                outcome: refused.map_or("OK", Reason::name),
            })
            .inc();
    }

    pub(crate) fn secret(&self, status: DecryptStatus) {
        let status = match status {
            DecryptStatus::Unspecified | DecryptStatus::Ok => "ok",
            DecryptStatus::NotFound => "not_found",
            DecryptStatus::DataLoss => "data_loss",
            DecryptStatus::KeyNotLoaded => "key_not_loaded",
        };
        self.secrets.get_or_create(&Status { status }).inc();
    }
}
