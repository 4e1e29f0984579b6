//! What every binary does around its service.

use std::{
    error::Error,
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tokio_util::sync::CancellationToken;

use super::{
    settings::{EXIT_USAGE, Problems},
    signal,
    telemetry::{self, LogFormat, chain},
};

/// Why a service stopped, whatever it was.
pub type Stopped = Box<dyn Error>;

/// Reads the command line. What clap has to say it says itself: help is a success, a mistake is [`EXIT_USAGE`].
pub fn command_line<C: Parser>() -> Result<C, ExitCode> {
    C::try_parse().map_err(|asked| not_understood(&asked))
}

/// Prints help, or what is wrong with a command line.
pub fn not_understood(asked: &clap::Error) -> ExitCode {
    // Printing fails only when nobody reads it.
    drop(asked.print());
    if asked.use_stderr() {
        ExitCode::from(EXIT_USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

/// Who may look into this process's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Nobody but root: no debugger attaches, no core is dumped.
    Private,
    /// Whom the system lets, as with any other process.
    Debuggable,
}

impl Memory {
    /// Takes effect before anything secret is read.
    fn protect(self) -> io::Result<()> {
        match self {
            Self::Debuggable => Ok(()),
            Self::Private => {
                set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
                let none = Rlimit {
                    current: Some(0),
                    maximum: Some(0),
                };
                Ok(setrlimit(Resource::Core, none)?)
            }
        }
    }
}

/// Logs, checks the settings, and runs a service until a signal says stop.
pub fn serve<C, F: Future<Output = Result<(), Stopped>>>(
    log: &str,
    format: LogFormat,
    memory: Memory,
    check: impl FnOnce() -> Result<C, Problems>,
    run: impl FnOnce(C, CancellationToken) -> F,
) -> ExitCode {
    let filter = match telemetry::parse_filter(log) {
        Ok(filter) => filter,
        Err(error) => return fail(EXIT_USAGE, format_args!("--log: {error}")),
    };
    telemetry::init(format, filter);
    if let Err(error) = memory.protect() {
        return fail(
            1,
            format_args!("memory cannot be protected from other processes: {error}"),
        );
    }
    let config = match check() {
        Ok(config) => config,
        Err(problems) => return fail(EXIT_USAGE, problems),
    };
    let ended = block_on(async { run(config, signal::shutdown_on_signals()?).await });
    telemetry::flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, chain(&*error)),
    }
}

fn block_on(service: impl Future<Output = Result<(), Stopped>>) -> Result<(), Stopped> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(service)
}

/// Says what is wrong, and with which code to exit.
pub fn fail(code: u8, what: impl fmt::Display) -> ExitCode {
    drop(writeln!(io::stderr(), "{}", what.to_string().trim_end()));
    ExitCode::from(code)
}
