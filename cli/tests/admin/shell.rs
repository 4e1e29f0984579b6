//! Running services, and the commands that a test runs against them.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{dev::Dev, run, text};

/// A running `aerostack dev`, with its directory `.aerostack` inside the temporary directory `home`.
pub(crate) struct TestServices {
    pub(crate) dev: Dev,
    home: TempDir,
}

/// Exit code, standard output and standard error of a command.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl TestServices {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts `aerostack dev` with additional arguments.
    pub(crate) async fn start_with(args: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dev = Dev::start_with(&home.path().join(".aerostack"), args).await;
        Self { dev, home }
    }

    /// Starts `aerostack dev` on a directory that `prepare` makes.
    pub(crate) async fn start_on(prepare: impl FnOnce(&Path)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".aerostack");
        prepare(&dir);
        let dev = Dev::start(&dir).await;
        Self { dev, home }
    }

    /// Starts `aerostack dev` again on the same directory, after its process was killed.
    pub(crate) async fn restarted(self) -> Self {
        let Self { mut dev, home } = self;
        dev.wait().await;
        let dir = dev.dir.clone();
        drop(dev);
        let dev = Dev::start(&dir).await;
        Self { dev, home }
    }

    /// Starts services with the workspace `w`.
    pub(crate) async fn with_workspace() -> Self {
        let services = Self::start().await;
        services.ok(&["workspace", "create", "w"]).await;
        services
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Returns the address of a listener, by its name in `ports.json`.
    pub(crate) fn address(&self, name: &str) -> String {
        self.dev.ports[name].to_string()
    }

    pub(crate) fn pki(&self, file: &str) -> String {
        self.dev.dir.join("pki").join(file).display().to_string()
    }

    /// Runs `aerostack` without a terminal and with empty standard input.
    pub(crate) async fn aerostack(&self, args: &[&str]) -> CommandOutput {
        self.aerostack_with_input(args, b"").await
    }

    /// Runs `aerostack` with `input` as standard input.
    pub(crate) async fn aerostack_with_input(&self, args: &[&str], input: &[u8]) -> CommandOutput {
        let path = self.home.path().join("input");
        fs::File::create(&path).unwrap().write_all(input).unwrap();
        let mut command = clean_command(env!("CARGO_BIN_EXE_aerostack"), self.home.path());
        command.args(args).stdin(fs::File::open(&path).unwrap());
        run_command(command).await
    }

    /// Runs `aerostack`, and checks that it succeeds.
    pub(crate) async fn ok(&self, args: &[&str]) -> CommandOutput {
        let output = self.aerostack(args).await;
        assert_eq!(output.code, 0, "{args:?}: {}", output.err);
        output
    }

    /// Runs `aerostack` with `--output json`, and parses the output.
    pub(crate) async fn json(&self, args: &[&str]) -> Value {
        let args = [args, &["--output", "json"]].concat();
        serde_json::from_str(&self.ok(&args).await.out).unwrap()
    }

    /// Runs `aerostack`, checks that it fails with `code`, and returns its standard error.
    pub(crate) async fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.aerostack(args).await;
        assert_eq!(output.code, code, "{args:?}: {}{}", output.out, output.err);
        assert_eq!(output.out, "");
        output.err
    }

    /// Runs a line of shell with `aerostack` on the path. Returns standard output and standard error merged.
    pub(crate) async fn sh(&self, line: &str) -> String {
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_aerostack"));
        let path = format!("{}:/usr/bin:/bin", binary.parent().unwrap().display());
        let mut command = clean_command("sh", self.home.path());
        command
            .args(["-c", &format!("{{ {line}; }} 2>&1")])
            .env("PATH", path)
            .stdin(Stdio::null());
        run_command(command).await.out
    }
}

/// Returns a command without the `AEROSTACK_` variables and the contexts of the environment that runs the tests.
pub(crate) fn clean_command(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(home)
        .env("XDG_CONFIG_HOME", home.join(".config"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AEROSTACK_") {
            command.env_remove(name);
        }
    }
    command
}

pub(crate) async fn run_command(command: Command) -> CommandOutput {
    let output = run(command).await;
    CommandOutput {
        code: output.status.code().unwrap(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}
