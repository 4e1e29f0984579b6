//! The server that a request names, by the listener, by headers, by the host or by the path.

use std::sync::Arc;

use http::{HeaderMap, Method, request::Parts, uri::Authority};
use proto::{Reason, Refusal, ServerName, WorkspaceName};

use super::{Hosts, ListenerRoute, oauth_path, sent_url::SentUrl, url_rewrite::ServerUrls};
use crate::{
    callers::{CallPermit, Caller},
    header_rules, path,
    registry::{Entry, Registry, server::Oauth},
};

const WORKSPACE_HEADER: &str = "x-aerostack-workspace";
const SERVER_HEADER: &str = "x-aerostack-server";

/// A server, and the part of the request's target that the server gets.
pub(super) struct CallTarget {
    pub(super) entry: Arc<Entry>,
    /// The path and query behind the server's own path: empty, or beginning with `/` or `?`.
    pub(super) rest: String,
    /// The fixed part of the path of an OAuth document (`oauth_path.rs`), else empty.
    pub(super) document: &'static str,
    /// `/{workspace}/{server}` when the path named the server. The server does not get this part.
    pub(super) prefix: Option<String>,
    /// True when the request's host named the server, so that no other server has the same host.
    pub(super) by_host: bool,
}

/// The names of a server that was not looked up yet, with the same fields as in [`CallTarget`].
struct NamedServer<'a> {
    workspace: &'a str,
    server: &'a str,
    rest: &'a str,
    prefix: Option<String>,
    by_host: bool,
}

impl CallTarget {
    /// Finds the server. The first way of naming that a request uses counts: listener, headers, host, path. A server that
    /// `caller` may not call is refused before it is looked up, so that the refusal does not show whether it exists.
    pub(super) fn find(
        parts: &Parts,
        host: &str,
        caller: &Caller<'_>,
        route: &ListenerRoute,
        hosts: &Hosts,
        registry: &Registry,
    ) -> Result<Self, Refusal> {
        let whole = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let (document, path) = oauth_path::split(whole);
        let NamedServer {
            workspace,
            server,
            rest,
            prefix,
            by_host,
        } = name(&parts.headers, path, host, route, hosts)?;
        check_path(rest.split('?').next().unwrap_or_default())?;
        let entry = find_permitted(registry, &caller.permit(workspace, server)?)?;
        let (document, rest) = match (entry.server.spec.oauth, &prefix) {
            _ if document.is_empty() => ("", rest),
            (Oauth::Pass, _) => (document, rest),
            // Without `oauth: pass`, the path is one of the server's own, and no document beside a server.
            (Oauth::Replace, None) => ("", whole),
            (Oauth::Replace, Some(_)) => return Err(unknown()),
        };
        Ok(Self {
            entry,
            rest: rest.to_owned(),
            document,
            prefix,
            by_host,
        })
    }

    /// Returns the addresses that are rewritten in the response to `request`, for a program that calls the injector at
    /// `authority`.
    pub(super) fn urls<'a>(
        &'a self,
        scheme: &'static str,
        authority: &'a Authority,
        request: &'a SentUrl,
    ) -> ServerUrls<'a> {
        ServerUrls {
            scheme,
            authority,
            prefix: self.prefix.as_deref().unwrap_or_default(),
            server: &self.entry.server.spec,
            request,
        }
    }
}

/// Returns true for a request to the status page of the injector. No server has its path, since no workspace is called
/// `-`.
pub(super) fn is_status_request(parts: &Parts, host: &str, route: &ListenerRoute, hosts: &Hosts) -> bool {
    matches!(route, ListenerRoute::Any)
        && parts.method == Method::GET
        && parts.uri.path() == "/-/status"
        && !parts.headers.contains_key(WORKSPACE_HEADER)
        && !parts.headers.contains_key(SERVER_HEADER)
        && hosts.server(host).is_none()
}

fn find_permitted(registry: &Registry, permit: &CallPermit<'_>) -> Result<Arc<Entry>, Refusal> {
    registry
        .find(permit.workspace(), permit.server())
        .ok_or_else(unknown)
}

fn name<'a>(
    headers: &'a HeaderMap,
    path: &'a str,
    host: &'a str,
    route: &'a ListenerRoute,
    hosts: &Hosts,
) -> Result<NamedServer<'a>, Refusal> {
    let whole_path = |workspace, server, by_host| NamedServer {
        workspace,
        server,
        rest: without_root(path),
        prefix: None,
        by_host,
    };
    match route {
        ListenerRoute::Only(..) if headers.keys().any(header_rules::is_own) => Err(invalid(
            "this listener leads to one server; no x-aerostack header but x-aerostack-token may be sent to it",
        )),
        ListenerRoute::Only(workspace, server) => Ok(whole_path(workspace.as_str(), server.as_str(), false)),
        ListenerRoute::Any => match (name_by_headers(headers)?, hosts.server(host)) {
            (Some((workspace, server)), by_host) => Ok(whole_path(
                workspace,
                server,
                by_host == Some((workspace, server)),
            )),
            (None, Some((workspace, server))) => Ok(whole_path(workspace, server, true)),
            (None, None) => name_by_path(path),
        },
    }
}

fn name_by_headers(headers: &HeaderMap) -> Result<Option<(&str, &str)>, Refusal> {
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
        _ => Err(invalid(
            "x-aerostack-workspace and x-aerostack-server must each occur exactly once and be a valid name",
        )),
    }
}

fn name_by_path(whole: &str) -> Result<NamedServer<'_>, Refusal> {
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
    Ok(NamedServer {
        workspace,
        server,
        rest,
        prefix: Some(prefix),
        by_host: false,
    })
}

/// Returns the part of a target that continues the server's path. The path `/` adds nothing, because HTTP clients send
/// `/` for a base URL without a path (RFC 9110, section 4.2.3).
fn without_root(target: &str) -> &str {
    match target.strip_prefix('/') {
        Some(rest) if rest.is_empty() || rest.starts_with('?') => rest,
        Some(_) | None => target,
    }
}

/// Refuses paths that would not lead to a place under the server's path.
fn check_path(path: &str) -> Result<(), Refusal> {
    let message = if !(path.is_empty() || path.starts_with('/')) {
        "the request's target must be a path"
    } else if path::has_dot_segment(path) {
        "the path must not have dot segments, however encoded"
    } else {
        return Ok(());
    };
    Err(Refusal::new(Reason::PathInvalid, message))
}

fn invalid(message: &str) -> Refusal {
    Refusal::new(Reason::TargetInvalid, message)
}

fn unknown() -> Refusal {
    Refusal::new(
        Reason::ServerNotFound,
        "no such server; name it by the path /{workspace}/{server}/…, by the headers x-aerostack-workspace and \
         x-aerostack-server, or by the host {server}.{workspace}.localhost",
    )
}
