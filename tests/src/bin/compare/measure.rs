//! Turns latencies, CPU times and memory into the figures of a report.

use std::{
    fmt, fs,
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::sleep_until};

use crate::Failure;

/// `USER_HZ`, the unit of CPU times in `/proc`. It is 100 on every Linux that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// Time for which connections and caches warm up before a measurement.
const WARM_UP: Duration = Duration::from_millis(500);

/// The figures of one contender under load for a few seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Window {
    /// Answered calls per second.
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// CPU time of the contender per call, in microseconds, or `None` for a load without a contender's process.
    pub(crate) cpu_us: Option<f64>,
    /// The part of `cpu_us` that the vault used, when the contender is an injector with a vault.
    pub(crate) vault_us: Option<f64>,
}

/// The figures that a load generator measured.
#[derive(Debug, Clone)]
pub(crate) struct LoadResult {
    pub(crate) per_second: f64,
    pub(crate) latencies_us: Vec<u64>,
}

impl LoadResult {
    /// Combines the figures with `cpu`, the CPU time that each process of the contender used.
    pub(crate) fn window(mut self, cpu: &[Duration]) -> Result<Window, Failure> {
        self.latencies_us.sort_unstable();
        let percentile = |share| percentile(&self.latencies_us, share).ok_or("not one call was answered");
        let calls = f64::from(u32::try_from(self.latencies_us.len())?);
        let per_call = |time: &Duration| time.as_secs_f64() * 1e6 / calls;
        Ok(Window {
            per_second: self.per_second,
            p50_ms: percentile(0.50)? / 1e3,
            p99_ms: percentile(0.99)? / 1e3,
            cpu_us: (!cpu.is_empty()).then(|| cpu.iter().map(per_call).sum()),
            vault_us: cpu.get(1).map(per_call),
        })
    }
}

/// Returns the nearest-rank percentile of sorted values.
fn percentile(sorted: &[u64], share: f64) -> Option<f64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank among at most millions of values, which are microseconds"
    )]
    {
        let rank = (sorted.len() as f64 * share).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).map(|&value| value as f64)
    }
}

/// The median and the range of a figure over all rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Returns `None` for no values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let lower = match values.len() % 2 {
            0 => *values.get(middle.checked_sub(1)?)?,
            _ => upper,
        };
        Some(Self {
            median: f64::midpoint(lower, upper),
            low: *values.first()?,
            high: *values.last()?,
        })
    }
}

impl fmt::Display for Spread {
    /// Formats as `1.25 (1.20–1.31)`, with the precision of the format string, or 2 digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, low, high } = *self;
        let digits = f.precision().unwrap_or(2);
        let number = |value: f64| grouped(&format!("{value:.digits$}"));
        write!(f, "{} ({}–{})", number(median), number(low), number(high))
    }
}

/// Separates the thousands of a number, as in `17,800.5`.
pub(crate) fn grouped(number: &str) -> String {
    let (whole, rest) = number.split_at(number.find('.').unwrap_or(number.len()));
    let mut text = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + rest
}

/// Measures the CPU time of processes, with all their threads, from its creation on.
pub(crate) struct Cpu<'a> {
    processes: &'a [u32],
    before: Vec<Duration>,
}

impl<'a> Cpu<'a> {
    pub(crate) fn of(processes: &'a [u32]) -> Result<Self, Failure> {
        let before = cpu_times(processes)?;
        Ok(Self { processes, before })
    }

    /// Returns the CPU time that each process used since the creation of this value.
    pub(crate) fn since(self) -> Result<Vec<Duration>, Failure> {
        let after = cpu_times(self.processes)?.into_iter();
        Ok(after
            .zip(self.before)
            .map(|(after, before)| after.saturating_sub(before))
            .collect())
    }
}

fn cpu_times(processes: &[u32]) -> Result<Vec<Duration>, Failure> {
    let one = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        let ticks = cpu_ticks(&stat).ok_or("/proc/PID/stat is not as expected")?;
        Ok(Duration::from_secs_f64(f64::from(ticks) / TICKS_PER_SECOND))
    };
    processes.iter().map(one).collect()
}

/// The period of a measurement, outside of which calls do not count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Period {
    from: Instant,
    seconds: u32,
}

impl Period {
    /// Returns a period of `seconds` that begins after [`WARM_UP`].
    pub(crate) fn after_warming_up(seconds: u32) -> Self {
        let from = Instant::now() + WARM_UP;
        Self { from, seconds }
    }

    fn until(self) -> Instant {
        self.from + Duration::from_secs(self.seconds.into())
    }

    /// Adds the latency of a call that has just been answered, if the answer came within the period. Returns whether
    /// the period is over.
    pub(crate) fn is_over(self, began: Instant, latencies_us: &mut Vec<u64>) -> bool {
        let now = Instant::now();
        if now > self.until() {
            return true;
        }
        if now >= self.from {
            let took = now.duration_since(began).as_micros();
            latencies_us.push(u64::try_from(took).unwrap_or(u64::MAX));
        }
        false
    }

    /// Measures the processes' CPU time during the period, while the tasks `calls` make calls, and collects the
    /// latencies of these tasks.
    pub(crate) async fn watch(
        self,
        processes: &[u32],
        mut calls: JoinSet<Result<Vec<u64>, Failure>>,
    ) -> Result<Window, Failure> {
        sleep_until(self.from.into()).await;
        let cpu = Cpu::of(processes)?;
        sleep_until(self.until().into()).await;
        let used = cpu.since()?;
        let mut latencies_us = Vec::new();
        while let Some(done) = calls.join_next().await {
            latencies_us.append(&mut done??);
        }
        let per_second = f64::from(u32::try_from(latencies_us.len())?) / f64::from(self.seconds);
        let result = LoadResult {
            per_second,
            latencies_us,
        };
        result.window(&used)
    }
}

/// Returns the sum of `utime` and `stime`, fields 14 and 15 of proc_pid_stat(5), in ticks. Fields are counted after the
/// last parenthesis, because the process's name in field 2 may hold spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// Returns the resident memory of a process, in MiB.
pub(crate) fn resident_mib(process: u32) -> Result<f64, Failure> {
    memory_mib(process, "VmRSS:")
}

/// Returns the highest resident memory that a process has had, in MiB.
pub(crate) fn peak_mib(process: u32) -> Result<f64, Failure> {
    memory_mib(process, "VmHWM:")
}

fn memory_mib(process: u32, field: &str) -> Result<f64, Failure> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    Ok(f64::from(memory_kib(&status, field).ok_or("/proc/PID/status is not as expected")?) / 1024.0)
}

fn memory_kib(status: &str, field: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 0.50), Some(50.0));
        assert_eq!(percentile(&hundred, 0.99), Some(99.0));
        assert_eq!(percentile(&[7], 0.99), Some(7.0));
        assert_eq!(percentile(&[], 0.50), None);
    }

    #[test]
    fn a_spread_is_the_median_and_the_extremes() {
        let odd = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.low, odd.high), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, grouped_) in [
            ("0", "0"),
            ("999", "999"),
            ("1000", "1,000"),
            ("17800.5", "17,800.5"),
            ("1234567", "1,234,567"),
        ] {
            assert_eq!(grouped(number), grouped_);
        }
        let spread = Spread::of([17_800.0, 17_000.0, 18_000.4]).unwrap();
        assert_eq!(format!("{spread:.0}"), "17,800 (17,000–18,000)");
    }

    #[test]
    fn cpu_time_is_read_behind_a_name_that_may_hold_anything() {
        let stat = "42 (a) b) (c) S 1 42 42 0 -1 4194560 900 0 3 0 150 25 0 0 20 0 3 0 1000 1 2";
        assert_eq!(cpu_ticks(stat), Some(175));
        assert_eq!(cpu_ticks("42 (a) S 1"), None);
    }

    #[test]
    fn resident_memory_is_read_from_the_status() {
        let status = "Name:\tx\nVmHWM:\t   23456 kB\nVmRSS:\t   12345 kB\nThreads:\t1\n";
        assert_eq!(memory_kib(status, "VmRSS:"), Some(12_345));
        assert_eq!(memory_kib(status, "VmHWM:"), Some(23_456));
        assert_eq!(memory_kib("Name:\tx\n", "VmRSS:"), None);
    }

    #[test]
    fn cpu_is_shared_among_the_calls_that_were_answered() {
        let result = LoadResult {
            per_second: 4.0,
            latencies_us: vec![4_000, 1_000, 3_000, 2_000],
        };
        let used = [Duration::from_micros(100), Duration::from_micros(20)];
        let window = result.window(&used).unwrap();
        assert_eq!((window.p50_ms, window.p99_ms), (2.0, 4.0));
        assert_eq!((window.cpu_us, window.vault_us), (Some(30.0), Some(5.0)));
    }

    #[test]
    fn nobody_is_charged_where_there_is_no_contender() {
        let result = LoadResult {
            per_second: 1.0,
            latencies_us: vec![1],
        };
        assert_eq!(result.window(&[]).unwrap().cpu_us, None);
    }
}
