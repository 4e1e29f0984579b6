//! Logs as data, one line an event, to standard error. While there are many, lines wait for 10 ms at the most.

use std::{
    error::Error,
    io::{self, IsTerminal as _},
    time::Instant,
};

use super::lines::Lines;
pub use super::lines::flush;
use clap::ValueEnum;
use tracing_subscriber::{
    filter::{ParseError, Targets},
    fmt,
    prelude::*,
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

/// Starts logging. Later calls change nothing.
pub fn init(format: LogFormat, filter: Targets) {
    let lines = fmt::layer()
        .with_writer(Lines::of_process())
        .with_ansi(io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    // Fails when a subscriber is set already, as in a process that runs both services.
    let _ = match format {
        LogFormat::Text => registry.with(lines.with_target(false)).try_init(),
        LogFormat::Json => registry
            .with(lines.json().flatten_event(true).with_target(false))
            .try_init(),
    };
}
