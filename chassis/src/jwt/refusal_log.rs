//! Log lines about refused tokens. Anybody who reaches a service can send tokens, so the number of lines is limited, and no line
//! has a claim that the signature does not prove.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::log_limit::LogLimit;

use super::{jws::ParsedToken, refusal::TokenRefusal};

/// Shortest time between two lines with the same cause.
const INTERVAL: Duration = Duration::from_secs(10);
/// Longest part of a token's text that is logged, in characters.
const MAX_LOGGED: usize = 200;

/// The refusals since the last line, by cause.
#[derive(Default)]
pub(super) struct RefusalLog(Mutex<BTreeMap<&'static str, LogLimit>>);

impl RefusalLog {
    /// Logs the refusal of a token whose signature was not verified. `issuer` is the issuer of the settings that the token names.
    pub(super) fn unverified(&self, refusal: TokenRefusal, issuer: Option<&str>) {
        let cause = refusal.name();
        if let Some(count) = self.count(cause, Instant::now()) {
            tracing::info!(cause, issuer, count, "token refused");
        }
    }

    /// Logs the refusal of a token whose signature is right, with the claims that an operator compares with the settings. `Debug`
    /// escapes the characters that would break the line.
    pub(super) fn verified(&self, refusal: TokenRefusal, token: &ParsedToken<'_>) {
        let cause = refusal.name();
        let Some(count) = self.count(cause, Instant::now()) else {
            return;
        };
        let short = |text: &str| text.chars().take(MAX_LOGGED).collect::<String>();
        let ParsedToken { kid, claims, .. } = token;
        let (issuer, subject) = (short(&claims.iss), short(&claims.sub));
        let (audience, kid) = (short(&format!("{:?}", claims.aud)), kid.as_deref().map(short));
        tracing::info!(cause, issuer, ?subject, audience, ?kid, count, "token refused");
    }

    /// Counts a refusal. Returns the number of refusals since the last line, with this one, when the next line may be written.
    fn count(&self, cause: &'static str, now: Instant) -> Option<u64> {
        let mut causes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = causes.entry(cause).or_insert_with(|| LogLimit::new(1, INTERVAL));
        limit.admit(now).map(|suppressed| suppressed + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_has_one_line_in_ten_seconds_which_counts_the_refusals() {
        let (log, began) = (RefusalLog::default(), Instant::now());
        assert_eq!(log.count("a", began), Some(1));
        for _ in 0..1000 {
            assert_eq!(log.count("a", began + INTERVAL / 2), None);
        }
        assert_eq!(log.count("b", began + INTERVAL / 2), Some(1));
        assert_eq!(log.count("a", began + INTERVAL), Some(1001));
        assert_eq!(log.count("a", began + INTERVAL), None);
    }
}
