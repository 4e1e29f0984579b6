//! `aerostack console`: a web console in the browser of the person who started it.
//!
//! The console is a client of both services, with the identity of the command line. Pages are rendered here, and a page
//! never contains the value of a secret.

mod app;
mod args;
mod assets;
mod browser;
mod error;
mod fields;
mod guard;
mod page;
mod peer_user;
mod router;
mod server;
mod services;
mod session_memory;
mod sign_in;
mod upload;
mod view;

use std::{env, process::ExitCode};

use chassis::startup::{self, Logging, MemoryAccess};

pub use self::args::ConsoleArgs;
use self::error::ConsoleError;
use crate::{
    command,
    connect::{ConnectArgs, Connection},
    set_up::with_exit_code,
};

/// Runs the command until a signal ends it.
pub fn run(args: ConsoleArgs, connect: &ConnectArgs) -> ExitCode {
    let connection = match Connection::find(connect, |name| env::var_os(name)) {
        Ok(connection) => connection,
        Err(failure) => return command::print_failure(&failure),
    };
    with_exit_code(|failed| {
        startup::serve(
            Logging::of_command("warn"),
            // Values pass through the memory of this process.
            MemoryAccess::Private,
            || args.check(),
            async |settings, asked| {
                let ended = server::run(settings, connection, asked.shutdown).await;
                ended.map_err(failed.of(ConsoleError::kind))
            },
        )
    })
}
