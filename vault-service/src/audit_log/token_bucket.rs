//! A rate limit for audit lines that any client can cause.

use std::time::{Duration, Instant};

/// Maximum number of lines in a burst after a quiet time.
const BURST: u64 = 1000;
/// Average number of lines allowed in a second.
const RATE: u32 = 100;

/// A token bucket.
pub(super) struct TokenBucket {
    tokens: u64,
    filled: Instant,
}

impl TokenBucket {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            tokens: BURST,
            filled: now,
        }
    }

    /// Takes `count` lines out of the bucket. Returns false, and takes none, when the bucket has fewer.
    pub(super) fn take(&mut self, count: u64, now: Instant) -> bool {
        let each = Duration::from_secs(1) / RATE;
        let due = now.saturating_duration_since(self.filled).as_nanos() / each.as_nanos();
        if due > 0 {
            let due = u64::try_from(due).unwrap_or(u64::MAX);
            self.tokens = self.tokens.saturating_add(due).min(BURST);
            self.filled = now;
        }
        match self.tokens.checked_sub(count) {
            Some(left) => self.tokens = left,
            None => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_a_rate() {
        let began = Instant::now();
        let mut bucket = TokenBucket::new(began);
        let mut taken =
            |after: Duration, count: u64| (0..count).filter(|_| bucket.take(1, began + after)).count();
        assert_eq!(taken(Duration::ZERO, 5000), 1000);
        assert_eq!(taken(Duration::from_millis(100), 5000), 10);
        assert_eq!(taken(Duration::from_secs(3600), 5000), 1000);
    }
}
