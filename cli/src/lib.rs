//! The command line `aerostack`: administers the services, and runs both of them for development.

mod backup;
mod command;
pub mod completion;
pub mod connect;
pub mod console;
mod contexts;
mod data_plane;
mod demo;
mod dev;
pub mod dev_command;
mod echo;
mod failure;
#[cfg(test)]
mod help_tests;
mod init;
mod kubernetes_command;
mod manifest;
mod model;
mod output;
mod pages;
mod pasted_credential;
pub mod pki;
mod pki_command;
mod plan_limit;
mod program_call;
mod secret_import;
mod secret_metadata;
#[cfg(test)]
mod server_settings;
mod service_status;
mod set_up;
mod small_file;
mod template;
mod value;

use std::{error::Error as _, ffi::OsString, process::ExitCode};

use chassis::{settings::EXIT_USAGE, startup};
use clap::{
    CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    error::{ContextKind, ErrorKind},
};

#[derive(Debug, Parser)]
#[command(
    name = "aerostack",
    version,
    about = "Administers vault-service and injector-service, and runs them for development"
)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack dev --demo\n\
\x20 aerostack console\n\
\x20 aerostack workspace secret set my-workspace GITHUB_TOKEN")]
pub struct Cli {
    #[command(flatten)]
    pub connect: connect::ConnectArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(
    clippy::large_enum_variant,
    reason = "one value exists in each run of the program"
)]
pub enum Command {
    /// Run both services on this machine, with an embedded store and new certificates, until Ctrl-C
    Dev(dev::DevArgs),
    /// Serve a web console for both services on this machine, and open it in the browser, until Ctrl-C
    ///
    /// The console has the rights of this client. It prints a link that signs in once.
    Console(console::ConsoleArgs),
    #[command(flatten)]
    SetUp(set_up::SetUpCommand),
    #[command(flatten)]
    Admin(command::AdminCommand),
}

/// The sentence that stands for the flags of the connection in the help of a subcommand.
const CONNECTION_FLAGS: &str =
    "`aerostack --help` lists the flags that name the connection, such as --context and --dir.";

/// The commands that call no running service.
const LOCAL_COMMANDS: [&str; 7] = ["dev", "init", "pki", "kubernetes", "echo", "completions", "man"];

impl Cli {
    /// Returns the command line whose subcommands do not repeat the flags of the connection in their help. The manual pages and
    /// the completions have the flags everywhere.
    fn command_with_short_help() -> clap::Command {
        let mut command = Self::command();
        // Gives the subcommands the flags that are hidden then.
        command.build();
        command.mut_subcommands(|command| match command.get_name() {
            // The flags are what `context add` stores.
            "context" => command,
            name => {
                let connects = !LOCAL_COMMANDS.contains(&name);
                without_connection_flags(command, connects)
            }
        })
    }

    /// Parses the command line. Errors of `secret set` do not quote the command line, because it may hold the value of a
    /// secret, and the output of scripts is often stored in logs.
    pub fn read(args: Vec<OsString>) -> Result<Self, ExitCode> {
        let holds_value = args
            .windows(2)
            .any(|pair| matches!(pair, [noun, verb] if noun == "secret" && verb == "set"));
        let parsed = Self::command_with_short_help().try_get_matches_from(args);
        let parsed = parsed.and_then(|matches| Self::from_arg_matches(&matches));
        parsed.map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::MissingRequiredArgument
            | ErrorKind::ArgumentConflict => startup::report_clap_error(&error),
            _ if !holds_value => startup::report_clap_error(&error),
            kind => startup::fail(
                EXIT_USAGE,
                format_args!(
                    "error: {}{kind}; the command line is not repeated here, because it may hold a value\n  a value with \
                     spaces needs quotes; `aerostack workspace secret set --help` shows the arguments",
                    refused_flag(&error)
                ),
            ),
        })
    }
}

/// Hides the flags of the connection in a command and in those below it.
/// Returns a command without the flags of the connection in its help. A command that `connects` says where they are listed.
fn without_connection_flags(command: clap::Command, connects: bool) -> clap::Command {
    let is_of_connection = |arg: &clap::Arg| arg.get_help_heading() == Some(connect::HELP_HEADING);
    let command = command.mut_subcommands(|command| without_connection_flags(command, connects));
    if !command.get_arguments().any(is_of_connection) {
        return command;
    }
    let examples = command.get_after_help().cloned().unwrap_or_default();
    let after_help = match connects {
        true => format!("{CONNECTION_FLAGS}\n\n{examples}"),
        false => examples.to_string(),
    };
    command.after_help(after_help).mut_args(|arg| {
        let is_hidden = arg.is_hide_set() || is_of_connection(&arg);
        arg.hide(is_hidden)
    })
}

/// Returns the name of the flag whose value was refused, with the cause, and an empty text for other errors. Neither text
/// contains the value: the parsers of flags do not quote their input.
fn refused_flag(error: &clap::Error) -> String {
    let flag = match error.kind() {
        // For other kinds of errors, `InvalidArg` is the input of the user.
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => error.get(ContextKind::InvalidArg),
        _ => None,
    };
    match (flag, error.source()) {
        (Some(flag), Some(cause)) => format!("{flag}: {cause}: "),
        (Some(flag), None) => format!("{flag}: "),
        (None, _) => String::new(),
    }
}
