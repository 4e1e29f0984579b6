//! Runs h2load against one contender and parses its output.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    Failure,
    measure::{Cpu, LoadResult, Window},
    process::Process,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

impl Http {
    pub(crate) const BOTH: [Self; 2] = [Self::One, Self::Two];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::One => "HTTP/1.1",
            Self::Two => "HTTP/2",
        }
    }

    /// Returns the number of connections. HTTP/1.1 has one call at a time on each connection, and HTTP/2 has 10.
    pub(crate) fn connections(self) -> u32 {
        match self {
            Self::One => 50,
            Self::Two => 10,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) http: Http,
    pub(crate) connections: u32,
    /// The file with the body of a POST request. Without a file, h2load sends GET requests.
    pub(crate) body: Option<PathBuf>,
    /// Header lines of the form `name: value`.
    pub(crate) headers: Vec<String>,
}

/// The contender that gets the load.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// One URL, or a few that h2load calls in turn.
    pub(crate) urls: Vec<String>,
    pub(crate) headers: Vec<String>,
    /// The processes whose CPU time counts.
    pub(crate) processes: Vec<u32>,
}

#[derive(Debug, Clone)]
pub(crate) struct Generator {
    pub(crate) scratch: PathBuf,
    pub(crate) seconds: u32,
}

impl Generator {
    /// Loads a contender for half a second, so that connections and caches are warm, and then for the measured time.
    pub(crate) async fn measure(&self, load: &Load, target: &Target) -> Result<Window, Failure> {
        self.load(load, target, "500ms").await?;
        let cpu = Cpu::of(&target.processes)?;
        let result = self.load(load, target, &format!("{}s", self.seconds)).await?;
        result.window(&cpu.since()?)
    }

    async fn load(&self, load: &Load, target: &Target, duration: &str) -> Result<LoadResult, Failure> {
        let (log, calls) = (self.scratch.join("h2load.log"), self.scratch.join("h2load.calls"));
        let arguments = arguments(load, target, duration, &calls);
        // h2load appends to an existing log.
        drop(fs::remove_file(&calls));
        let mut process = Process::start("h2load", Path::new("h2load"), arguments, &log)?;
        let output = process
            .wait_for_success(Duration::from_secs(u64::from(self.seconds) + 30))
            .await?;
        let latencies_us = parse_calls(&fs::read_to_string(&calls)?)?;
        let per_second =
            parse_rate(&output).ok_or_else(|| format!("h2load said something else:\n{output}"))?;
        Ok(LoadResult {
            per_second,
            latencies_us,
        })
    }
}

fn arguments(load: &Load, target: &Target, duration: &str, calls: &Path) -> Vec<String> {
    let Load {
        http,
        connections,
        body,
        headers,
    } = load;
    let mut arguments = vec![
        format!("--clients={connections}"),
        "--threads=1".to_owned(),
        format!("--duration={duration}"),
        format!("--log-file={}", calls.display()),
    ];
    match http {
        Http::One => arguments.push("--h1".to_owned()),
        Http::Two => arguments.push("--max-concurrent-streams=10".to_owned()),
    }
    arguments.extend(body.iter().map(|body| format!("--data={}", body.display())));
    let headers = headers.iter().chain(&target.headers);
    arguments.extend(headers.map(|header| format!("--header={header}")));
    arguments.extend(target.urls.iter().cloned());
    arguments
}

/// Parses the rate from a line such as `finished in 3.00s, 17812.33 req/s, 4.06MB/s`.
fn parse_rate(output: &str) -> Option<f64> {
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix("finished in "))?;
    let rate = line.split(", ").nth(1)?.strip_suffix(" req/s")?;
    rate.parse().ok().filter(|rate| *rate > 0.0)
}

/// Parses the latencies from lines with the start, the status and the microseconds of a call. One failed call is an
/// error for the whole measurement.
fn parse_calls(text: &str) -> Result<Vec<u64>, Failure> {
    let mut latencies = Vec::new();
    for line in text.lines() {
        let mut fields = line.split('\t').skip(1);
        let (status, latency) = (
            fields.next().unwrap_or_default(),
            fields.next().unwrap_or_default(),
        );
        if status != "200" {
            return Err(format!("a call was answered with {status:?}: {line:?}").into());
        }
        latencies.push(latency.parse()?);
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_what_h2load_says_it_was() {
        let output =
            "progress: 90% done\n\nfinished in 3.00s, 17812.33 req/s, 4.06MB/s\nrequests: 53437 total\n";
        assert_eq!(parse_rate(output), Some(17_812.33));
        assert_eq!(parse_rate("finished in 3.00s, 0.00 req/s, 0B/s"), None);
        assert_eq!(parse_rate("Could not connect to host"), None);
    }

    #[test]
    fn one_call_that_failed_spoils_everything() {
        let calls = "1700000000000001\t200\t512\n1700000000000002\t200\t498\n";
        assert_eq!(parse_calls(calls).unwrap(), [512, 498]);
        assert!(parse_calls("1700000000000001\t200\t512\n1700000000000002\t502\t9\n").is_err());
        assert!(parse_calls("1700000000000002\t-1\t9\n").is_err());
    }

    #[test]
    fn each_protocol_has_its_connections() {
        let load = |http: Http| Load {
            http,
            connections: http.connections(),
            body: Some("/b".into()),
            headers: vec!["te: trailers".to_owned()],
        };
        let target = Target {
            urls: vec!["http://127.0.0.1:1/".to_owned()],
            headers: Vec::new(),
            processes: Vec::new(),
        };
        let one = arguments(&load(Http::One), &target, "3s", Path::new("/c"));
        assert!(one.contains(&"--h1".to_owned()) && one.contains(&"--clients=50".to_owned()));
        let two = arguments(&load(Http::Two), &target, "3s", Path::new("/c"));
        assert!(two.contains(&"--clients=10".to_owned()) && !two.contains(&"--h1".to_owned()));
        assert_eq!(two.last().unwrap(), "http://127.0.0.1:1/");
    }
}
