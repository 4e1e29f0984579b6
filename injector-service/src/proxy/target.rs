//! Which server a request is for.

use std::sync::Arc;

use http::{HeaderMap, Method, Uri, request::Parts, uri::Authority};
use proto::{Reason, Refusal, ServerName, WorkspaceName};

use super::{Hosts, ListenerRoute, oauth, rewrite::Addresses};
use crate::{
    fields, path,
    registry::{Entry, Registry, server::Oauth},
};

const WORKSPACE_HEADER: &str = "x-aerostack-workspace";
const SERVER_HEADER: &str = "x-aerostack-server";

/// The server, and what of the request is the server's.
pub(super) struct Target {
    pub(super) entry: Arc<Entry>,
    /// Path and query behind the server's own path: empty, or beginning with `/` or `?`.
    pub(super) rest: String,
    /// The fixed part of the path of a document of OAuth beside the server, else empty.
    pub(super) document: &'static str,
    /// What was taken off the path, when the path named the server: `/{workspace}/{server}`.
    pub(super) prefix: Option<String>,
    /// True when the request's host named the server, so that no other server shares the host.
    pub(super) by_host: bool,
}

/// Names, before they are looked up.
struct Named<'a> {
    workspace: &'a str,
    server: &'a str,
    rest: &'a str,
    prefix: Option<String>,
    by_host: bool,
}

impl Target {
    /// Finds it by the listener, by headers, by the host or by the path, in this order.
    pub(super) fn find(
        parts: &Parts,
        host: &str,
        route: &ListenerRoute,
        hosts: &Hosts,
        registry: &Registry,
    ) -> Result<Self, Refusal> {
        let whole = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let (document, located) = oauth::split(whole);
        let all = after_root(located);
        let Named {
            workspace,
            server,
            rest,
            prefix,
            by_host,
        } = match route {
            ListenerRoute::Only(..) if parts.headers.keys().any(fields::is_ours) => {
                return Err(wrong(
                    "this listener leads to one server; x-aerostack headers must not be sent to it",
                ));
            }
            ListenerRoute::Only(workspace, server) => Named {
                workspace: workspace.as_str(),
                server: server.as_str(),
                rest: all,
                prefix: None,
                by_host: false,
            },
            ListenerRoute::Any => match (by_headers(&parts.headers)?, hosts.server(host)) {
                (Some((workspace, server)), named_too) => Named {
                    workspace,
                    server,
                    rest: all,
                    prefix: None,
                    by_host: named_too == Some((workspace, server)),
                },
                (None, Some((workspace, server))) => Named {
                    workspace,
                    server,
                    rest: all,
                    prefix: None,
                    by_host: true,
                },
                (None, None) => by_path(located)?,
            },
        };
        let path = rest.split('?').next().unwrap_or_default();
        if !(path.is_empty() || path.starts_with('/')) {
            return Err(Refusal::new(
                Reason::PathInvalid,
                "the request's target must be a path",
            ));
        }
        if path::has_dot_segment(path) {
            return Err(Refusal::new(
                Reason::PathInvalid,
                "the path must not have dot segments, however encoded",
            ));
        }
        let entry = registry.find(workspace, server).ok_or_else(unknown)?;
        let (document, rest) = match (entry.server.spec.oauth, &prefix) {
            _ if document.is_empty() => ("", rest),
            (Oauth::Pass, _) => (document, rest),
            (Oauth::Replace, Some(_)) => return Err(unknown()),
            (Oauth::Replace, None) => ("", whole),
        };
        Ok(Self {
            entry,
            rest: rest.to_owned(),
            document,
            prefix,
            by_host,
        })
    }
}

impl Target {
    /// Returns the server's addresses in the answer to `request`, for a program that calls the injector at `authority`.
    pub(super) fn addresses<'a>(
        &'a self,
        scheme: &'static str,
        authority: &'a Authority,
        request: &'a Uri,
    ) -> Addresses<'a> {
        Addresses {
            scheme,
            authority,
            prefix: self.prefix.as_deref().unwrap_or_default(),
            server: &self.entry.server.spec,
            request,
        }
    }
}

/// Whether the request asks whether the injector serves. No server has this path, since no workspace is called `-`.
pub(super) fn asks_for_status(parts: &Parts, host: &str, route: &ListenerRoute, hosts: &Hosts) -> bool {
    matches!(route, ListenerRoute::Any)
        && parts.method == Method::GET
        && parts.uri.path() == "/-/status"
        && !parts.headers.contains_key(WORKSPACE_HEADER)
        && !parts.headers.contains_key(SERVER_HEADER)
        && hosts.server(host).is_none()
}

fn by_headers(headers: &HeaderMap) -> Result<Option<(&str, &str)>, Refusal> {
    if !headers.contains_key(WORKSPACE_HEADER) && !headers.contains_key(SERVER_HEADER) {
        return Ok(None);
    }
    let once = |name| {
        let mut values = headers.get_all(name).iter();
        match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
            (Some(value), None) => Some(value),
            _ => None,
        }
    };
    match (once(WORKSPACE_HEADER), once(SERVER_HEADER)) {
        (Some(workspace), Some(server))
            if WorkspaceName::parse(workspace).is_ok() && ServerName::parse(server).is_ok() =>
        {
            Ok(Some((workspace, server)))
        }
        _ => Err(wrong(
            "x-aerostack-workspace and x-aerostack-server must both be given, once, each a name",
        )),
    }
}

/// Returns the part of a target that continues the server's path. The path `/` adds nothing, because HTTP clients send
/// `/` for a base URL without a path (RFC 9110, section 4.2.3).
fn after_root(target: &str) -> &str {
    match target.strip_prefix('/') {
        Some(rest) if rest.is_empty() || rest.starts_with('?') => rest,
        Some(_) | None => target,
    }
}

fn by_path(whole: &str) -> Result<Named<'_>, Refusal> {
    let (path, query) = whole.split_at(whole.find('?').unwrap_or(whole.len()));
    let mut segments = path.strip_prefix('/').unwrap_or_default().splitn(3, '/');
    let (Some(workspace), Some(server)) = (segments.next(), segments.next()) else {
        return Err(unknown());
    };
    if workspace.contains('%') || server.contains('%') {
        let message =
            "the first two segments of the path name a workspace and a server, and are not percent-encoded";
        return Err(Refusal::new(Reason::PathInvalid, message));
    }
    let prefix = format!("/{workspace}/{server}");
    let rest = whole.get(prefix.len()..).unwrap_or(query);
    Ok(Named {
        workspace,
        server,
        rest,
        prefix: Some(prefix),
        by_host: false,
    })
}

fn wrong(message: &str) -> Refusal {
    Refusal::new(Reason::TargetInvalid, message)
}

fn unknown() -> Refusal {
    Refusal::new(
        Reason::ServerNotFound,
        "no such server; name it by the path /{workspace}/{server}/…, by the headers x-aerostack-workspace and \
         x-aerostack-server, or by the host {server}.{workspace}.localhost",
    )
}
