//! The background loop that continues rotations and erases deleted data.

use std::time::Duration;

use tokio::time;

use super::{
    VaultError, Writer,
    erasure::{NextErasure, RETRY},
    key_metrics::KeyMetrics,
};

impl Writer {
    /// Continues all rotations, step by step and in turn, and begins rotations that erase data deleted longer than
    /// `erase_after` ago. Never returns. Calls `ended` at the end of each rotation, with the name of the workspace, or
    /// with `None` for the store key.
    pub(crate) async fn maintain_keys(
        &self,
        metrics: &KeyMetrics,
        erase_after: Duration,
        ended: impl Fn(Option<&str>),
    ) {
        loop {
            let pause = match self.rotate_and_erase(metrics, erase_after, &ended).await {
                Ok(NextErasure::Begun) => continue,
                Ok(NextErasure::In(pause)) => pause,
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "the rotation of keys, or the erasure of deleted data, stopped; the vault tries it again"
                    );
                    RETRY
                }
            };
            // After each of these events a rotation may have work to do.
            tokio::select! {
                () = self.keys_changed.notified() => {}
                () = self.store.wait_for_room() => {}
                () = time::sleep(pause) => {}
            }
        }
    }

    pub(super) async fn rotate_and_erase(
        &self,
        metrics: &KeyMetrics,
        erase_after: Duration,
        ended: &impl Fn(Option<&str>),
    ) -> Result<NextErasure, VaultError> {
        self.continue_rotations(metrics, ended).await?;
        self.begin_erasure(erase_after, metrics).await
    }
}
