//! Tokens that were verified before, so that a token costs one verification of its signature, and not one for each call.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use proto::Principal;
use ring::digest;

use super::key_state::TokenKey;

/// Maximum number of tokens that are kept.
const MAX_TOKENS: usize = 4096;

/// The identity in a token that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    /// The issuer and the subject of the token.
    pub principal: Principal,
    /// The last moment at which the token is valid.
    pub not_after: SystemTime,
    /// The key that verified the token. The token counts only while the key is published.
    pub key: TokenKey,
}

/// The SHA-256 of a token. The token itself is not kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenDigest([u8; digest::SHA256_OUTPUT_LEN]);

impl TokenDigest {
    pub(super) fn of(token: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, token.as_bytes());
        let mut bytes = [0; digest::SHA256_OUTPUT_LEN];
        bytes.copy_from_slice(hash.as_ref());
        Self(bytes)
    }
}

#[derive(Default)]
pub(super) struct VerifiedTokens(Mutex<HashMap<TokenDigest, VerifiedToken>>);

impl VerifiedTokens {
    /// Returns a token that has not expired at `now`, and whose key is still published.
    pub(super) fn get(&self, token: &TokenDigest, now: SystemTime) -> Option<VerifiedToken> {
        let known = self.lock().get(token)?.clone();
        (now <= known.not_after && known.key.check().is_ok()).then_some(known)
    }

    /// Keeps a token. When there is no room, the expired tokens are forgotten, and if there are none, all.
    pub(super) fn insert(&self, token: TokenDigest, known: VerifiedToken, now: SystemTime) {
        let mut tokens = self.lock();
        if tokens.len() >= MAX_TOKENS {
            tokens.retain(|_, known| now <= known.not_after);
        }
        if tokens.len() >= MAX_TOKENS {
            tokens.clear();
        }
        tokens.insert(token, known);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TokenDigest, VerifiedToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::{sync::LazyLock, time::Duration};

    use super::*;

    static KEY: LazyLock<TokenKey> = LazyLock::new(TokenKey::published);

    fn known(not_after: SystemTime) -> VerifiedToken {
        VerifiedToken {
            principal: Principal::jwt("i", "s").unwrap(),
            not_after,
            key: KEY.clone(),
        }
    }

    #[test]
    fn a_token_is_known_until_it_expires() {
        let (tokens, now) = (VerifiedTokens::default(), SystemTime::now());
        tokens.insert(TokenDigest::of("a"), known(now), now);
        assert!(tokens.get(&TokenDigest::of("a"), now).is_some());
        assert!(tokens.get(&TokenDigest::of("b"), now).is_none());
        let later = now + Duration::from_secs(1);
        assert!(tokens.get(&TokenDigest::of("a"), later).is_none());
    }

    #[test]
    fn the_number_of_known_tokens_is_limited() {
        let (tokens, now) = (VerifiedTokens::default(), SystemTime::now());
        for number in 0..MAX_TOKENS + 10 {
            tokens.insert(TokenDigest::of(&number.to_string()), known(now), now);
            assert!(tokens.lock().len() <= MAX_TOKENS);
        }
        assert!(
            tokens
                .get(&TokenDigest::of(&MAX_TOKENS.to_string()), now)
                .is_some()
        );
        let later = now + Duration::from_secs(1);
        tokens.lock().clear();
        for number in 0..MAX_TOKENS {
            let not_after = if number == 0 { later } else { now };
            tokens.insert(TokenDigest::of(&number.to_string()), known(not_after), now);
        }
        tokens.insert(TokenDigest::of("new"), known(later), later);
        assert_eq!(tokens.lock().len(), 2);
    }
}
