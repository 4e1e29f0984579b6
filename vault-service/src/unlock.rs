//! Background work on keys: unlocking, following a KMS, continuing rotations, and erasing.

use std::time::Duration;

use chassis::{health::GrpcHealth, telemetry::chain};
use proto::{WorkspaceName, vault::v1::decrypt_service_server::DecryptServiceServer};
use tokio::time;

use crate::{
    audit_log::{AuditLog, Event, Line, Lines},
    metrics::Metrics,
    service::DecryptRpcs,
    vault::Writer,
};

/// Pause after the first failed attempt to unlock; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two attempts to unlock.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Interval at which the vault asks a KMS whether it has another key.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(60);

/// The task that unlocks the vault, and then maintains its keys.
pub(crate) struct UnlockTask {
    pub(crate) writer: Writer,
    pub(crate) health: GrpcHealth,
    pub(crate) metrics: Metrics,
    pub(crate) audit_log: AuditLog,
    pub(crate) erase_after: Duration,
}

impl UnlockTask {
    /// Shows in the health service and in the metrics whether the vault is locked.
    pub(crate) async fn show(&self) {
        let is_locked = self.writer.is_locked();
        self.metrics.set_locked(is_locked);
        self.health.set("", !is_locked).await;
        let decrypting = <DecryptServiceServer<DecryptRpcs> as tonic::server::NamedService>::NAME;
        self.health.set(decrypting, !is_locked).await;
    }

    /// Unlocks the vault and then maintains its keys. Never returns.
    pub(crate) async fn run(self) {
        let mut pause = FIRST_PAUSE;
        while self.writer.is_locked() {
            match self.writer.unlock().await {
                Ok(()) => {
                    tracing::info!("the vault is unlocked");
                    self.note_unlocked();
                }
                Err(error) => {
                    tracing::warn!(
                        error = chain(&error),
                        "the vault is locked: its root key is not available yet"
                    );
                    time::sleep(pause).await;
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            }
        }
        self.show().await;
        let ended = |workspace: Option<&str>| self.note_rotation_end(workspace);
        tokio::join!(
            self.writer
                .maintain_keys(&self.metrics.keys, self.erase_after, ended),
            self.follow_kms(),
        );
    }

    pub(crate) fn note_unlocked(&self) {
        self.audit_log.enqueue(Lines::of(&Line::new(Event::Unlocked)));
    }

    /// Notes the end of a rotation in the audit log. `workspace` is `None` for the store key.
    fn note_rotation_end(&self, workspace: Option<&str>) {
        let workspace = workspace.and_then(|name| WorkspaceName::parse(name).ok());
        let line = Line {
            workspace: workspace.as_ref(),
            ..Line::new(Event::RotationEnded)
        };
        self.audit_log.enqueue(Lines::of(&line));
    }

    async fn follow_kms(&self) {
        loop {
            if let Err(error) = self.writer.follow_kms().await {
                tracing::warn!(error = chain(&error), "the KMS could not be asked about its key");
            }
            time::sleep(FOLLOW_INTERVAL).await;
        }
    }
}
