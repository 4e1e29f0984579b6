//! The key set of one issuer: read in the background, and read early when a token names an unknown key.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::{self, Instant},
};

use super::{
    key_set::KeySet,
    metrics::JwtMetrics,
    public_key::{Algorithm, PublicKey},
    refusal::TokenRefusal,
    setting::IssuerSetting,
    source::SourceError,
};
use crate::telemetry::chain;

/// Time for which the last key set counts while the issuer does not answer.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// Longest time for which a token waits for its issuer's key set. It is a little longer than a discovery and a key set may
/// take.
const MAX_WAIT: Duration = Duration::from_secs(11);

/// An issuer and its keys. All tokens of the issuer share one reader, [`IssuerKeys::keep_fresh`], so that at most one read
/// runs at a time, and unknown keys cause one read in each [`IssuerSetting::retry_interval`], however many tokens name them.
pub(super) struct IssuerKeys {
    pub(super) setting: IssuerSetting,
    state: watch::Sender<KeyState>,
    /// Notified when a token names an unknown key.
    wanted: Notify,
}

#[derive(Clone, Default)]
struct KeyState {
    keys: Option<Arc<KeySet>>,
    /// Number of different key sets so far. The keys of two equal generations are the same.
    generation: u64,
    /// Time of the last successful read.
    read_at: Option<Instant>,
    /// Number of reads that have ended.
    reads: u64,
    /// Earliest time of a read that an unknown key causes.
    next_read: Option<Instant>,
}

impl KeyState {
    /// Returns the keys, unless they are too old.
    fn usable(&self) -> Option<&Arc<KeySet>> {
        let age = self.read_at?.elapsed();
        self.keys.as_ref().filter(|_| age <= MAX_AGE)
    }
}

/// A key and the generation of the key set that it was found in.
pub(super) struct FoundKey {
    pub(super) key: PublicKey,
    pub(super) generation: u64,
}

impl IssuerKeys {
    pub(super) fn new(setting: IssuerSetting) -> Self {
        Self {
            setting,
            state: watch::Sender::default(),
            wanted: Notify::new(),
        }
    }

    /// Returns the number of the present key set; `None` when there is none that may be used.
    pub(super) fn generation(&self) -> Option<u64> {
        let state = self.state.borrow();
        state.usable().map(|_| state.generation)
    }

    /// Returns the key for a token. Waits for one read of the key set when the key is not known, unless the last read was a
    /// moment ago.
    pub(super) async fn find(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<FoundKey, TokenRefusal> {
        let reads = match self.known(kid, algorithm) {
            Ok(found) => return Ok(found),
            Err(_) => self.state.borrow().reads,
        };
        if self.may_read() {
            let mut state = self.state.subscribe();
            self.wanted.notify_one();
            let reading = state.wait_for(|state| state.reads > reads);
            // After the time limit the keys are as unknown as before.
            drop(time::timeout(MAX_WAIT, reading).await);
        }
        self.known(kid, algorithm)
    }

    fn known(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<FoundKey, TokenRefusal> {
        let state = self.state.borrow();
        let keys = state.usable().ok_or(TokenRefusal::KeysUnavailable)?;
        let key = keys.find(kid, algorithm).ok_or(TokenRefusal::UnknownKey)?.clone();
        Ok(FoundKey {
            key,
            generation: state.generation,
        })
    }

    fn may_read(&self) -> bool {
        let next_read = self.state.borrow().next_read;
        next_read.is_none_or(|next_read| next_read <= Instant::now())
    }

    /// Reads the key set again and again. Does not return.
    pub(super) async fn keep_fresh(&self, metrics: &JwtMetrics) {
        let mut was_read = None;
        loop {
            let read = self.setting.load().await;
            metrics.read(self.setting.label(), read.is_ok());
            self.log(&mut was_read, read.as_ref().err());
            let retry_at = Instant::now() + self.setting.retry_interval();
            let refresh_at = match read {
                Ok(_) => Instant::now() + self.setting.refresh_interval(),
                Err(_) => retry_at,
            };
            self.publish(read.ok(), retry_at);
            tokio::select! {
                () = time::sleep_until(refresh_at) => {}
                () = self.wanted.notified() => time::sleep_until(retry_at.min(refresh_at)).await,
            }
        }
    }

    fn publish(&self, read: Option<KeySet>, next_read: Instant) {
        self.state.send_modify(|state| {
            state.reads += 1;
            state.next_read = Some(next_read);
            let Some(read) = read else { return };
            state.read_at = Some(Instant::now());
            if state.keys.as_deref() != Some(&read) {
                state.generation += 1;
                state.keys = Some(Arc::new(read));
            }
        });
    }

    /// Logs the first success or failure after the other.
    fn log(&self, was_read: &mut Option<bool>, error: Option<&SourceError>) {
        if was_read.replace(error.is_none()) == Some(error.is_none()) {
            return;
        }
        let issuer = &self.setting.url;
        match error {
            None => tracing::info!(issuer, "the keys of the issuer were read"),
            Some(error) => tracing::warn!(
                issuer,
                error = chain(error),
                "the keys of the issuer cannot be read; trying on"
            ),
        }
    }
}
