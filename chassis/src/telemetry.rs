//! Logs as data, one line an event, to standard error. While there are many, lines wait for 10 ms at the most.

use std::{
    borrow::Cow,
    error::Error,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Instant,
};

use super::lines::Lines;
pub use super::lines::flush;
use clap::ValueEnum;
use tracing_subscriber::{
    Registry,
    filter::{ParseError, Targets},
    fmt,
    prelude::*,
    reload,
};

/// The names of the fields that logs have.
pub mod field {
    /// Full name of an RPC.
    pub const METHOD: &str = "method";
    /// Who called.
    pub const PRINCIPAL: &str = "principal";
    /// The gRPC code of the answer.
    pub const CODE: &str = "code";
    /// A sentence on what went wrong.
    pub const DETAIL: &str = "detail";
    /// Milliseconds that it took.
    pub const MS: &str = "ms";
    /// A workspace's name.
    pub const WORKSPACE: &str = "workspace";
    /// A server's name.
    pub const SERVER: &str = "server";
    /// Why a call was refused.
    pub const REASON: &str = "reason";
    /// What ties a call's log line to its answer.
    pub const CALL_ID: &str = "call_id";
    /// An internal error behind a refusal; never shown to callers.
    pub const ERROR: &str = "error";
}

/// An error and what caused it, in one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| Error::source(*error));
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Milliseconds since `started`, to the microsecond.
pub fn ms(started: Instant) -> f64 {
    (started.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Reads a log filter, in the syntax of tracing-subscriber's `Targets`: `info`, `debug,h2=info`. Its `EnvFilter` can
/// do more, and takes a regular expression engine to do it.
pub fn parse_filter(text: &str) -> Result<Targets, ParseError> {
    text.parse()
}

/// Where the log filter comes from: the file that `--log-filter-file` names, else the text of `--log`.
#[derive(Debug, Clone)]
pub struct LogFilter<'s> {
    /// The text of `--log`.
    pub text: Cow<'s, str>,
    /// The file of `--log-filter-file`.
    pub file: Option<Cow<'s, Path>>,
}

/// Why there is no log filter.
#[derive(Debug, thiserror::Error)]
pub enum LogFilterError {
    /// The text is not a filter.
    #[error("{setting}: {source}")]
    Parse {
        /// The setting that has or names the text.
        setting: &'static str,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The file could not be read.
    #[error("--log-filter-file: {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl LogFilter<'_> {
    /// Reads the filter as it is now.
    pub fn read(&self) -> Result<Targets, LogFilterError> {
        let parse = |setting, text: &str| {
            parse_filter(text).map_err(|source| LogFilterError::Parse { setting, source })
        };
        let Some(path) = &self.file else {
            return parse("--log", &self.text);
        };
        let text = std::fs::read_to_string(path).map_err(|source| LogFilterError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        parse("--log-filter-file", text.trim())
    }

    /// The same, which borrows nothing.
    pub fn into_owned(self) -> LogFilter<'static> {
        LogFilter {
            text: Cow::Owned(self.text.into_owned()),
            file: self.file.map(|file| Cow::Owned(file.into_owned())),
        }
    }
}

/// The filter of the log that was started.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Starts logging. Later calls change nothing.
pub fn init(format: LogFormat, filter: Targets) {
    let lines = fmt::layer()
        .with_writer(Lines::of_process())
        .with_ansi(io::stderr().is_terminal());
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    // Fails when a subscriber is set already, as in a process that runs both services.
    let started = match format {
        LogFormat::Text => registry.with(lines.with_target(false)).try_init(),
        LogFormat::Json => registry
            .with(lines.json().flatten_event(true).with_target(false))
            .try_init(),
    };
    if started.is_ok() {
        // Only one subscriber is started in a process.
        let _ = FILTER.set(handle);
    }
}

/// Logs by this filter from now on. Returns the filter as text.
pub fn set_filter(filter: Targets) -> String {
    let text = filter.to_string();
    if let Some(handle) = FILTER.get() {
        // Fails only when the subscriber is gone, and with it the log.
        let _ = handle.reload(filter);
    }
    text
}
