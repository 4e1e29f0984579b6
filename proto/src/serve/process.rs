//! What every binary does around its service.

use std::{
    error::Error,
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser;
use rustix::{
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
    thread::disable_transparent_huge_pages,
};
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
    pub fn protect(self) -> io::Result<()> {
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

/// Small pages: with huge ones a service takes several times the memory that it needs, each thread a few of them.
fn take_small_pages() {
    // Where the system has no huge pages, there are none to do without.
    let _ = disable_transparent_huge_pages(true);
}

/// As many open files as the system would give this process if it asked. What is given unasked is often a thousand: for
/// programs that keep descriptors in a set of that size, which this one does not.
fn allow_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let asked = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, asked) {
        tracing::warn!(%error, "the number of open files could not be raised");
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
    take_small_pages();
    telemetry::init(format, filter);
    allow_files();
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
