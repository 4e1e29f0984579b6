//! The facts about a connection of a program that all its calls share.

use std::sync::Arc;

use super::ListenerRoute;
use crate::callers::ConnectionPeer;

#[derive(Debug)]
pub(super) struct Downstream {
    pub(super) route: Arc<ListenerRoute>,
    pub(super) peer: ConnectionPeer,
    /// `https` when the connection speaks TLS, else `http`.
    pub(super) scheme: &'static str,
}
