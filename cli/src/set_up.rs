//! Commands that set up services in separate containers, and the demo.

use std::{
    cell::Cell,
    io::{self, Write as _},
    process::ExitCode,
};

use chassis::{
    startup::{self, BoxError, Logging, MemoryAccess},
    telemetry::chain,
};
use clap::Subcommand;

use crate::{
    command,
    connect::ConnectArgs,
    demo::{
        DemoError,
        command::{self as demo, DemoArgs},
    },
    echo::EchoArgs,
    failure::{Failure, FailureKind},
    init::{self, InitArgs},
    kubernetes_command::{self, KubernetesCommand},
    pki_command::PkiCommand,
};

#[derive(Debug, Subcommand)]
pub enum SetUpCommand {
    /// Make the root key and the certificates of services that run separately, such as in containers
    Init(Box<InitArgs>),
    /// Make certificates for the services and their administrators, with a new certificate authority
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Make and renew certificates inside a Kubernetes cluster
    #[command(subcommand)]
    Kubernetes(KubernetesCommand),
    /// Make a workspace, a secret and a server for a demo, on running services
    Demo(DemoArgs),
    /// Run an upstream that answers with the request that it received: the path in clear, values as fingerprints
    Echo(EchoArgs),
}

impl SetUpCommand {
    pub fn run(self, connect: &ConnectArgs) -> ExitCode {
        match self {
            Self::Init(args) => init(&args),
            Self::Pki(command) => pki(&command),
            Self::Kubernetes(command) => with_exit_code(|failed| {
                startup::serve(
                    Logging::of_command("warn"),
                    MemoryAccess::Private,
                    || Ok(()),
                    async |(), _| {
                        let made = command.run().await;
                        say_made(&made.map_err(failed.of(kubernetes_command::failure_kind))?);
                        Ok(())
                    },
                )
            }),
            Self::Demo(args) => match command::find_connection(connect) {
                Ok(connection) => with_exit_code(|failed| {
                    startup::serve(
                        Logging::of_command("warn"),
                        MemoryAccess::Private,
                        || Ok(()),
                        async |(), _| {
                            let done = demo::run(&args, &connection).await;
                            say(&done.map_err(failed.of(DemoError::kind))?);
                            Ok(())
                        },
                    )
                }),
                Err(failure) => command::print_failure(&failure),
            },
            Self::Echo(args) => with_exit_code(|failed| {
                startup::serve(
                    Logging::of_command(&args.log),
                    MemoryAccess::Private,
                    || args.check(),
                    async |echo, asked| {
                        let ended = echo.run(asked.shutdown).await;
                        ended.map_err(failed.of(|_| FailureKind::Configuration))
                    },
                )
            }),
        }
    }
}

fn init(args: &InitArgs) -> ExitCode {
    match init::run(args) {
        Ok(made) => say_made(&made),
        Err(error) => return command::print_failure(&Failure::new(error.kind(), chain(&error))),
    }
    ExitCode::SUCCESS
}

fn pki(command: &PkiCommand) -> ExitCode {
    match command.run() {
        Ok(made) => say_made(made.as_slice()),
        Err(error) => return command::print_failure(&Failure::new(error.kind(), chain(&error))),
    }
    ExitCode::SUCCESS
}

/// Prints a sentence for each thing that a command made.
fn say_made(made: &[String]) {
    match made {
        [] => say("Everything was there already.\n"),
        made => made.iter().for_each(|what| say(&format!("Made {what}.\n"))),
    }
}

/// The kind of the failure that ended a command, for its exit code.
#[derive(Default)]
pub(crate) struct EndedBy(Cell<Option<FailureKind>>);

impl EndedBy {
    /// Returns a function that notes the kind of an error.
    pub(crate) fn of<E: std::error::Error + 'static>(
        &self,
        kind: impl FnOnce(&E) -> FailureKind,
    ) -> impl FnOnce(E) -> BoxError {
        move |error| {
            self.0.set(Some(kind(&error)));
            format!("error: {}", chain(&error)).into()
        }
    }
}

/// Runs a command by [`startup::serve`], which returns the exit code 1 for every error, and returns the exit code of the
/// noted kind instead.
pub(crate) fn with_exit_code(serve: impl FnOnce(&EndedBy) -> ExitCode) -> ExitCode {
    let ended_by = EndedBy::default();
    let code = serve(&ended_by);
    ended_by.0.get().map_or(code, |kind| ExitCode::from(kind.code()))
}

/// Prints to standard output. A closed standard output is ignored.
fn say(text: &str) {
    drop(io::stdout().write_all(text.as_bytes()));
}
