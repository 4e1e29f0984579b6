//! Memory, threads and descriptors of this process, in which both services and the test run.

use std::fs;

/// Returns the highest amount of resident memory since [`reset_peak`], in bytes.
pub fn peak() -> usize {
    of_status("VmHWM:") << 10
}

/// Starts to measure [`peak`] anew, and returns the present amount.
pub fn reset_peak() -> usize {
    fs::write("/proc/self/clear_refs", "5").unwrap();
    resident()
}

/// Returns the present amount of resident memory, in bytes.
pub fn resident() -> usize {
    of_status("VmRSS:") << 10
}

pub fn threads() -> usize {
    of_status("Threads:")
}

/// Returns the number of open file descriptors.
pub fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Returns the number of tasks in the current runtime and on all worker threads.
pub fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks() + chassis::worker_threads::running_tasks()
}

fn of_status(field: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
