//! A limit of the log lines that a client without an identity can cause, so that it cannot fill a disk with them.

use std::{
    mem,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Limits the lines of one kind by a token bucket, and counts the lines that were left out.
#[derive(Debug)]
pub struct LogLimit {
    burst: u32,
    interval: Duration,
    state: Mutex<LimitState>,
}

#[derive(Debug)]
struct LimitState {
    /// Time at which the bucket is full again; `None` before the first line.
    full_at: Option<Instant>,
    suppressed: u64,
}

impl LogLimit {
    /// Makes a limit of `burst` lines at once, and of one further line for each `interval`.
    pub const fn new(burst: u32, interval: Duration) -> Self {
        Self {
            burst,
            interval,
            state: Mutex::new(LimitState {
                full_at: None,
                suppressed: 0,
            }),
        }
    }

    /// Makes the limit of lines about clients without an identity: 100 at once, and one for each second. A flood writes some
    /// 30 MB in a day.
    pub const fn for_strangers() -> Self {
        Self::new(100, Duration::from_secs(1))
    }

    /// Returns the number of lines that were left out since the last line, when a line may be written now. Counts the line as
    /// left out otherwise.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = state.full_at.map_or(now, |full_at| full_at.max(now));
        if full_at > now + self.interval * self.burst.saturating_sub(1) {
            state.suppressed += 1;
            return None;
        }
        state.full_at = Some(full_at + self.interval);
        Some(mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_flood_writes_the_burst_and_then_one_line_in_each_interval() {
        let (limit, began) = (LogLimit::new(3, SECOND), Instant::now());
        let lines = |at: Instant| (0..1000).filter_map(|_| limit.admit(at)).collect::<Vec<_>>();
        assert_eq!(lines(began), [0, 0, 0]);
        assert!(lines(began + SECOND / 2).is_empty());
        assert_eq!(lines(began + SECOND), [1997]);
        assert_eq!(lines(began + 3 * SECOND), [999, 0]);
        assert_eq!(lines(began + 100 * SECOND), [998, 0, 0]);
    }
}
