//! The data plane: forwards calls of programs to servers, with the servers' secrets put in.
//!
//! `listener` accepts connections, `connection` serves HTTP on each of them, and `call` answers one request. The other
//! modules serve one of these three:
//!
//! | for | modules |
//! |---|---|
//! | connections | `http_server`, `watchdog`, `request_head`, `stream_timeout`, `upgrade`, `listener_route` |
//! | requests | `downstream`, `hosts`, `browser`, `target`, `oauth_path`, `pools`, `placeholders` |
//! | responses | `local_reply`, `cors`, `response_framing`, `challenge`, `url_rewrite`, `oauth_metadata`, `sse_endpoint`, `echo` |
//! | both | `call_id`, `call_record`, `cookies`, and `crate::header_rules` |
//! | bodies | `body`, `received_body`, `drain`, `replay`, `buffer_budget`, `buffered_body`, `upload`, `body_type`, `json_body`, `grpc`, `coalesce`, `delayed_error`, `deadline_body` |

mod body;
mod body_type;
mod browser;
mod buffer_budget;
mod buffered_body;
mod call;
mod call_id;
mod call_record;
mod challenge;
mod coalesce;
mod connection;
mod cookies;
mod cors;
mod deadline_body;
mod delayed_error;
mod downstream;
mod drain;
mod echo;
mod grpc;
mod hosts;
mod http_server;
mod json_body;
mod listener;
mod listener_route;
mod local_reply;
mod oauth_metadata;
mod oauth_path;
mod placeholders;
mod pools;
mod received_body;
mod replay;
mod request_head;
mod response_framing;
mod sent_url;
mod sse_endpoint;
mod stream_timeout;
mod target;
mod upgrade;
mod upload;
mod url_rewrite;
mod watchdog;

use std::sync::Arc;

pub(crate) use buffer_budget::BufferBudget;
pub(crate) use hosts::Hosts;
pub(crate) use listener::{IncomingConnection, IncomingTcp, ListenerSettings};
pub(crate) use listener_route::ListenerRoute;

use crate::{
    callers::Callers, limits::Limits, metrics::Metrics, registry::Registry, resolve::Resolver,
    upstream::DialContext,
};
use pools::Pools;

/// The state that all calls share.
pub(crate) struct Proxy {
    registry: Registry,
    resolver: Resolver,
    pools: Pools,
    hosts: Hosts,
    callers: Callers,
    limits: Limits,
    budget: BufferBudget,
    metrics: Metrics,
}

/// The settings of the data plane that each call reads.
pub(crate) struct CallSettings {
    pub(crate) hosts: Hosts,
    pub(crate) callers: Callers,
    pub(crate) limits: Limits,
}

impl Proxy {
    pub(crate) fn new(
        registry: Registry,
        resolver: Resolver,
        network: Arc<DialContext>,
        settings: CallSettings,
        budget: BufferBudget,
        metrics: Metrics,
    ) -> Self {
        let CallSettings {
            hosts,
            callers,
            limits,
        } = settings;
        Self {
            registry,
            resolver,
            pools: Pools::new(network),
            hosts,
            callers,
            limits,
            budget,
            metrics,
        }
    }

    /// Closes connections to servers that were removed or changed, whenever the registry changes.
    pub(crate) async fn close_stale_connections(&self) {
        let mut changed = self.registry.subscribe();
        while changed.changed().await.is_ok() {
            let current = self.registry.uids_and_revisions();
            self.pools.retain(&current);
        }
    }
}
