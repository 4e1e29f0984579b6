//! The start of a binary: settings, log, protection of the process and signals; then the service runs until a signal stops
//! it.

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
    signal::{Hangup, ServiceSignals, SignalListener},
    telemetry::{self, LogFilter, LogFormat, chain},
};

/// The error of a service that stopped, of any type.
pub type BoxError = Box<dyn Error>;

/// Reads the settings of a service from the command line and from environment variables that begin with `prefix`. For
/// `--help` and for mistakes, prints clap's text and returns the exit code: 0, or [`EXIT_USAGE`].
pub fn command_line<C: Parser>(prefix: &str) -> Result<C, ExitCode> {
    let command = settings::without_empty(settings::with_variables(C::command(), prefix));
    let parsed = command.try_get_matches().and_then(|mut matches| {
        C::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut C::command()))
    });
    parsed.map_err(|error| report_clap_error(&error))
}

/// Prints clap's help or error, and returns the exit code.
pub fn report_clap_error(error: &clap::Error) -> ExitCode {
    // Fails when standard error is closed; the exit code is what counts.
    drop(error.print());
    if error.use_stderr() {
        ExitCode::from(EXIT_USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

/// The access of other processes to the memory of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryAccess {
    /// Only root: no debugger can attach, and no core is dumped.
    Private,
    /// As the system allows for any process.
    Debuggable,
}

impl MemoryAccess {
    /// Applies the setting to this process. Must be called before a secret is read.
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

/// Turns transparent huge pages off. Every thread uses a few pages of its own, so with huge pages a service takes several
/// times the memory that it needs.
fn disable_huge_pages() {
    // Fails on systems without huge pages.
    let _ = disable_transparent_huge_pages(true);
}

/// Raises the limit of open files to the maximum. The usual default of 1024 is for programs that use `select`, which is
/// not able to handle more.
fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the number of open files could not be raised");
    }
}

/// The settings of a process's log.
pub struct Logging<'s> {
    /// The events that are logged.
    pub filter: LogFilter<'s>,
    /// The format of a line.
    pub format: LogFormat,
    /// The effect of SIGHUP on the process.
    pub hangup: Hangup,
}

impl<'s> Logging<'s> {
    /// Returns the settings of a command that a person runs in a terminal: SIGHUP ends it.
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

/// Starts the log, checks the settings and runs a service until a signal stops it. Returns the exit code.
pub fn serve<C, F: Future<Output = Result<(), BoxError>>>(
    log: Logging<'_>,
    memory: MemoryAccess,
    check: impl FnOnce() -> Result<C, Problems>,
    run: impl FnOnce(C, ServiceSignals) -> F,
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
    disable_huge_pages();
    telemetry::init(format, read);
    raise_file_limit();
    if let Err(error) = memory.protect() {
        return fail(
            1,
            format_args!("memory cannot be protected from other processes: {error}"),
        );
    }
    // Signals are handled before the settings are checked, which can take a while: a SIGHUP must not end a starting
    // service.
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
        let received = ServiceSignals::default();
        tokio::spawn(signals.forward(hangup, received.clone(), move || reload(&filter)));
        run(config, received).await
    });
    telemetry::flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, chain(&*error)),
    }
}

fn listen_to_signals() -> io::Result<(Runtime, SignalListener)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let signals = {
        let _inside = runtime.enter();
        SignalListener::listen()?
    };
    Ok((runtime, signals))
}

/// Reads the log filter again. An invalid filter changes nothing.
fn reload(filter: &LogFilter<'_>) {
    match filter.read() {
        Ok(filter) => {
            let filter = telemetry::set_filter(filter);
            tracing::info!(filter, "SIGHUP: the log filter was read again");
        }
        Err(error) => tracing::warn!(%error, "SIGHUP: the log filter stays as it was"),
    }
}

/// Prints an error to standard error, and returns `code` as the exit code.
pub fn fail(code: u8, error: impl fmt::Display) -> ExitCode {
    drop(writeln!(io::stderr(), "{}", error.to_string().trim_end()));
    ExitCode::from(code)
}
