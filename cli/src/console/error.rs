//! Errors that end `aerostack console`.

use std::io;

use crate::failure::{Failure, FailureKind};

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    /// The listener was not opened. The error names its address.
    #[error(transparent)]
    Listen(io::Error),
    /// The same for the address of `--listen`.
    #[error("{error}{}", remedy(error))]
    ListenOnFlag { error: io::Error },
    /// The connection to the services is not configured.
    #[error("{}", described(.0))]
    Connection(Failure),
    #[error("the system gives no random numbers")]
    NoRandomness(#[from] getrandom::Error),
}

impl ConsoleError {
    /// Returns the kind of the failure, which has the exit code.
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Listen(_) | Self::ListenOnFlag { .. } => FailureKind::Configuration,
            Self::Connection(failure) => failure.kind,
            Self::NoRandomness(_) => FailureKind::Internal,
        }
    }
}

/// Returns what to do about an address in use.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; the console of `aerostack dev` may have it. `--listen 127.0.0.1:0` takes any free port"
        }
        _ => "",
    }
}

/// Returns the message of a failure, with its hint on a line of its own.
fn described(failure: &Failure) -> String {
    let Failure {
        kind: _,
        message,
        hint,
        reason: _,
    } = failure;
    match hint {
        Some(hint) => format!("{message}\n  {hint}"),
        None => message.clone(),
    }
}
