//! Helpers that the tests of the binary share.
#![allow(dead_code, reason = "no test binary uses all helpers")]

pub(crate) mod dev;

use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

use dev::PATIENCE;

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command to its end. A command that takes too long is killed, so that the test does not hang.
pub(crate) async fn run(mut command: Command) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&child);
    let mut ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    if let Ok(output) = timeout(2 * PATIENCE, &mut ended).await {
        return output.unwrap();
    }
    kill_process(pid, Signal::KILL).unwrap();
    panic!("it does not end: {}", text(&ended.await.unwrap().stderr));
}
