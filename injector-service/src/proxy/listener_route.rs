//! The servers that a listener leads to.

use proto::{ServerName, WorkspaceName};

/// The servers that a listener leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerRoute {
    /// Every server. The request names one.
    Any,
    /// One server (`--listen-server`).
    Only(WorkspaceName, ServerName),
}
