//! The administrative commands. Each one parses its arguments, calls a service, and returns a report.

mod apply;
mod backup;
mod call;
mod completions;
mod confirm;
mod context;
mod explain;
mod export;
mod key;
mod man;
mod secret;
mod server;
mod status;
mod workspace;

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

use chassis::startup;
use clap::Subcommand;

use crate::{
    connect::{ConnectArgs, Connection},
    failure::{Failure, FailureKind},
    output::{Report, printable},
};

#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Workspaces, their secrets and their servers
    #[command(subcommand)]
    Workspace(workspace::WorkspaceCommand),
    /// Keys of the vault: show and rotate them
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Show for a server the state and the placement of each secret, and whether a call would be forwarded now
    ///
    /// The injector asks the vault, and no call is made. No value leaves the vault. The exit code is 1 when a call would be
    /// refused.
    Explain(explain::ExplainArgs),
    /// Call a server through the injector's data plane, as curl does
    ///
    /// The flags have the meaning that they have in curl. The answer of the upstream is copied to standard output as it
    /// arrives.
    Call(call::CallArgs),
    /// Back up the whole vault into a file, while the vault serves
    Backup(backup::BackupArgs),
    /// Restore a backup into a vault that has no workspaces
    Restore(backup::RestoreBackupArgs),
    /// Write a workspace, its servers and the metadata of its secrets as one YAML document, without values
    ///
    /// The document is written in one order only, so that two of them can be compared in version control.
    Export(export::ExportArgs),
    /// Make a workspace as a document of `export` describes it
    ///
    /// The command shows the difference: `+` is created, `~` changed, `-` deleted, and `!` is a difference that the command
    /// cannot remove, such as a secret that has no value yet. A second run changes nothing. A change that somebody else made
    /// in between is not overwritten. Secrets are never deleted, and servers only with --prune.
    ///
    /// The expiry of a secret changes by a new version with the same value. The command asks, or needs --yes, when an old version
    /// would be lost, because the workspace keeps no more. Origins and labels change only with the value.
    Apply(apply::ApplyArgs),
    /// Show whether both services are ready, and whether this client may use them
    ///
    /// The exit code is 1 when a service or the data plane does not serve, or when a service does not admit this client.
    Status(status::StatusArgs),
    /// Contexts: named connections to services. Add, use, list, show and remove them
    #[command(subcommand)]
    Context(context::ContextCommand),
    /// Print the completions of this command for a shell
    Completions(completions::CompletionsArgs),
    /// Write the manual pages of this command line
    Man(man::ManArgs),
}

impl AdminCommand {
    /// Runs the command, and prints its report or its failure. `aerostack` describes the whole command line.
    pub fn run(self, connect: &ConnectArgs, aerostack: clap::Command) -> ExitCode {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return startup::fail(FailureKind::Internal.code(), error),
        };
        match runtime.block_on(self.execute(connect, aerostack)) {
            Ok(report) => print(&report),
            Err(failure) => print_failure(&failure),
        }
    }

    async fn execute(self, connect: &ConnectArgs, aerostack: clap::Command) -> Result<Report, Failure> {
        let connection = || find_connection(connect);
        match self {
            Self::Workspace(command) => command.run(&connection()?).await,
            Self::Key(command) => command.run(&connection()?).await,
            Self::Explain(args) => args.run(&connection()?).await,
            Self::Call(args) => args.run(&connection()?).await,
            Self::Backup(args) => args.run(&connection()?).await,
            Self::Restore(args) => args.run(&connection()?).await,
            Self::Export(args) => args.run(&connection()?).await,
            Self::Apply(args) => args.run(&connection()?).await,
            Self::Status(args) => args.run(&connection()?).await,
            Self::Context(command) => command.run(connect),
            Self::Completions(args) => Ok(args.run(aerostack)),
            Self::Man(args) => args.run(aerostack),
        }
    }
}

/// Finds the connection of a command, and prints the remark about it, if there is one.
pub(crate) fn find_connection(connect: &ConnectArgs) -> Result<Connection, Failure> {
    let connection = Connection::find(connect, |name| env::var_os(name))?;
    if let Some(remark) = connection.remark() {
        // A closed standard error is ignored.
        drop(writeln!(io::stderr(), "note: {remark}"));
    }
    if let Some(path) = connection.exposed_token_file() {
        let warning = format!(
            "everybody on this machine may read the token in {}; use `chmod 600`",
            path.display()
        );
        drop(writeln!(io::stderr(), "warning: {}", printable(&warning)));
    }
    Ok(connection)
}

fn print(report: &Report) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let printed = stdout
        .write_all(report.result.as_bytes())
        .and_then(|()| stdout.flush());
    for note in &report.notes {
        // A closed standard error is ignored.
        drop(writeln!(io::stderr(), "{}", printable(note)));
    }
    match printed {
        Ok(()) if report.is_negative => ExitCode::from(FailureKind::Negative.code()),
        Ok(()) => ExitCode::SUCCESS,
        // The reader, such as `head`, closed the pipe before the end.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => startup::fail(FailureKind::File.code(), format_args!("standard output: {error}")),
    }
}

pub(crate) fn print_failure(failure: &Failure) -> ExitCode {
    let Failure {
        kind,
        message,
        hint,
        reason: _,
    } = failure;
    let hint = hint
        .as_ref()
        .map(|hint| format!("\n  {}", printable(hint)))
        .unwrap_or_default();
    startup::fail(kind.code(), format_args!("error: {}{hint}", printable(message)))
}
