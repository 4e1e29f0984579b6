//! The command line: runs the pair for development, and administers it.

pub mod command;
pub mod connect;
pub mod data_plane;
pub mod demo;
pub mod dev;
pub mod echo;
pub mod env_file;
pub mod failure;
pub mod init;
pub mod model;
pub mod output;
pub mod pki;
pub mod pki_command;
pub mod prompt;
pub mod set_up;
pub mod shape;
pub mod value;

use std::{error::Error as _, ffi::OsString, process::ExitCode};

use chassis::{process, settings::EXIT_USAGE};
use clap::{
    Parser, Subcommand,
    error::{ContextKind, ErrorKind},
};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "aerostack",
    version,
    about = "Administers vault-service and injector-service, and runs them for development"
)]
pub struct Cli {
    /// How the services are found.
    #[command(flatten)]
    pub connect: connect::ConnectArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run both services on this machine, with an embedded store and certificates of its own, until Ctrl-C
    Dev(dev::DevArgs),
    /// Set up a pair whose parts run apart.
    #[command(flatten)]
    SetUp(set_up::SetUp),
    /// Administer a running pair.
    #[command(flatten)]
    Admin(command::Admin),
}

impl Cli {
    /// Reads the command line. What is wrong with one that may hold a secret's value is said without quoting it, because
    /// the output of scripts is kept by others.
    pub fn read(args: Vec<OsString>) -> Result<Self, ExitCode> {
        let holds_value = args
            .windows(2)
            .any(|pair| matches!(pair, [noun, verb] if noun == "secret" && verb == "set"));
        Self::try_parse_from(args).map_err(|wrong| match wrong.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::MissingRequiredArgument
            | ErrorKind::ArgumentConflict => process::not_understood(&wrong),
            _ if !holds_value => process::not_understood(&wrong),
            kind => process::fail(
                EXIT_USAGE,
                format_args!(
                    "error: {}{kind}; what was given is not repeated here, because it may hold a value\n  a value with \
                     spaces needs quotes; `aerostack workspace secret set --help` shows what may be given",
                    wrong_flag(&wrong)
                ),
            ),
        })
    }
}

/// Names the flag whose value was not taken, and says why; empty when it was something else. Both texts are the command's
/// own: the parsers of flags do not repeat what they are given.
fn wrong_flag(wrong: &clap::Error) -> String {
    let flag = match wrong.kind() {
        // With other kinds the "argument" is what was given.
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => wrong.get(ContextKind::InvalidArg),
        _ => None,
    };
    match (flag, wrong.source()) {
        (Some(flag), Some(cause)) => format!("{flag}: {cause}: "),
        (Some(flag), None) => format!("{flag}: "),
        (None, _) => String::new(),
    }
}
