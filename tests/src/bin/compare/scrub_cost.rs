//! Measures the share of a call's CPU time that the search for echoed values takes, `scrub: headers` beside `scrub: off`.
//!
//! The share is smaller than the difference between two seconds of the same machine. The two servers therefore take turns
//! in slices of a fraction of a second, and the result is the mean of hundreds of ratios, each of two neighbouring slices.
//!
//! Two servers of one injector can differ although their settings are equal: in the addresses of their state in memory, for
//! example. They therefore exchange the setting `scrub` after half of each round, so that a difference between them cancels
//! out of the mean. The report has that difference as well.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use http::Uri;
use proto::injector::v1::Scrub;
use tokio::task::JoinSet;

use crate::{
    Common, Failure,
    contenders::{Payload, upstream},
    h2load::{Http, Load, Target},
    paced::{Connection, request},
    report::{RunConditions, page_header},
    run::{bin_dir, say},
    services::{Injector, Placement, Vault, WORKSPACE, server_name},
};

/// Calls of each connection in a slice.
const CALLS: u32 = 40;

/// Pairs of slices in half a round.
const PAIRS: u32 = 50;

/// The servers that are compared.
const SERVERS: [Placement; 2] = [Placement::Bearer, Placement::Unscrubbed];

/// Both servers, with the connections that call them.
struct Bench {
    connections: Vec<Connection>,
    load: Load,
    targets: [Target; 2],
}

/// The results of all pairs of slices.
#[derive(Default)]
struct Results {
    /// The ratio of each pair: CPU time with scrubbing to CPU time without.
    scrubbing: Vec<f64>,
    /// The ratio of each pair: CPU time of the first server to CPU time of the second one.
    servers: Vec<f64>,
    /// The CPU time of all slices with scrubbing, and of all without.
    totals: [Duration; 2],
}

pub(crate) async fn all(common: &Common) -> Result<(), Failure> {
    let mut conditions = RunConditions::new(common, &[])?;
    let bin_dir = bin_dir(common)?;
    let scratch = tempfile::tempdir()?;
    let scratch = scratch.path();
    let (_upstream, to) = upstream(scratch).await?;
    let vault = Vault::start(&bin_dir, scratch, "vault").await?;
    vault.put_servers_secrets().await?;
    let mut injector = Injector::start(&bin_dir, scratch, "injector", &vault, to).await?;
    let mut bench = Bench::open(&injector, &vault, scratch).await?;
    let (rounds, _) = common.rounds_and_seconds();
    let pairs = if common.quick { 5 } else { PAIRS };
    let mut results = Results::default();
    for round in 1..=rounds {
        for scrubbing in [0, 1] {
            for (index, server) in SERVERS.into_iter().enumerate() {
                let scrub = if index == scrubbing {
                    Scrub::Headers
                } else {
                    Scrub::Off
                };
                injector.set_scrub(server, Http::One, scrub).await?;
                bench.slice(index).await?;
            }
            for pair in 0..pairs {
                results.add(bench.pair(pair % 2 == 1).await?, scrubbing);
            }
            crate::process::truncate(&injector.log)?;
        }
        say(&format!(
            "round {round}: {}; first server to second: {}\n",
            Mean::of(&results.scrubbing)?,
            Mean::of(&results.servers)?
        ))?;
    }
    conditions.record_load_after()?;
    let calls = rounds * 2 * pairs * CALLS * Http::One.connections();
    say(&page(&common.out(false), &conditions, &results, calls)?)
}

impl Results {
    /// Adds the CPU times of both servers in a pair of slices, of which the server with the index `scrubbing` scrubs.
    fn add(&mut self, used: [Duration; 2], scrubbing: usize) {
        let [first, second] = used;
        let [on, off] = if scrubbing == 0 {
            [first, second]
        } else {
            [second, first]
        };
        self.scrubbing.push(on.as_secs_f64() / off.as_secs_f64());
        self.servers.push(first.as_secs_f64() / second.as_secs_f64());
        let [total_on, total_off] = &mut self.totals;
        *total_on += on;
        *total_off += off;
    }
}

impl Bench {
    async fn open(injector: &Injector, vault: &Vault, scratch: &Path) -> Result<Self, Failure> {
        let load = Load {
            http: Http::One,
            connections: Http::One.connections(),
            body: Some(Payload::Small.file(scratch)?),
            headers: Payload::Small.headers(),
        };
        let address = injector.data_plane;
        let target = |placement| Target {
            urls: vec![format!(
                "http://{address}/{WORKSPACE}/{}/",
                server_name(placement, Http::One)
            )],
            headers: Vec::new(),
            processes: vec![injector.process.id(), vault.process.id()],
        };
        let url: Uri = format!("http://{address}").parse()?;
        let mut connections = Vec::new();
        for _ in 0..load.connections {
            connections.push(Connection::open(load.http, &url).await?);
        }
        Ok(Self {
            connections,
            load,
            targets: SERVERS.map(target),
        })
    }

    /// Measures both servers once, the second one first when `reversed`. Returns the CPU times of the first and the second
    /// server.
    async fn pair(&mut self, reversed: bool) -> Result<[Duration; 2], Failure> {
        if reversed {
            let second = self.slice(1).await?;
            Ok([self.slice(0).await?, second])
        } else {
            Ok([self.slice(0).await?, self.slice(1).await?])
        }
    }

    /// Makes the calls of a slice to one of the servers, and returns the CPU time that they took.
    async fn slice(&mut self, server: usize) -> Result<Duration, Failure> {
        let target = self.targets.get(server).ok_or("there are two servers")?;
        let url: Uri = target.urls.first().ok_or("no URL")?.parse()?;
        let request = request(&self.load, target, &url)?;
        let before = cpu(&target.processes)?;
        let mut calls = JoinSet::new();
        for mut connection in self.connections.drain(..) {
            let request = request.clone();
            calls.spawn(async move {
                for _ in 0..CALLS {
                    connection.call(request.clone()).await?;
                }
                Ok::<_, Failure>(connection)
            });
        }
        while let Some(done) = calls.join_next().await {
            self.connections.push(done??);
        }
        Ok(cpu(&target.processes)?.saturating_sub(before))
    }
}

/// Returns the CPU time of all threads of some processes, in nanoseconds: the first field of each thread's `schedstat`. The
/// ticks of `/proc/PID/stat` are too coarse for a slice. A thread that ends while the threads are read does not count.
fn cpu(processes: &[u32]) -> Result<Duration, Failure> {
    let mut nanoseconds = 0;
    for process in processes {
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            let Ok(stat) = fs::read_to_string(thread?.path().join("schedstat")) else {
                continue;
            };
            let used = stat.split(' ').next().ok_or("schedstat is not as expected")?;
            nanoseconds += used.parse::<u64>()?;
        }
    }
    if nanoseconds == 0 {
        return Err("the kernel has no schedstat".into());
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// The geometric mean of ratios, with the interval that holds the true mean with a probability of 95 %.
#[derive(Debug, Clone, Copy)]
struct Mean {
    mean: f64,
    low: f64,
    high: f64,
    count: u32,
}

impl Mean {
    fn of(ratios: &[f64]) -> Result<Self, Failure> {
        let count = u32::try_from(ratios.len())?;
        if count < 2 {
            return Err("an interval needs two ratios".into());
        }
        let logarithms = ratios.iter().map(|ratio| ratio.ln());
        let mean = logarithms.clone().sum::<f64>() / f64::from(count);
        let squares: f64 = logarithms.map(|value| (value - mean).powi(2)).sum();
        let error = (squares / f64::from(count - 1) / f64::from(count)).sqrt();
        Ok(Self {
            mean: mean.exp(),
            low: (mean - 1.96 * error).exp(),
            high: (mean + 1.96 * error).exp(),
            count,
        })
    }
}

impl std::fmt::Display for Mean {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            mean,
            low,
            high,
            count,
        } = self;
        write!(f, "{mean:.4} ({low:.4} to {high:.4}, {count} pairs)")
    }
}

fn page(out: &Path, conditions: &RunConditions, results: &Results, calls: u32) -> Result<String, Failure> {
    let [on, off] = results
        .totals
        .map(|total| total.as_secs_f64() * 1e6 / f64::from(calls));
    let scrubbing = Mean::of(&results.scrubbing)?;
    let servers = Mean::of(&results.servers)?;
    fs::create_dir_all(out)?;
    let mut page = page_header("The cost of `scrub: headers`, measured", conditions);
    write!(
        page,
        "
A POST of 200 bytes over 50 HTTP/1.1 connections, and one secret of 38 bytes in a header, to two servers of one injector in turn: {CALLS}
calls on each connection with `scrub: headers`, and as many with `scrub: off`. The servers exchange this setting after half of each round.
CPU is that of the injector and the vault.

| | |
|---|---|
| CPU per call with `scrub: headers` | {on:.2} µs |
| CPU per call with `scrub: off` | {off:.2} µs |
| ratio: geometric mean of the pairs, and its 95 % interval | {scrubbing} |
| ratio of the two servers, whichever of them scrubs | {servers} |
"
    )?;
    let path = out.join("scrub.md");
    fs::write(&path, &page)?;
    Ok(format!("\n{page}\nwritten to {}\n", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_narrows_with_the_number_of_pairs() {
        let few = Mean::of(&[1.1, 0.9, 1.05, 0.97]).unwrap();
        let many = Mean::of(&[1.1, 0.9, 1.05, 0.97].repeat(100)).unwrap();
        assert!(few.low < 1.0 && 1.0 < few.high, "{few}");
        assert!((few.mean - many.mean).abs() < 1e-9, "{few} {many}");
        assert!(many.high - many.low < (few.high - few.low) / 8.0, "{few} {many}");
        assert!(Mean::of(&[1.0]).is_err());
    }

    #[test]
    fn a_difference_between_the_servers_cancels_out() {
        let mut results = Results::default();
        // The first server takes a tenth more than the second one, and scrubbing takes 2 % more.
        let [first, second, factor] = [110_000, 100_000, 102_u64];
        for scrubbing in [0, 1].repeat(10) {
            let mut used = [first, second].map(|micros| micros * 100);
            used[scrubbing] = used[scrubbing] / 100 * factor;
            results.add(used.map(Duration::from_micros), scrubbing);
        }
        let [scrubbing, servers] =
            [&results.scrubbing, &results.servers].map(|ratios| Mean::of(ratios).unwrap().mean);
        assert!((scrubbing - 1.02).abs() < 1e-9, "{scrubbing}");
        assert!((servers - 1.1).abs() < 1e-9, "{servers}");
        let [on, off] = results.totals;
        assert!(off < on, "{on:?} {off:?}");
    }

    #[test]
    fn the_cpu_time_of_this_process_is_read() {
        assert!(cpu(&[std::process::id()]).unwrap() > Duration::ZERO);
    }
}
