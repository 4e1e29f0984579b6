//! A pair, and a shell in the directory where it was started.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{dev::Dev, run, text};

/// A running pair, whose directory is `.aerostack` in a directory of its own.
pub(crate) struct Pair {
    pub(crate) dev: Dev,
    home: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Pair {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more on the command line of `aerostack dev`.
    pub(crate) async fn start_with(args: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dev = Dev::start_with(&home.path().join(".aerostack"), args).await;
        Self { dev, home }
    }

    /// On a directory that `prepare` has made.
    pub(crate) async fn start_on(prepare: impl FnOnce(&Path)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".aerostack");
        prepare(&dir);
        let dev = Dev::start(&dir).await;
        Self { dev, home }
    }

    /// The same pair again, after its process was killed.
    pub(crate) async fn restarted(self) -> Self {
        let Self { mut dev, home } = self;
        dev.wait().await;
        let dir = dev.dir.clone();
        drop(dev);
        let dev = Dev::start(&dir).await;
        Self { dev, home }
    }

    /// One with the workspace `w` in it.
    pub(crate) async fn with_workspace() -> Self {
        let pair = Self::start().await;
        pair.ok(&["workspace", "create", "w"]).await;
        pair
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Where an address of the pair is, as flags name it.
    pub(crate) fn at(&self, name: &str) -> String {
        self.dev.ports[name].to_string()
    }

    pub(crate) fn pki(&self, file: &str) -> String {
        self.dev.dir.join("pki").join(file).display().to_string()
    }

    /// Runs `aerostack` with no terminal and nothing to read.
    pub(crate) async fn aerostack(&self, args: &[&str]) -> Ended {
        self.aerostack_reading(args, b"").await
    }

    /// Runs `aerostack`, which may read `input`.
    pub(crate) async fn aerostack_reading(&self, args: &[&str], input: &[u8]) -> Ended {
        let path = self.home.path().join("input");
        fs::File::create(&path).unwrap().write_all(input).unwrap();
        let mut command = clean(env!("CARGO_BIN_EXE_aerostack"), self.home.path());
        command.args(args).stdin(fs::File::open(&path).unwrap());
        ended(command).await
    }

    /// Runs it, and sees that it succeeds.
    pub(crate) async fn ok(&self, args: &[&str]) -> Ended {
        let ended = self.aerostack(args).await;
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.err);
        ended
    }

    /// Runs it with `--output json`, and reads that.
    pub(crate) async fn json(&self, args: &[&str]) -> Value {
        let args = [args, &["--output", "json"]].concat();
        serde_json::from_str(&self.ok(&args).await.out).unwrap()
    }

    /// Runs it, and sees that it fails with `code`. What it said.
    pub(crate) async fn fails(&self, code: i32, args: &[&str]) -> String {
        let ended = self.aerostack(args).await;
        assert_eq!(ended.code, code, "{args:?}: {}{}", ended.out, ended.err);
        assert_eq!(ended.out, "");
        ended.err
    }

    /// Runs a line of shell in which `aerostack` is on the path; standard output and error come as one.
    pub(crate) async fn sh(&self, line: &str) -> String {
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_aerostack"));
        let path = format!("{}:/usr/bin:/bin", binary.parent().unwrap().display());
        let mut command = clean("sh", self.home.path());
        command
            .args(["-c", &format!("{{ {line}; }} 2>&1")])
            .env("PATH", path)
            .stdin(Stdio::null());
        ended(command).await.out
    }
}

/// Without what the tester's own environment says of another pair.
pub(crate) fn clean(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(home);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AEROSTACK_") {
            command.env_remove(name);
        }
    }
    command
}

pub(crate) async fn ended(command: Command) -> Ended {
    let output = run(command).await;
    Ended {
        code: output.status.code().unwrap(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}
