//! What `/metrics` shows of the vault.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use proto::{Reason, vault::v1::DecryptStatus};

/// Counters; clones count together.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    decrypts: Family<Outcome, Counter>,
    secrets: Family<Status, Counter>,
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
        metrics
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
