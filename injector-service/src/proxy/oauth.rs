//! Documents of OAuth that a client looks for beside a server, not under its path: the metadata of a protected resource
//! (RFC 9728) and of an authorization server (RFC 8414). The path of such a document is a fixed part, then the path of
//! the server. Only servers with `oauth: pass` have such documents here.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use proto::{Reason, Refusal};
use serde_json::Value;

use super::{body, received_body::ReceivedBody, rewrite::Addresses};
use crate::upstream::Body;

const RESOURCE: &str = "/.well-known/oauth-protected-resource";
/// Stands before the path of a resource's metadata that an upstream keeps at a path of its own choice, and names in its
/// demand for a credential. The upstream never sees this part.
pub(super) const ELSEWHERE: &str = "/.well-known/x-aerostack-resource-metadata";
/// The fixed parts (RFC 9728, section 3.1; RFC 8414, sections 3.1 and 5).
const DOCUMENTS: [&str; 4] = [
    RESOURCE,
    ELSEWHERE,
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
];
/// The most bytes of a resource's metadata.
const MAX_METADATA: usize = 256 * 1024;

/// Splits a path into the fixed part of a document, or nothing, and the rest, which is empty or begins with `/` or `?`.
pub(super) fn split(path: &str) -> (&'static str, &str) {
    let split = |document: &'static str| Some((document, path.strip_prefix(document)?));
    DOCUMENTS
        .into_iter()
        .filter_map(split)
        .find(|(_, rest)| rest.is_empty() || rest.starts_with(['/', '?']))
        .unwrap_or(("", path))
}

/// Returns the fixed part of a document's path as the upstream has it.
pub(super) fn of_upstream(document: &'static str) -> &'static str {
    if document == ELSEWHERE { "" } else { document }
}

/// Asks for a document in a form that can be read here.
pub(super) fn ask(document: &str, headers: &mut HeaderMap) {
    if is_metadata(document) {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
}

/// Returns true when the answer is the metadata of a resource, in which the client expects to find the URL that it calls.
pub(super) fn names_resource(document: &str, status: StatusCode, headers: &HeaderMap) -> bool {
    is_metadata(document) && status == StatusCode::OK && !headers.contains_key(header::CONTENT_ENCODING)
}

fn is_metadata(document: &str) -> bool {
    document == RESOURCE || document == ELSEWHERE
}

/// Reads the metadata of a resource, and moves the resource's URL. The URLs of authorization servers stay, because the
/// program and its user call these servers themselves.
pub(super) async fn move_resource(body: ReceivedBody, addresses: &Addresses<'_>) -> Result<Body, Refusal> {
    let read = Limited::new(body, MAX_METADATA).collect().await;
    let bytes = read.map_err(|_| {
        Refusal::new(
            Reason::UpstreamProtocol,
            format!("the upstream's OAuth metadata broke off, or has more than {MAX_METADATA} bytes"),
        )
    })?;
    let bytes = bytes.to_bytes();
    Ok(body::full(moved(&bytes, addresses).unwrap_or(bytes)))
}

/// Returns None when there is nothing to move.
fn moved(bytes: &[u8], addresses: &Addresses<'_>) -> Option<Bytes> {
    let mut metadata: Value = serde_json::from_slice(bytes).ok()?;
    let resource = metadata.get_mut("resource")?;
    let was = resource.as_str()?;
    let mut now = addresses.reference(was)?;
    // Clients compare resources as text, and this slash may be ours.
    if !was.ends_with('/') && now.ends_with('/') {
        now.pop();
    }
    *resource = now.into();
    Some(metadata.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_told_from_the_path_of_its_server() {
        for (path, split_at) in [
            ("/.well-known/oauth-protected-resource", (RESOURCE, "")),
            (
                "/.well-known/oauth-protected-resource/w/s?q",
                (RESOURCE, "/w/s?q"),
            ),
            ("/.well-known/oauth-protected-resource?q", (RESOURCE, "?q")),
            (
                "/.well-known/openid-configuration/w/s",
                ("/.well-known/openid-configuration", "/w/s"),
            ),
            (
                "/.well-known/oauth-protected-resources",
                ("", "/.well-known/oauth-protected-resources"),
            ),
            (
                "/w/s/.well-known/openid-configuration",
                ("", "/w/s/.well-known/openid-configuration"),
            ),
            ("/", ("", "/")),
        ] {
            assert_eq!(split(path), split_at);
        }
    }
}
