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
use tokio::runtime::Runtime;

use super::{
    settings::{self, EXIT_USAGE, Problems},
    signal::{Asked, Hangup, Signals},
    telemetry::{self, LogFilter, LogFormat, chain},
};

/// Why a service stopped, whatever it was.
pub type Stopped = Box<dyn Error>;

/// Reads the settings of a service from the command line and from environment variables that begin with `prefix`. For
/// `--help` and for mistakes, prints clap's text and returns the exit code: 0, or [`EXIT_USAGE`].
pub fn command_line<C: Parser>(prefix: &str) -> Result<C, ExitCode> {
    let command = settings::without_empty(settings::with_variables(C::command(), prefix));
    let parsed = command.try_get_matches().and_then(|mut matches| {
        C::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut C::command()))
    });
    parsed.map_err(|asked| not_understood(&asked))
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

/// The settings of a process's log.
pub struct Logging<'s> {
    /// What is logged.
    pub filter: LogFilter<'s>,
    /// How it is written.
    pub format: LogFormat,
    /// What SIGHUP means to the process.
    pub hangup: Hangup,
}

impl<'s> Logging<'s> {
    /// The log of a command that a person runs in a terminal, and that ends with the terminal.
    pub fn of_command(filter: &'s str) -> Self {
        Self {
            filter: LogFilter {
                text: filter.into(),
                file: None,
            },
            format: LogFormat::Text,
            hangup: Hangup::Ends,
        }
    }
}

/// Logs, checks the settings, and runs a service until a signal says stop.
pub fn serve<C, F: Future<Output = Result<(), Stopped>>>(
    log: Logging<'_>,
    memory: Memory,
    check: impl FnOnce() -> Result<C, Problems>,
    run: impl FnOnce(C, Asked) -> F,
) -> ExitCode {
    let Logging {
        filter,
        format,
        hangup,
    } = log;
    let read = match filter.read() {
        Ok(read) => read,
        Err(error) => return fail(EXIT_USAGE, error),
    };
    take_small_pages();
    telemetry::init(format, read);
    allow_files();
    if let Err(error) = memory.protect() {
        return fail(
            1,
            format_args!("memory cannot be protected from other processes: {error}"),
        );
    }
    // Before the settings are checked, which can take a while: no SIGHUP may end a service that starts.
    let (runtime, signals) = match listen_to_signals() {
        Ok(listening) => listening,
        Err(error) => return fail(1, format_args!("the service could not be started: {error}")),
    };
    let config = match check() {
        Ok(config) => config,
        Err(problems) => return fail(EXIT_USAGE, problems),
    };
    let filter = filter.into_owned();
    let ended = runtime.block_on(async {
        let asked = Asked::default();
        tokio::spawn(signals.obey(hangup, asked.clone(), move || reload(&filter)));
        run(config, asked).await
    });
    telemetry::flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, chain(&*error)),
    }
}

fn listen_to_signals() -> io::Result<(Runtime, Signals)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let signals = {
        let _inside = runtime.enter();
        Signals::listen()?
    };
    Ok((runtime, signals))
}

/// Reads the log filter again. A filter that is not valid changes nothing.
fn reload(filter: &LogFilter<'_>) {
    match filter.read() {
        Ok(filter) => {
            let filter = telemetry::set_filter(filter);
            tracing::info!(
                filter,
                "SIGHUP: the log filter was read again; certificates are read only when the service starts"
            );
        }
        Err(error) => tracing::warn!(%error, "SIGHUP: the log filter stays as it was"),
    }
}

/// Says what is wrong, and with which code to exit.
pub fn fail(code: u8, what: impl fmt::Display) -> ExitCode {
    drop(writeln!(io::stderr(), "{}", what.to_string().trim_end()));
    ExitCode::from(code)
}
