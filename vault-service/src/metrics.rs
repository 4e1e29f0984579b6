//! The metrics of the vault. `docs/metrics.md` describes them for operators. No label names a workspace, because a vault
//! may have a hundred thousand workspaces.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use proto::{Reason, vault::v1::DecryptStatus};
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::{
    audit_log::AuditMetrics,
    store::DiskUsage,
    vault::{KeyMetrics, Writer},
};

/// Upper bounds of the buckets for the duration of a decrypt, in seconds. A decrypt takes some 20 µs, and longer when the
/// disk, the audit log or another principal's decrypts delay it.
const DECRYPT_SECONDS: [f64; 12] = [
    0.000_025, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5,
];
/// Interval at which the size of the store is measured.
const MEASURE_INTERVAL: Duration = Duration::from_secs(10);

/// The metrics of the vault. Clones count together.
#[derive(Clone)]
pub(crate) struct Metrics {
    decrypts: Family<OutcomeLabel, Counter>,
    checks: Family<OutcomeLabel, Counter>,
    /// Durations of decrypts, without the time in which they waited for their turn.
    decrypt_seconds: Histogram,
    secrets: Family<StatusLabel, Counter>,
    locked: Gauge,
    store: StoreMetrics,
    pub(crate) audit: AuditMetrics,
    pub(crate) keys: KeyMetrics,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            decrypts: Family::default(),
            checks: Family::default(),
            decrypt_seconds: Histogram::new(DECRYPT_SECONDS),
            secrets: Family::default(),
            locked: Gauge::default(),
            store: StoreMetrics::register(registry),
            audit: AuditMetrics::default(),
            keys: KeyMetrics::default(),
        };
        let decrypts = metrics.decrypts.clone();
        registry.register(
            "aerostack_vault_decrypts",
            "Decrypts, by OK or the reason of the refusal",
            decrypts,
        );
        let checks = metrics.checks.clone();
        registry.register(
            "aerostack_vault_decrypt_checks",
            "Decrypts with check_only, which return no value, by OK or the reason of the refusal",
            checks,
        );
        registry.register(
            "aerostack_vault_decrypt_duration_seconds",
            "Time from the turn of a decrypt to its answer",
            metrics.decrypt_seconds.clone(),
        );
        let secrets = metrics.secrets.clone();
        registry.register(
            "aerostack_vault_decrypted_secrets",
            "Secrets in decrypts, by the status of their answer",
            secrets,
        );
        let locked = metrics.locked.clone();
        registry.register(
            "aerostack_vault_sealed",
            "1 while the vault has no root key and decrypts nothing, otherwise 0",
            locked,
        );
        let AuditMetrics {
            lines,
            omitted,
            failing,
        } = metrics.audit.clone();
        registry.register("aerostack_vault_audit_lines", "Lines of the audit log", lines);
        registry.register(
            "aerostack_vault_audit_omitted",
            "Lines left out of the audit log, which itself has a line about the gap",
            omitted,
        );
        registry.register(
            "aerostack_vault_audit_failing",
            "Whether the audit log cannot be written",
            failing,
        );
        let KeyMetrics {
            rewrapped,
            under_way,
            unreadable,
            unerased,
            unerased_since,
        } = metrics.keys.clone();
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
            "Workspaces with deleted data that are not erased from the store's files yet",
            unerased,
        );
        registry.register(
            "aerostack_vault_unerased_since_seconds",
            "Time of the oldest deletion that is not erased yet, in seconds since 1970; 0 without any",
            unerased_since,
        );
        metrics
    }

    /// Measures the size of the store at intervals, until `stop` is cancelled.
    pub(crate) async fn measure_store(self, writer: Writer, stop: CancellationToken) {
        let mut ticks = time::interval(MEASURE_INTERVAL);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            match writer.disk_usage().await {
                Ok(usage) => self.store.show(usage),
                Err(error) => tracing::warn!(%error, "the size of the store could not be measured"),
            }
        }
    }

    pub(crate) fn set_locked(&self, is_locked: bool) {
        self.locked.set(is_locked.into());
    }

    /// Counts one decrypt. A decrypt with `check_only` counts apart, because it belongs to no call: the console makes one for every
    /// page that explains a server.
    pub(crate) fn decrypt(&self, check_only: bool, refused: Option<Reason>) {
        let counter = match check_only {
            true => &self.checks,
            false => &self.decrypts,
        };
        let outcome = refused.map_or("OK", Reason::name);
        counter.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub(crate) fn decrypt_duration(&self, duration: Duration) {
        self.decrypt_seconds.observe(duration.as_secs_f64());
    }

    pub(crate) fn secret(&self, status: DecryptStatus) {
        let status = match status {
            DecryptStatus::Unspecified | DecryptStatus::Ok => "ok",
            DecryptStatus::NotFound => "not_found",
            DecryptStatus::Expired => "expired",
            DecryptStatus::DataLoss => "data_loss",
            DecryptStatus::KeyNotLoaded => "key_not_loaded",
        };
        self.secrets.get_or_create(&StatusLabel { status }).inc();
    }
}

#[derive(Clone, Default)]
struct StoreMetrics {
    bytes: Gauge,
    free: Gauge,
}

impl StoreMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "aerostack_vault_store_bytes",
            "Size of the store's files",
            metrics.bytes.clone(),
        );
        registry.register(
            "aerostack_vault_store_free_bytes",
            "Free space of the file system that has the store; -1 when the file system does not report it",
            metrics.free.clone(),
        );
        metrics
    }

    fn show(&self, DiskUsage { bytes, free }: DiskUsage) {
        let shown = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.bytes.set(shown(bytes));
        self.free.set(free.map_or(-1, shown));
    }
}
