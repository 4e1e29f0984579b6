//! Commands that set up services in separate containers, and the demo.

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

use chassis::{
    startup::{self, Logging, MemoryAccess},
    telemetry::chain,
};
use clap::Subcommand;

use crate::{
    command,
    connect::{ConnectArgs, Connection},
    demo::command::{self as demo, DemoArgs},
    echo::EchoArgs,
    init::{self, InitArgs},
    pki_command::PkiCommand,
};

#[derive(Debug, Subcommand)]
pub enum SetUpCommand {
    /// Make the root key and the certificates of services that run separately, such as in containers
    Init(Box<InitArgs>),
    /// Make certificates for the services and their administrators, with a new certificate authority
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Make a workspace, a secret and a server for a demo, on running services
    Demo(DemoArgs),
    /// Run an upstream that answers with the headers that it received, with secrets as fingerprints
    Echo(EchoArgs),
}

impl SetUpCommand {
    pub fn run(self, connect: &ConnectArgs) -> ExitCode {
        match self {
            Self::Init(args) => init(&args),
            Self::Pki(command) => pki(&command),
            Self::Demo(args) => match Connection::find(connect, |name| env::var_os(name)) {
                Ok(connection) => startup::serve(
                    Logging::of_command("warn"),
                    MemoryAccess::Private,
                    || Ok(()),
                    async |(), _| {
                        say(&demo::run(&args, &connection).await?);
                        Ok(())
                    },
                ),
                Err(failure) => command::print_failure(&failure),
            },
            Self::Echo(args) => startup::serve(
                Logging::of_command(&args.log),
                MemoryAccess::Private,
                || args.check(),
                async |echo, asked| Ok(echo.run(asked.shutdown).await?),
            ),
        }
    }
}

fn init(args: &InitArgs) -> ExitCode {
    match init::run(args) {
        Ok(made) if made.is_empty() => say("Everything was there already.\n"),
        Ok(made) => made.iter().for_each(|what| say(&format!("Made {what}.\n"))),
        Err(error) => return startup::fail(1, chain(&error)),
    }
    ExitCode::SUCCESS
}

fn pki(command: &PkiCommand) -> ExitCode {
    match command.run() {
        Ok(None) => say("Everything was there already.\n"),
        Ok(Some(made)) => say(&format!("Made {made}.\n")),
        Err(error) => return startup::fail(1, chain(&error)),
    }
    ExitCode::SUCCESS
}

/// Prints to standard output. A closed standard output is ignored.
fn say(text: &str) {
    drop(io::stdout().write_all(text.as_bytes()));
}
