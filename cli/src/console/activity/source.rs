//! A service whose metrics are read, and the state of its last answer.

use http::Uri;

/// A service, from its metrics' point of view.
#[derive(Debug)]
pub(crate) struct MetricsSource {
    /// `None` when no flag and no directory names the address.
    pub(crate) url: Option<Uri>,
    pub(crate) state: SourceState,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SourceState {
    NotAsked,
    Answered,
    /// The reason, as the end of a sentence about the service.
    Failed(String),
}

impl MetricsSource {
    pub(super) fn at(url: Option<Uri>) -> Self {
        Self {
            url,
            state: SourceState::NotAsked,
        }
    }
}
