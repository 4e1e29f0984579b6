//! What this process takes, which is what both services in it take, and the test itself.

use std::fs;

/// The most memory that it had at once, in bytes.
pub fn peak() -> usize {
    of_status("VmHWM:") << 10
}

/// Begins to measure [`peak`] anew; what it is now.
pub fn forget_peak() -> usize {
    fs::write("/proc/self/clear_refs", "5").unwrap();
    resident()
}

/// The memory that it has now, in bytes.
pub fn resident() -> usize {
    of_status("VmRSS:") << 10
}

/// Its threads.
pub fn threads() -> usize {
    of_status("Threads:")
}

/// Its open file descriptors.
pub fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The tasks of the runtime that this is called in, and of all lanes.
pub fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks() + chassis::worker_threads::running_tasks()
}

fn of_status(field: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
