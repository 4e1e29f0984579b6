//! What happened in the last half hour, in memory that is bounded.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::counts::Counts;

/// Time that a history covers.
pub(crate) const WINDOW: Duration = Duration::from_secs(30 * 60);
/// Time that one interval covers at least. An interval is longer when nobody looked for a while, and shorter before such a time.
pub(crate) const INTERVAL: Duration = Duration::from_secs(20);
/// Largest number of intervals. The whole window has 90 when somebody looks all the time.
const MAX_INTERVALS: usize = 120;

/// The calls between two samples. Times count from the start of the console.
#[derive(Debug)]
pub(crate) struct Interval {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    /// Servers without a call are left out.
    servers: BTreeMap<String, Counts>,
}

impl Interval {
    pub(crate) fn length(&self) -> Duration {
        self.to.saturating_sub(self.from)
    }

    /// Returns the counts of all servers together.
    pub(crate) fn total(&self) -> Counts {
        sum(self.servers.values())
    }

    pub(crate) fn of(&self, server: &str) -> Option<&Counts> {
        self.servers.get(server)
    }
}

/// The counters of one sample.
#[derive(Debug)]
struct Latest {
    at: Duration,
    /// The start of the service, as its metrics have it.
    started: f64,
    counts: BTreeMap<String, Counts>,
}

/// The calls of one workspace, or the decrypts of the vault.
#[derive(Debug, Default)]
pub(crate) struct History {
    intervals: VecDeque<Interval>,
    latest: Option<Latest>,
}

impl History {
    /// Adds a sample of the counters at the time `at`. The first sample is only where later ones are counted from.
    pub(super) fn record(&mut self, at: Duration, started: f64, counts: BTreeMap<String, Counts>) {
        if let Some(before) = &self.latest {
            let is_restarted = before.started.total_cmp(&started).is_ne();
            let added = counts.iter().filter_map(|(server, now)| {
                let before = before.counts.get(server).filter(|_| !is_restarted);
                let added = before.map_or_else(|| now.clone(), |before| now.since(before));
                (!added.is_empty()).then(|| (server.clone(), added))
            });
            let interval = Interval {
                from: before.at,
                to: at,
                servers: added.collect(),
            };
            self.append(interval);
        }
        self.latest = Some(Latest { at, started, counts });
        self.forget_before(at.saturating_sub(WINDOW));
    }

    /// Adds the interval to the last one while that is short. A long one stays alone, so that the calls of a time that nobody
    /// watched do not count for the time before it.
    fn append(&mut self, interval: Interval) {
        match self.intervals.back_mut() {
            Some(last) if last.length() < INTERVAL && interval.length() <= INTERVAL => {
                last.to = interval.to;
                for (server, added) in interval.servers {
                    last.servers.entry(server).or_default().add(&added);
                }
            }
            Some(_) | None => self.intervals.push_back(interval),
        }
    }

    fn forget_before(&mut self, start: Duration) {
        while self.intervals.len() > MAX_INTERVALS
            || self.intervals.front().is_some_and(|first| first.to <= start)
        {
            self.intervals.pop_front();
        }
    }

    /// Returns the intervals, the oldest first.
    pub(crate) fn intervals(&self) -> impl Iterator<Item = &Interval> {
        self.intervals.iter()
    }

    /// Returns the names of the servers that had a call since the service started, with the number of these calls.
    pub(crate) fn since_start(&self) -> impl Iterator<Item = (&str, u64)> {
        let counts = self.latest.iter().flat_map(|latest| &latest.counts);
        counts.map(|(server, counts)| (server.as_str(), counts.calls))
    }

    /// Returns the counts of one server in the window.
    pub(crate) fn of(&self, server: &str) -> Counts {
        sum(self.intervals.iter().filter_map(|interval| interval.of(server)))
    }

    /// Returns the counts of all servers in the window.
    pub(crate) fn total(&self) -> Counts {
        sum(self
            .intervals
            .iter()
            .flat_map(|interval| interval.servers.values()))
    }

    /// Returns the time that the intervals cover.
    pub(crate) fn covered(&self) -> Duration {
        self.intervals.iter().map(Interval::length).sum()
    }
}

fn sum<'c>(counts: impl Iterator<Item = &'c Counts>) -> Counts {
    let mut sum = Counts::default();
    counts.for_each(|counts| sum.add(counts));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn page(calls: u64) -> BTreeMap<String, Counts> {
        let counts = Counts {
            calls,
            ..Counts::default()
        };
        [("api".to_owned(), counts)].into()
    }

    fn lengths(history: &History) -> Vec<(u64, u64)> {
        let intervals = history.intervals();
        intervals
            .map(|interval| ((interval.to - interval.from).as_secs(), interval.total().calls))
            .collect()
    }

    #[test]
    fn calls_before_the_first_sample_are_not_of_the_window() {
        let mut history = History::default();
        history.record(seconds(0), 1.0, page(100));
        assert_eq!((history.total().calls, lengths(&history)), (0, vec![]));
        assert_eq!(history.since_start().collect::<Vec<_>>(), [("api", 100)]);
        history.record(seconds(2), 1.0, page(103));
        assert_eq!(history.of("api").calls, 3);
    }

    #[test]
    fn a_server_that_appears_between_two_samples_had_all_its_calls_between_them() {
        let mut history = History::default();
        history.record(seconds(0), 1.0, BTreeMap::new());
        history.record(seconds(2), 1.0, page(4));
        assert_eq!(history.of("api").calls, 4);
    }

    #[test]
    fn samples_gather_in_intervals_of_twenty_seconds() {
        let mut history = History::default();
        (0..=25).for_each(|sample| history.record(seconds(2 * sample), 1.0, page(sample)));
        assert_eq!(lengths(&history), [(20, 10), (20, 10), (10, 5)]);
        assert_eq!(history.covered(), seconds(50));
    }

    #[test]
    fn time_that_nobody_watched_is_one_interval() {
        let mut history = History::default();
        history.record(seconds(0), 1.0, page(0));
        history.record(seconds(2), 1.0, page(1));
        history.record(seconds(302), 1.0, page(31));
        assert_eq!(lengths(&history), [(2, 1), (300, 30)]);
    }

    #[test]
    fn slow_samples_cover_the_window_too() {
        let mut history = History::default();
        for sample in 0..1_000 {
            history.record(seconds(11 * sample), 1.0, page(sample));
        }
        assert!(history.covered() >= WINDOW, "{:?}", history.covered());
        // A short look between long pauses is an interval of its own, and the number of intervals is bounded all the same.
        for look in 0..1_000 {
            history.record(seconds(20_000 + 23 * look), 1.0, page(2_000 + look));
            history.record(seconds(20_002 + 23 * look), 1.0, page(2_000 + look));
        }
        assert_eq!(history.intervals.len(), MAX_INTERVALS);
    }

    #[test]
    fn a_service_that_restarted_counts_from_zero() {
        let mut history = History::default();
        history.record(seconds(0), 1.0, page(100));
        // The new process has already more calls than the old one had.
        history.record(seconds(2), 2.0, page(150));
        assert_eq!(history.total().calls, 150);
        // A server that was removed and added again begins anew in the same process.
        history.record(seconds(4), 2.0, page(7));
        assert_eq!(history.total().calls, 157);
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut history = History::default();
        for sample in 0..10_000 {
            history.record(seconds(2 * sample), 1.0, page(sample));
            assert!(history.intervals.len() <= MAX_INTERVALS);
        }
        assert!(history.covered() <= WINDOW + INTERVAL, "{:?}", history.covered());
        assert!(history.covered() >= WINDOW, "{:?}", history.covered());
        history.record(seconds(50_000), 1.0, page(10_001));
        assert_eq!(history.intervals.len(), 1);
    }
}
