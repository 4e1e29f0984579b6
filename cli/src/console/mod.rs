//! `aerostack console`: a web console in the browser of the person who started it.
//!
//! The console is a client of both services, with the identity of the command line. Pages are rendered here, and a page
//! never contains the value of a secret.

mod activity;
mod app;
mod args;
mod assets;
mod browser;
mod cookie;
mod error;
mod fields;
mod guard;
mod guard_refusal;
mod live_streams;
mod map;
mod page;
mod peer_user;
mod remembered_access;
mod router;
mod server;
mod services;
mod session_memory;
mod sign_in;
mod upload;
mod user_access;
mod view;
mod workspace_access;

use std::process::ExitCode;

use chassis::{
    keepalive::TcpTimeout,
    listen,
    startup::{self, Logging, MemoryAccess},
};
use tokio_util::sync::CancellationToken;

pub use self::args::ConsoleArgs;
use self::args::ConsoleSettings;
pub(crate) use self::{args::refuse_reachable, error::ConsoleError, server::Console};
use crate::{
    command,
    connect::{ConnectArgs, Connection},
    set_up::with_exit_code,
};

/// Runs the command until a signal ends it.
pub fn run(args: ConsoleArgs, connect: &ConnectArgs) -> ExitCode {
    let connection = match command::find_connection(connect) {
        Ok(connection) => connection,
        Err(failure) => return command::print_failure(&failure),
    };
    with_exit_code(|failed| {
        startup::serve(
            Logging::of_command(args.log_filter()),
            // Values pass through the memory of this process.
            MemoryAccess::Private,
            || args.check(),
            async |settings, asked| {
                let ended = serve(settings, connection, asked.shutdown).await;
                ended.map_err(failed.of(ConsoleError::kind))
            },
        )
    })
}

/// Listens, prints the address or a link, and serves until `shutdown`.
async fn serve(
    settings: ConsoleSettings,
    connection: Connection,
    shutdown: CancellationToken,
) -> Result<(), ConsoleError> {
    let ConsoleSettings {
        listen,
        opens_browser,
        users,
    } = settings;
    let listener =
        listen::bind(listen, TcpTimeout::default()).map_err(|error| ConsoleError::ListenOnFlag { error })?;
    let console = match users {
        None => Console::for_one_person(listener, connection, None)?,
        Some(access) => Console::for_users(listener, connection, access)?,
    };
    browser::invite(&console, opens_browser)?;
    console.serve(shutdown).await;
    Ok(())
}
