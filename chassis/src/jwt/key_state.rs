//! The keys of one issuer at one time, and the key of a token among them.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::{
    key_set::KeySet,
    public_key::{Algorithm, PublicKey},
    refusal::TokenRefusal,
};

/// Time for which the last key set counts while the issuer does not answer.
pub(super) const MAX_AGE: Duration = Duration::from_secs(3600);

#[derive(Clone, Default)]
pub(super) struct KeyState {
    keys: Option<Arc<KeySet>>,
    /// Number of different key sets so far. The keys of two equal generations are the same.
    pub(super) generation: u64,
    /// Time of the last successful read.
    read_at: Option<Instant>,
    /// Number of reads that have ended.
    pub(super) reads: u64,
    /// True when the last read failed.
    pub(super) is_failing: bool,
    /// Earliest time of a read that an unknown key causes.
    pub(super) next_read: Option<Instant>,
}

impl KeyState {
    /// Returns the keys, unless they are too old.
    pub(super) fn usable(&self) -> Option<&KeySet> {
        let age = self.read_at?.elapsed();
        self.keys.as_deref().filter(|_| age <= MAX_AGE)
    }

    pub(super) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&PublicKey, TokenRefusal> {
        let keys = self.usable().ok_or(TokenRefusal::KeysUnavailable)?;
        keys.find(kid, algorithm).ok_or(TokenRefusal::UnknownKey)
    }

    /// Applies the result of a read. A failed read, `None`, changes no keys.
    pub(super) fn update(&mut self, read: Option<KeySet>, next_read: Instant) {
        self.reads += 1;
        self.is_failing = read.is_none();
        self.next_read = Some(next_read);
        let Some(read) = read else { return };
        self.read_at = Some(Instant::now());
        if self.keys.as_deref() != Some(&read) {
            self.generation += 1;
            self.keys = Some(Arc::new(read));
        }
    }
}

/// The key that verified a token. A stream, which can live longer than the key, asks it whether the issuer still publishes the key.
/// Clones share it.
#[derive(Clone)]
pub struct TokenKey(Arc<FoundKey>);

struct FoundKey {
    state: watch::Receiver<KeyState>,
    /// The `kid` of the token.
    kid: Option<String>,
    key: PublicKey,
    /// The generation in which the key was found.
    generation: u64,
}

impl TokenKey {
    /// Finds a token's key among the present keys.
    pub(super) fn find(
        state: watch::Receiver<KeyState>,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Self, TokenRefusal> {
        let (key, generation) = {
            let present = state.borrow();
            (present.find(kid, algorithm)?.clone(), present.generation)
        };
        Ok(Self(Arc::new(FoundKey {
            state,
            kid: kid.map(ToOwned::to_owned),
            key,
            generation,
        })))
    }

    /// Refuses a key with which a new token with the same `kid` would not be verified now: one that the issuer has withdrawn, and
    /// every key when the last successful read of the key set is too long ago.
    pub fn check(&self) -> Result<(), TokenRefusal> {
        let FoundKey {
            state,
            kid,
            key,
            generation,
        } = &*self.0;
        let present = state.borrow();
        let keys = present.usable().ok_or(TokenRefusal::KeysUnavailable)?;
        let is_published =
            present.generation == *generation || keys.find(kid.as_deref(), key.algorithm()) == Some(key);
        is_published.then_some(()).ok_or(TokenRefusal::UnknownKey)
    }

    pub(super) fn public_key(&self) -> &PublicKey {
        &self.0.key
    }

    #[cfg(test)]
    pub(super) fn generation(&self) -> u64 {
        self.0.generation
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
impl TokenKey {
    /// Returns a key of an issuer that publishes this key only.
    pub(super) fn published() -> Self {
        let set = serde_json::json!({"keys": [super::test_keys::TestKey::rsa().jwk("a")]}).to_string();
        let mut state = KeyState::default();
        state.update(KeySet::parse(set.as_bytes()).ok(), Instant::now());
        Self::find(watch::Sender::new(state).subscribe(), None, Algorithm::Rs256).unwrap()
    }
}

impl PartialEq for TokenKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.state.same_channel(&other.0.state) && self.0.key == other.0.key
    }
}

impl Eq for TokenKey {}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenKey").field(&self.0.key).finish()
    }
}
