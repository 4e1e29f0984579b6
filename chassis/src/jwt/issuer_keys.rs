//! The key set of one issuer: read in the background, and read early when a token names an unknown key.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
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

    /// Shows the result of a read to the tokens that wait.
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
        // The tokens that asked for a read during this one have it. A second read for them would only delay the read for the
        // next new key.
        let _ = self.wanted.notified().now_or_never();
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use serde_json::json;

    use super::{super::test_keys::TestKey, *};

    const A_MOMENT: Duration = Duration::from_millis(1);

    fn issuer() -> IssuerKeys {
        IssuerKeys::new(IssuerSetting::parse("https://i.example=aud").unwrap())
    }

    fn key_set(kid: &str) -> Option<KeySet> {
        let keys = json!({"keys": [TestKey::p256().jwk(kid)]});
        Some(KeySet::parse(keys.to_string().as_bytes()).unwrap())
    }

    async fn find(issuer: &IssuerKeys, kid: &str) -> Result<u64, TokenRefusal> {
        let found = issuer.find(Some(kid), Algorithm::Es256).await;
        found.map(|found| found.generation)
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_keys_count_for_an_hour_while_the_issuer_does_not_answer() {
        let issuer = issuer();
        issuer.publish(key_set("a"), Instant::now());
        issuer.publish(None, Instant::now());
        time::advance(MAX_AGE).await;
        assert_eq!(find(&issuer, "a").await, Ok(1));
        assert_eq!(issuer.generation(), Some(1));
        time::advance(A_MOMENT).await;
        assert_eq!(
            find(&issuer, "a").await.err(),
            Some(TokenRefusal::KeysUnavailable)
        );
        assert_eq!(issuer.generation(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_waited_for_the_first_read_causes_no_second_one() {
        let issuer = Arc::new(issuer());
        let waiting = tokio::spawn({
            let issuer = issuer.clone();
            async move { find(&issuer, "a").await }
        });
        tokio::task::yield_now().await;
        issuer.publish(key_set("a"), Instant::now());
        assert_eq!(waiting.await.unwrap(), Ok(1));
        assert!(issuer.wanted.notified().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_key_waits_for_a_read_unless_the_last_one_was_a_moment_ago() {
        let issuer = Arc::new(issuer());
        let interval = issuer.setting.retry_interval();
        issuer.publish(key_set("a"), Instant::now() + interval);
        let began = Instant::now();
        assert_eq!(find(&issuer, "b").await.err(), Some(TokenRefusal::UnknownKey));
        assert_eq!(began.elapsed(), Duration::ZERO);
        time::advance(interval).await;
        let waiting = tokio::spawn({
            let issuer = issuer.clone();
            async move { find(&issuer, "b").await }
        });
        // The task that reads the key set is asked to.
        issuer.wanted.notified().await;
        assert!(!waiting.is_finished());
        issuer.publish(key_set("b"), Instant::now() + interval);
        assert_eq!(waiting.await.unwrap(), Ok(2));
    }
}
