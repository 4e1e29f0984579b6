//! The commands that set up a pair whose parts run apart, such as containers, and something to show with it.

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

use chassis::{
    process::{self, Logging, Memory},
    telemetry::chain,
};
use clap::Subcommand;

use crate::{
    command,
    connect::{ConnectArgs, Connection},
    demo::set_up::{self as demo, DemoArgs},
    echo::EchoArgs,
    init::{self, InitArgs},
    pki_command::PkiCommand,
};

/// What sets up a pair.
#[derive(Debug, Subcommand)]
pub enum SetUp {
    /// Make the root key and the certificates of a pair whose parts run apart, such as containers
    Init(Box<InitArgs>),
    /// Make certificates for the services and their administrators, without a certificate authority of your own
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Make a workspace, a secret and a server on a running pair, to have something to call
    Demo(DemoArgs),
    /// Run an upstream that answers with what it received, secrets as fingerprints
    Echo(EchoArgs),
}

impl SetUp {
    /// Runs the command to its end, and says how it went.
    pub fn run(self, connect: &ConnectArgs) -> ExitCode {
        match self {
            Self::Init(args) => init(&args),
            Self::Pki(command) => pki(&command),
            Self::Demo(args) => match Connection::find(connect, |name| env::var_os(name)) {
                Ok(connection) => process::serve(
                    Logging::of_command("warn"),
                    Memory::Private,
                    || Ok(()),
                    async |(), _| {
                        say(&demo::run(&args, &connection).await?);
                        Ok(())
                    },
                ),
                Err(failure) => command::print_failure(&failure),
            },
            Self::Echo(args) => process::serve(
                Logging::of_command(&args.log),
                Memory::Private,
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
        Err(error) => return process::fail(1, chain(&error)),
    }
    ExitCode::SUCCESS
}

fn pki(command: &PkiCommand) -> ExitCode {
    match command.run() {
        Ok(None) => say("Everything was there already.\n"),
        Ok(Some(made)) => say(&format!("Made {made}.\n")),
        Err(error) => return process::fail(1, chain(&error)),
    }
    ExitCode::SUCCESS
}

/// To whoever reads it; nobody has to.
fn say(said: &str) {
    drop(io::stdout().write_all(said.as_bytes()));
}
