#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

use std::{
    sync::{Condvar, Mutex},
    time::Instant,
};

use serde_json::Value;
use tokio::task::JoinSet;

use super::*;

/// A simulated disk with limited room, which writes as many bytes as fit.
#[derive(Clone)]
struct Disk(Arc<(Mutex<DiskState>, Condvar)>);

struct DiskState {
    written: Vec<u8>,
    writes: usize,
    synced: bool,
    room: usize,
    hangs: bool,
}

impl Disk {
    fn new(room: usize) -> Self {
        let state = DiskState {
            written: Vec::new(),
            writes: 0,
            synced: false,
            room,
            hangs: false,
        };
        Self(Arc::new((Mutex::new(state), Condvar::new())))
    }

    fn change(&self, change: impl FnOnce(&mut DiskState)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    /// Returns the lines written so far, and panics when a line is not JSON.
    fn lines(&self) -> Vec<Value> {
        let state = self.0.0.lock().unwrap();
        let text = std::str::from_utf8(&state.written).unwrap();
        let parsed = text.lines().map(|line| serde_json::from_str(line).expect(line));
        parsed.collect()
    }

    fn methods(&self) -> Vec<String> {
        let method = |line: &Value| line["method"].as_str().unwrap_or_default().to_owned();
        self.lines().iter().map(method).collect()
    }
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let state = self.0.0.lock().unwrap();
        let mut state = self.0.1.wait_while(state, |state| state.hangs).unwrap();
        let count = bytes.len().min(state.room);
        if count == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.room -= count;
        state.writes += 1;
        state.written.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.change(|state| state.synced = true);
        Ok(())
    }
}

fn log(disk: &Disk, mode: AuditMode) -> (AuditLog, AuditMetrics) {
    let metrics = AuditMetrics::default();
    let output = AuditOutput::to(disk.clone(), mode);
    (AuditLog::start(Some(output), metrics.clone()).unwrap(), metrics)
}

fn line(method: &str) -> Lines {
    Lines::of(&Line {
        method,
        ..Line::new(Event::Call)
    })
}

async fn becomes(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn write_returns_after_its_line_is_written_and_waiting_lines_are_written_together() {
    let disk = Disk::new(usize::MAX);
    let (log, metrics) = log(&disk, AuditMode::Required);
    log.write(line("first")).await.unwrap();
    assert_eq!(disk.methods(), ["first"]);
    disk.change(|state| state.hangs = true);
    let mut writers = JoinSet::new();
    for number in 0..100 {
        let log = log.clone();
        writers.spawn(async move { log.write(line(&number.to_string())).await });
    }
    tokio::task::yield_now().await;
    disk.change(|state| state.hangs = false);
    assert!(writers.join_all().await.iter().all(Result::is_ok));
    let mut methods = disk.methods();
    methods.sort();
    methods.dedup();
    assert_eq!((methods.len(), metrics.lines.get()), (101, 101));
    log.close().await;
    assert!(disk.0.0.lock().unwrap().synced);
}

#[tokio::test]
async fn calls_are_refused_while_the_disk_is_full_and_every_line_is_written_whole() {
    let disk = Disk::new(70);
    let (log, metrics) = log(&disk, AuditMode::Required);
    log.admit().unwrap();
    let refused = log.write(line("torn")).await.and(log.write(line("torn")).await);
    assert_eq!(refused.unwrap_err().reason, Reason::AuditUnavailable);
    assert_eq!(metrics.failing.get(), 1);
    assert_eq!(log.admit().unwrap_err().reason, Reason::AuditUnavailable);
    // A call that was admitted before the failure gets an error for its line.
    let began = Instant::now();
    assert!(log.write(line("waits")).await.is_err());
    assert!(began.elapsed() < WRITE_TIMEOUT);
    disk.change(|state| state.room = usize::MAX);
    becomes("the log is written again", || log.admit().is_ok()).await;

    log.admit().unwrap();
    log.write(line("after")).await.unwrap();
    assert_eq!(disk.methods().last().unwrap(), "after");
    assert!(disk.methods().contains(&"waits".to_owned()));
    assert_eq!(disk.methods()[0], "torn");
    assert_eq!((metrics.omitted.get(), metrics.failing.get()), (0, 0));
}

#[tokio::test]
async fn calls_are_refused_and_not_blocked_while_a_write_does_not_return() {
    let disk = Disk::new(usize::MAX);
    let (log, _) = log(&disk, AuditMode::Required);
    disk.change(|state| state.hangs = true);
    let began = Instant::now();
    assert!(log.write(line("held")).await.is_err());
    assert!(log.admit().is_err());
    assert!(log.write(line("begun")).await.is_err());
    assert!(began.elapsed() < 2 * WRITE_TIMEOUT);
    disk.change(|state| state.hangs = false);
    becomes("the log is written again", || log.admit().is_ok()).await;
    log.write(line("after")).await.unwrap();
    assert_eq!(disk.methods(), ["held", "begun", "after"]);
}

#[tokio::test]
async fn in_best_effort_mode_calls_are_served_and_lost_lines_are_counted() {
    let disk = Disk::new(0);
    let (log, metrics) = log(&disk, AuditMode::BestEffort);
    let long = "x".repeat(100);
    let pushed: u64 = 100_000;
    for _ in 0..pushed {
        log.admit().unwrap();
        log.write(line(&long)).await.unwrap();
    }
    let omitted = metrics.omitted.get();
    assert!((1..pushed).contains(&omitted), "{omitted}");
    disk.change(|state| state.room = usize::MAX);
    becomes("the lines are written", || {
        metrics.lines.get() == pushed - omitted + 1
    })
    .await;
    let lines = disk.lines();
    let told: Vec<_> = lines.iter().filter(|line| line["event"] == "omitted").collect();
    assert_eq!((told.len(), &told[0]["count"]), (1, &Value::from(omitted)));
}

#[tokio::test]
async fn lines_of_denied_calls_beyond_the_rate_are_counted_and_omitted() {
    let disk = Disk::new(usize::MAX);
    let (log, metrics) = log(&disk, AuditMode::Required);
    for _ in 0..5000 {
        log.write_denial(line("anonymous"), false).await;
    }
    log.write_denial(line("known"), true).await;
    log.close().await;
    let methods = disk.methods();
    let written = methods.iter().filter(|method| *method == "anonymous").count();
    assert!((1000..3000).contains(&written), "{written}");
    assert!(methods.contains(&"known".to_owned()));
    let counts: u64 = disk
        .lines()
        .iter()
        .filter_map(|line| line["count"].as_u64())
        .sum();
    assert_eq!(written as u64 + counts, 5000);
    assert_eq!(metrics.omitted.get(), counts);
}

#[tokio::test]
async fn without_a_log_all_calls_are_served() {
    let log = AuditLog::start(None, AuditMetrics::default()).unwrap();
    log.admit().unwrap();
    log.write(line("x")).await.unwrap();
    log.enqueue(line("x"));
    log.close().await;
}
