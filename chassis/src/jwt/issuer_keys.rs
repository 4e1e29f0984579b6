//! The key set of one issuer: read in the background, and read early when a token names an unknown key.

use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::{
    sync::{Notify, watch},
    time::{self, Instant},
};

use super::{
    key_set::KeySet,
    key_state::{KeyState, TokenKey},
    metrics::JwtMetrics,
    public_key::Algorithm,
    refusal::TokenRefusal,
    setting::IssuerSetting,
    source::SourceError,
};
use crate::telemetry::chain;

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

impl IssuerKeys {
    pub(super) fn new(setting: IssuerSetting) -> Self {
        Self {
            setting,
            state: watch::Sender::default(),
            wanted: Notify::new(),
        }
    }

    /// Returns the number of the present key set; `None` when there is none that may be used.
    #[cfg(test)]
    pub(super) fn generation(&self) -> Option<u64> {
        let state = self.state.borrow();
        state.usable().map(|_| state.generation)
    }

    /// Returns the key for a token. When the key is not known, waits for one read of the key set. Does not wait when the last read
    /// failed, or was so recent that another one is not due: clients with invented tokens could otherwise make calls wait for as long
    /// as the issuer does not answer.
    pub(super) async fn find(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<TokenKey, TokenRefusal> {
        let reads = match self.known(kid, algorithm) {
            Ok(found) => return Ok(found),
            Err(_) => self.state.borrow().reads,
        };
        if self.may_wait() {
            let mut state = self.state.subscribe();
            self.wanted.notify_one();
            let reading = state.wait_for(|state| state.reads > reads);
            // After the time limit the keys are as unknown as before.
            drop(time::timeout(MAX_WAIT, reading).await);
        }
        self.known(kid, algorithm)
    }

    fn known(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<TokenKey, TokenRefusal> {
        TokenKey::find(self.state.subscribe(), kid, algorithm)
    }

    fn may_wait(&self) -> bool {
        let KeyState {
            is_failing,
            next_read,
            ..
        } = *self.state.borrow();
        !is_failing && next_read.is_none_or(|next_read| next_read <= Instant::now())
    }

    /// Reads the key set again and again. Does not return.
    pub(super) async fn keep_fresh(&self, metrics: &JwtMetrics) {
        let mut last = None;
        loop {
            let read = self.setting.load().await;
            metrics.read(self.setting.label(), read.is_ok());
            self.log(&mut last, &read);
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
        self.state.send_modify(|state| state.update(read, next_read));
        // Drops the wish for another read that came during this read: its result is now there for all tokens that wait. Another read
        // would delay the read for the next unknown key.
        let _ = self.wanted.notified().now_or_never();
    }

    /// Logs the result of a read that differs from the one before.
    fn log(&self, last: &mut Option<ReadResult>, read: &Result<KeySet, SourceError>) {
        let issuer = &self.setting.url;
        let result = ReadResult::of(read);
        if last.replace(result) == Some(result) {
            return;
        }
        match read {
            Ok(keys) if keys.is_empty() => tracing::warn!(
                issuer,
                "the key set of the issuer has no key for RS256 (2048 to 8192 bits), ES256 or EdDSA (Ed25519); its tokens are refused"
            ),
            Ok(_) => tracing::info!(issuer, "the keys of the issuer were read"),
            Err(error) => tracing::warn!(
                issuer,
                error = chain(error),
                "the keys of the issuer cannot be read; trying again"
            ),
        }
    }
}

/// The result of a read, as far as a change of it is logged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReadResult {
    Keys,
    NoKey,
    Failed,
}

impl ReadResult {
    fn of(read: &Result<KeySet, SourceError>) -> Self {
        match read {
            Ok(keys) if keys.is_empty() => Self::NoKey,
            Ok(_) => Self::Keys,
            Err(_) => Self::Failed,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::{
        super::{key_state::MAX_AGE, test_keys::TestKey},
        *,
    };

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
        found.map(|found| found.generation())
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
    async fn a_key_set_without_keys_withdraws_all_keys_at_once() {
        let issuer = issuer();
        issuer.publish(key_set("a"), Instant::now());
        let key = issuer.known(Some("a"), Algorithm::Es256).unwrap();
        assert!(key.check().is_ok());
        issuer.publish(
            KeySet::parse(b"{\"keys\":[]}").ok(),
            Instant::now() + Duration::from_secs(10),
        );
        assert_eq!(key.check(), Err(TokenRefusal::UnknownKey));
        assert_eq!(find(&issuer, "a").await.err(), Some(TokenRefusal::UnknownKey));
    }

    #[tokio::test(start_paused = true)]
    async fn the_key_of_a_token_counts_while_its_issuer_publishes_it() {
        let (issuer, later) = (issuer(), Instant::now());
        let keys = |keys: &[serde_json::Value]| {
            let set = json!({ "keys": keys }).to_string();
            Some(KeySet::parse(set.as_bytes()).unwrap())
        };
        let (one, other) = (TestKey::p256().jwk("a"), TestKey::p256());
        issuer.publish(keys(std::slice::from_ref(&one)), later);
        let named = issuer.known(Some("a"), Algorithm::Es256).unwrap();
        let unnamed = issuer.known(None, Algorithm::Es256).unwrap();
        issuer.publish(keys(&[one, other.jwk("b")]), later);
        assert!(named.check().is_ok());
        assert!(unnamed.check().is_err(), "without a kid no key is guessed");
        issuer.publish(None, later);
        assert!(named.check().is_ok());
        issuer.publish(keys(&[other.jwk("a")]), later);
        assert!(named.check().is_err(), "another key took the kid");
        let named = issuer.known(Some("a"), Algorithm::Es256).unwrap();
        time::advance(MAX_AGE + A_MOMENT).await;
        assert_eq!(named.check(), Err(TokenRefusal::KeysUnavailable));
    }

    #[tokio::test(start_paused = true)]
    async fn no_token_waits_for_an_issuer_that_is_known_not_to_answer() {
        let issuer = issuer();
        for last in [None, key_set("a")] {
            issuer.publish(last, Instant::now());
            issuer.publish(None, Instant::now());
            time::advance(A_MOMENT).await;
            let began = Instant::now();
            assert!(find(&issuer, "b").await.is_err());
            assert_eq!(began.elapsed(), Duration::ZERO);
        }
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
