//! Durations that were counted in buckets.

/// Largest number of buckets of a histogram. The services have 15.
const MAX_BUCKETS: usize = 64;

/// Number of durations in each bucket.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Histogram {
    /// Upper bounds in seconds, rising, and the number of durations up to the bound and above the bound before it.
    buckets: Vec<(f64, u64)>,
}

impl Histogram {
    /// Reads buckets as a page has them: each number includes those of the lower buckets.
    pub(super) fn of_cumulative(mut buckets: Vec<(f64, u64)>) -> Self {
        buckets.retain(|(bound, _)| !bound.is_nan());
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        buckets.truncate(MAX_BUCKETS);
        let mut below = 0;
        for (_, number) in &mut buckets {
            let cumulative = *number;
            *number = cumulative.saturating_sub(below);
            below = below.max(cumulative);
        }
        Self { buckets }
    }

    /// Returns what was added since `before`, or `None` when the counters began anew.
    pub(super) fn since(&self, before: &Self) -> Option<Self> {
        if before.buckets.is_empty() {
            return Some(self.clone());
        }
        if self.buckets.len() != before.buckets.len() {
            return None;
        }
        let pairs = self.buckets.iter().zip(&before.buckets);
        let buckets = pairs.map(|((bound, number), (old_bound, old))| {
            let is_same = bound.total_cmp(old_bound).is_eq();
            is_same
                .then(|| number.checked_sub(*old))
                .flatten()
                .map(|added| (*bound, added))
        });
        Some(Self {
            buckets: buckets.collect::<Option<_>>()?,
        })
    }

    pub(super) fn add(&mut self, other: &Self) {
        let is_alike = self.buckets.len() == other.buckets.len();
        if !is_alike {
            // A service with other buckets was started. Its durations replace those of the old one.
            if !other.buckets.is_empty() {
                self.clone_from(other);
            }
            return;
        }
        for ((_, number), (_, added)) in self.buckets.iter_mut().zip(&other.buckets) {
            *number = number.saturating_add(*added);
        }
    }

    /// Returns an estimate in seconds of the duration that the share `quantile` of all durations does not exceed. Within a
    /// bucket, durations are taken as evenly spread, as by `histogram_quantile` of Prometheus.
    pub(crate) fn quantile(&self, quantile: f64) -> Option<f64> {
        // A sum of saturated numbers would overflow.
        let total: f64 = self.buckets.iter().map(|(_, number)| *number as f64).sum();
        if total <= 0.0 {
            return None;
        }
        let rank = quantile * total;
        let (mut seen, mut lower) = (0.0, 0.0);
        for (bound, number) in &self.buckets {
            let number = *number as f64;
            if number > 0.0 && seen + number >= rank {
                let is_open = bound.is_infinite();
                return Some(if is_open {
                    lower
                } else {
                    lower + (bound - lower) * ((rank - seen) / number)
                });
            }
            seen += number;
            lower = *bound;
        }
        Some(lower)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn histogram(cumulative: &[(f64, u64)]) -> Histogram {
        Histogram::of_cumulative(cumulative.to_vec())
    }

    #[test]
    fn quantiles_are_estimated_within_their_bucket() {
        let durations = histogram(&[(f64::INFINITY, 100), (0.01, 50), (0.1, 99)]);
        let close =
            |quantile: f64, expected: f64| (durations.quantile(quantile).unwrap() - expected).abs() < 1e-9;
        assert!(close(0.5, 0.01));
        assert!(close(0.25, 0.005));
        assert!(close(0.99, 0.1));
        // Above the last bound, the bound is all that is known.
        assert!(close(1.0, 0.1));
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(histogram(&[(0.1, 0), (f64::INFINITY, 0)]).quantile(0.5), None);
    }

    #[test]
    fn the_difference_of_two_pages_is_what_was_added() {
        let (old, new) = (histogram(&[(0.1, 2), (1.0, 3)]), histogram(&[(0.1, 2), (1.0, 5)]));
        assert_eq!(new.since(&old), Some(histogram(&[(0.1, 0), (1.0, 2)])));
        assert_eq!(old.since(&new), None);
        assert_eq!(new.since(&Histogram::default()), Some(new.clone()));
        assert_eq!(new.since(&histogram(&[(0.2, 0), (1.0, 0)])), None);
    }

    #[test]
    fn a_page_with_endless_buckets_is_cut() {
        let endless = (0..10_000).map(|bound| (f64::from(bound), 1)).collect();
        assert_eq!(Histogram::of_cumulative(endless).buckets.len(), MAX_BUCKETS);
    }
}
