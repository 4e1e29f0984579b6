//! The administrative commands: each parses its arguments, calls a service, and reports.

mod backup;
mod call;
mod completions;
mod explain;
mod key;
mod pages;
mod secret;
mod server;
mod status;
mod workspace;

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

use chassis::process;
use clap::Subcommand;

use crate::{
    connect::{ConnectArgs, Connection},
    failure::{Failure, FailureKind},
    output::{Report, printable},
};

/// What administrators do.
#[derive(Debug, Subcommand)]
pub enum Admin {
    /// Workspaces, their secrets and their servers
    #[command(subcommand)]
    Workspace(workspace::Command),
    /// The vault's keys: their status, and rotations
    #[command(subcommand)]
    Key(key::Command),
    /// What a call to a server would carry now, and which of its secrets do not exist
    Explain(explain::ExplainArgs),
    /// Call a server through the injector's data plane, as curl does
    Call(call::CallArgs),
    /// Back up the whole vault into a file, while it serves
    Backup(backup::BackupArgs),
    /// Restore a backup into a vault that has no workspaces
    Restore(backup::RestoreArgs),
    /// How both services are, at a glance
    Status(status::StatusArgs),
    /// Print a shell's completions for this command
    Completions(completions::CompletionsArgs),
}

impl Admin {
    /// Runs the command to its end, and says how it went.
    pub fn run(self, connect: &ConnectArgs) -> ExitCode {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return process::fail(FailureKind::Internal.code(), error),
        };
        match runtime.block_on(self.execute(connect)) {
            Ok(report) => print(&report),
            Err(failure) => print_failure(&failure),
        }
    }

    async fn execute(self, connect: &ConnectArgs) -> Result<Report, Failure> {
        let connection = || Connection::find(connect, |name| env::var_os(name));
        match self {
            Self::Workspace(command) => command.run(&connection()?).await,
            Self::Key(command) => command.run(&connection()?).await,
            Self::Explain(args) => args.run(&connection()?).await,
            Self::Call(args) => args.run(&connection()?).await,
            Self::Backup(args) => args.run(&connection()?).await,
            Self::Restore(args) => args.run(&connection()?).await,
            Self::Status(args) => args.run(&connection()?).await,
            Self::Completions(args) => Ok(args.run()),
        }
    }
}

fn print(report: &Report) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let printed = stdout
        .write_all(report.result.as_bytes())
        .and_then(|()| stdout.flush());
    for note in &report.notes {
        // Nobody has to read it.
        drop(writeln!(io::stderr(), "{}", printable(note)));
    }
    match printed {
        Ok(()) if report.is_negative => ExitCode::from(FailureKind::Negative.code()),
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => process::fail(FailureKind::File.code(), format_args!("standard output: {error}")),
    }
}

/// One sentence, and what to do next.
pub(crate) fn print_failure(failure: &Failure) -> ExitCode {
    let Failure { kind, message, hint } = failure;
    let hint = hint
        .as_ref()
        .map(|hint| format!("\n  {}", printable(hint)))
        .unwrap_or_default();
    process::fail(kind.code(), format_args!("error: {}{hint}", printable(message)))
}
