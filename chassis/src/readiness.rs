//! The reason for which a service is not ready.

/// A reason for which a service cannot do its work at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadinessProblem {
    /// The kind of the problem, without names. Everybody who reaches the port of the probes can read it.
    pub cause: &'static str,
    /// The problem with its names. Only clients on the loopback interface of this machine can read it.
    pub detail: Option<String>,
}

impl From<&'static str> for ReadinessProblem {
    fn from(cause: &'static str) -> Self {
        Self { cause, detail: None }
    }
}
