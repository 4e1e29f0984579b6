//! The log: one line per event on standard error, as text or JSON.

use std::{
    borrow::Cow,
    error::Error,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Instant,
};

use super::log_writer::LogWriter;
pub use super::log_writer::flush;
use clap::ValueEnum;
use tracing_subscriber::{
    Registry,
    filter::{LevelFilter, ParseError, Targets},
    fmt,
    prelude::*,
    reload,
};

/// Names of log fields.
pub mod field {
    /// Full name of an RPC.
    pub const METHOD: &str = "method";
    /// Principal of the caller.
    pub const PRINCIPAL: &str = "principal";
    /// Principal, or user of this machine, that makes a call of the data plane.
    pub const CALLER: &str = "caller";
    /// gRPC code of the answer.
    pub const CODE: &str = "code";
    /// Message of a refusal.
    pub const DETAIL: &str = "detail";
    /// Duration in milliseconds.
    pub const MS: &str = "ms";
    /// Name of a workspace.
    pub const WORKSPACE: &str = "workspace";
    /// Name of a server.
    pub const SERVER: &str = "server";
    /// Reason of a refusal.
    pub const REASON: &str = "reason";
    /// Id of a call through the injector, which its answer shows as well.
    pub const CALL_ID: &str = "call_id";
    /// Number of lines of the same kind that were left out since the last one.
    pub const SUPPRESSED: &str = "suppressed";
}

/// Returns an error and its causes in one line, separated by colons.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| Error::source(*error));
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Returns the milliseconds since `started`, rounded to microseconds.
pub fn ms(started: Instant) -> f64 {
    (started.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The error of the text of a log filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterTextError {
    /// A part of the list has no level, or another word in its place.
    #[error(
        "{0:?} is not a level; the levels are off, error, warn, info, debug and trace, and a filter is a level or a list such as info,h2=debug"
    )]
    Level(String),
    /// The text is not a list of targets and levels.
    #[error(transparent)]
    Syntax(#[from] ParseError),
}

/// Parses a log filter such as `info` or `debug,h2=info`. The syntax is that of `Targets`: `EnvFilter` can do more, but
/// depends on a regular expression engine.
///
/// Each part of the list has to end with a level. `Targets` takes a single word that is not a level for a target: the filter `warning` would switch
/// off all lines but those of a target of this name. It takes an empty part for the level `error`.
pub fn parse_filter(text: &str) -> Result<Targets, FilterTextError> {
    let parts: Vec<_> = text.split(',').map(str::trim).collect();
    for part in &parts {
        let level = part.rsplit_once('=').map_or(*part, |(_, level)| level);
        if level.is_empty() || level.parse::<LevelFilter>().is_err() {
            return Err(FilterTextError::Level(level.to_owned()));
        }
    }
    Ok(parts.join(",").parse()?)
}

/// The source of the log filter: the file of `--log-filter-file` if given, else the text of `--log`.
#[derive(Debug, Clone)]
pub struct LogFilter<'s> {
    /// The text of `--log`.
    pub text: Cow<'s, str>,
    /// The file of `--log-filter-file`.
    pub file: Option<Cow<'s, Path>>,
}

/// The error of a log filter.
#[derive(Debug, thiserror::Error)]
pub enum LogFilterError {
    /// The text is not a valid filter.
    #[error("{setting}: {source}")]
    Parse {
        /// The setting that contains the text or names its file.
        setting: &'static str,
        /// The error of the parser.
        source: FilterTextError,
    },
    /// The file could not be read.
    #[error("--log-filter-file: {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

impl LogFilter<'_> {
    /// Reads the filter; from the file, if one is given, every time.
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

    /// Copies the borrowed texts.
    pub fn into_owned(self) -> LogFilter<'static> {
        LogFilter {
            text: Cow::Owned(self.text.into_owned()),
            file: self.file.map(|file| Cow::Owned(file.into_owned())),
        }
    }
}

/// Changes the filter of the running log.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Starts the log. Later calls have no effect.
pub fn init(format: LogFormat, filter: Targets) {
    let lines = fmt::layer()
        .with_writer(LogWriter::of_process())
        .with_ansi(io::stderr().is_terminal());
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    // Fails when the process has a log already, for example because it runs both services.
    let started = match format {
        LogFormat::Text => registry.with(lines.with_target(false)).try_init(),
        LogFormat::Json => registry
            .with(lines.json().flatten_event(true).with_target(false))
            .try_init(),
    };
    if started.is_ok() {
        // Only the first log of a process gets here.
        let _ = FILTER.set(handle);
    }
}

/// Replaces the filter of the log. Returns the new filter as text.
pub(crate) fn set_filter(filter: Targets) -> String {
    let text = filter.to_string();
    if let Some(handle) = FILTER.get() {
        // Fails only when the log itself is gone.
        let _ = handle.reload(filter);
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_a_list_whose_parts_have_levels() {
        for (text, parsed) in [
            ("info", "info"),
            ("OFF", "off"),
            ("info, h2=debug\n", "h2=debug,info"),
            ("vault_service=trace", "vault_service=trace"),
        ] {
            assert_eq!(parse_filter(text).unwrap().to_string(), parsed);
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_refused_with_the_levels() {
        for text in ["warning", "h2", "info,h2", "h2=verbose", "info,", "", "h2=", "6"] {
            let error = parse_filter(text).unwrap_err().to_string();
            assert!(
                error.contains("off, error, warn, info, debug and trace"),
                "{text:?}: {error}"
            );
        }
    }
}
