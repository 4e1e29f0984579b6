//! The events of the last half hour, in memory that is bounded.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{counts::Counts, totals::MAX_SERVERS};

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
    /// The latest start that any sample had.
    newest_start: Option<f64>,
    /// The time of the last sample of a process that is older than the one before.
    mixed_at: Option<Duration>,
}

impl History {
    /// Adds a sample of the counters at the time `at`. The first sample is only where later ones are counted from, and so is one
    /// after a time that is longer than the window.
    ///
    /// A later start than ever before is a restart. An earlier one means that several processes answer under the address, such as
    /// the replicas behind a balancer: their counters have nothing to do with each other, and what was counted may be wrong.
    pub(super) fn record(&mut self, at: Duration, started: f64, counts: BTreeMap<String, Counts>) {
        if self.newest_start.is_some_and(|newest| started < newest) && !self.is_same_process(started) {
            self.mixed_at = Some(at);
            self.intervals.clear();
        } else if let Some(interval) = self.interval_until(at, started, &counts) {
            self.append(interval);
        }
        self.newest_start = Some(self.newest_start.map_or(started, |newest| newest.max(started)));
        self.latest = Some(Latest { at, started, counts });
        self.forget_old(at);
    }

    fn is_same_process(&self, started: f64) -> bool {
        let latest = self.latest.as_ref();
        latest.is_some_and(|latest| latest.started.total_cmp(&started).is_eq())
    }

    /// Returns what happened since the last sample, if that can be told.
    fn interval_until(
        &self,
        at: Duration,
        started: f64,
        counts: &BTreeMap<String, Counts>,
    ) -> Option<Interval> {
        let before = self.latest.as_ref()?;
        let is_restarted = !self.is_same_process(started);
        if at.saturating_sub(before.at) > WINDOW || (is_restarted && self.has_several_processes(at)) {
            return None;
        }
        // A server that the limit left out may have had calls for a long time.
        let is_cut = before.counts.len() >= MAX_SERVERS;
        let added = counts.iter().filter_map(|(server, now)| {
            let added = match before.counts.get(server).filter(|_| !is_restarted) {
                Some(before) => now.since(before),
                None if is_cut && !is_restarted => return None,
                None => now.clone(),
            };
            (!added.is_empty()).then(|| (server.clone(), added))
        });
        Some(Interval {
            from: before.at,
            to: at,
            servers: added.collect(),
        })
    }

    /// Returns true when several processes have answered under one address within the window before `now`.
    pub(crate) fn has_several_processes(&self, now: Duration) -> bool {
        let mixed_at = self.mixed_at;
        mixed_at.is_some_and(|mixed_at| now.saturating_sub(mixed_at) <= WINDOW)
    }

    /// Returns true after the first sample.
    pub(crate) fn has_sample(&self) -> bool {
        self.latest.is_some()
    }

    /// Forgets what was before the window that ends at `now`.
    pub(super) fn forget_old(&mut self, now: Duration) {
        self.forget_before(now.saturating_sub(WINDOW));
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

    fn counts(calls: u64) -> Counts {
        Counts {
            calls,
            ..Counts::default()
        }
    }

    fn page(calls: u64) -> BTreeMap<String, Counts> {
        [("api".to_owned(), counts(calls))].into()
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
            history.record(seconds(11_000 + 23 * look), 1.0, page(2_000 + look));
            history.record(seconds(11_002 + 23 * look), 1.0, page(2_000 + look));
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
        let last = seconds(2 * 9_999);
        history.forget_old(last + WINDOW / 2);
        assert!(
            history.covered() <= WINDOW / 2 + INTERVAL,
            "{:?}",
            history.covered()
        );
        history.forget_old(last + WINDOW);
        assert_eq!(history.covered(), Duration::ZERO);
    }

    #[test]
    fn calls_of_a_time_longer_than_the_window_are_not_counted() {
        let mut history = History::default();
        history.record(seconds(0), 1.0, page(0));
        history.record(WINDOW + seconds(1), 1.0, page(1_000));
        assert_eq!((history.total().calls, lengths(&history)), (0, vec![]));
        history.record(WINDOW + seconds(3), 1.0, page(1_002));
        assert_eq!(lengths(&history), [(2, 2)]);
    }

    #[test]
    fn processes_that_answer_in_turn_make_no_calls() {
        let mut history = History::default();
        let (old, new) = (1.0, 2.0);
        history.record(seconds(0), old, page(1_000_000));
        assert!(!history.has_several_processes(seconds(0)));
        // The new start time could be that of a restart.
        history.record(seconds(2), new, page(500_000));
        for turn in 2..20 {
            let (started, calls) = if turn % 2 == 0 {
                (old, 1_000_000)
            } else {
                (new, 500_000)
            };
            history.record(seconds(2 * turn), started, page(calls));
            assert!(history.has_several_processes(seconds(2 * turn)));
        }
        assert_eq!(history.total().calls, 0);
        history.record(seconds(40), new, page(500_003));
        assert_eq!(history.total().calls, 3);
        // Nobody is told of them for ever.
        assert!(!history.has_several_processes(seconds(40) + WINDOW));
    }

    #[test]
    fn a_server_that_the_limit_left_out_before_is_counted_from_now_on() {
        let mut history = History::default();
        let counted = |first: usize| {
            let servers = (first..first + MAX_SERVERS).map(|number| (format!("s{number}"), counts(1_000)));
            servers.collect::<BTreeMap<_, _>>()
        };
        history.record(seconds(0), 1.0, counted(0));
        history.record(seconds(2), 1.0, counted(1));
        assert_eq!(history.total().calls, 0);
    }
}
