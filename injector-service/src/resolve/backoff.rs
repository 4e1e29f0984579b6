//! Pauses between attempts to open a stream to the vault.

use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(20);
pub(super) const LONGEST: Duration = Duration::from_secs(1);

/// The upper bound of the next pause, which doubles with each pause.
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(SHORTEST)
    }

    pub(super) fn reset(&mut self) {
        self.0 = SHORTEST;
    }

    /// Returns a random pause between half the upper bound and the upper bound, so that injectors which lost the vault
    /// together do not come back together.
    pub(super) fn pause(&mut self) -> Duration {
        let most = self.0;
        self.0 = (most * 2).min(LONGEST);
        let random = getrandom::u32().unwrap_or(u32::MAX);
        most.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_until_they_are_a_second() {
        let mut backoff = Backoff::new();
        for most in [20, 40, 80, 160, 320, 640, 1000, 1000, 1000] {
            let most = Duration::from_millis(most);
            let pause = backoff.pause();
            assert!(pause >= most / 2 && pause <= most, "{pause:?} of {most:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= SHORTEST);
    }

    #[test]
    fn two_injectors_do_not_pause_alike() {
        let pauses = |_| {
            let mut backoff = Backoff::new();
            [(); 8].map(|()| backoff.pause())
        };
        let [one, other] = [(); 2].map(pauses);
        assert_ne!(one, other);
    }
}
