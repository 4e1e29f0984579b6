//! Background work on keys: unsealing, following a KMS, continuing rotations, and erasing.

use std::time::Duration;

use chassis::{health::GrpcHealth, telemetry::chain};
use proto::{WorkspaceName, vault::v1::decrypt_service_server::DecryptServiceServer};
use tokio::time;

use crate::{
    audit_log::{AuditLog, Event, Line, Lines},
    metrics::Metrics,
    service::Decrypting,
    vault::Writer,
};

/// How long to wait before a provider is asked again: the first time, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// How often a KMS is asked whether it has another key by now.
const FOLLOW: Duration = Duration::from_secs(60);

/// Whom it concerns whether the vault is sealed.
pub(crate) struct Unsealing {
    pub(crate) writer: Writer,
    pub(crate) health: GrpcHealth,
    pub(crate) metrics: Metrics,
    pub(crate) audit_log: AuditLog,
    pub(crate) erase_after: Duration,
}

impl Unsealing {
    /// Says whether the vault is sealed, to who asks for its health.
    pub(crate) async fn show(&self) {
        let sealed = self.writer.is_sealed();
        self.metrics.sealed(sealed);
        self.health.set("", !sealed).await;
        let decrypting = <DecryptServiceServer<Decrypting> as tonic::server::NamedService>::NAME;
        self.health.set(decrypting, !sealed).await;
    }

    /// Does so for as long as the vault serves. Does not return.
    pub(crate) async fn keep(self) {
        let (mut pause, longest) = PAUSES;
        while self.writer.is_sealed() {
            match self.writer.unseal().await {
                Ok(()) => {
                    tracing::info!("unsealed");
                    self.note_unsealed();
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), "sealed; the root key is not to be had yet");
                    time::sleep(pause).await;
                    pause = longest.min(pause * 2);
                }
            }
        }
        self.show().await;
        let ended = |workspace: Option<&str>| self.note_rotation_end(workspace);
        tokio::join!(
            self.writer
                .take_rotations_further(&self.metrics.rotations, self.erase_after, ended),
            self.follow_kms(),
        );
    }

    /// Notes in the audit log that the vault was unsealed.
    pub(crate) fn note_unsealed(&self) {
        self.audit_log.note(Lines::of(&Line::new(Event::Unsealed)));
    }

    /// Notes the end of a rotation in the audit log. `workspace` is `None` for the store key.
    fn note_rotation_end(&self, workspace: Option<&str>) {
        let workspace = workspace.and_then(|name| WorkspaceName::parse(name).ok());
        let line = Line {
            workspace: workspace.as_ref(),
            ..Line::new(Event::RotationEnded)
        };
        self.audit_log.note(Lines::of(&line));
    }

    async fn follow_kms(&self) {
        loop {
            if let Err(error) = self.writer.follow_kms().await {
                tracing::warn!(error = chain(&error), "the KMS could not be asked about its key");
            }
            time::sleep(FOLLOW).await;
        }
    }
}
