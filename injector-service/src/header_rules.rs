//! The rules for header fields that pass through the injector, in either direction.
//!
//! Each constant of type [`FieldRule`] is a row of one table. [`REQUEST`], [`SEARCHED_REQUEST`], [`REQUEST_TRAILERS`],
//! [`RESPONSE`] and [`RESPONSE_TRAILERS`] list the rows that are removed from each part of a message. Every other field passes.
//!
//! Many servers turn the names of fields into names of variables, and so read `_`, `.` and other characters as `-` (RFC
//! 3875, section 4.1.18), or `-` as `_`. So the injector removes a field in every spelling that a server may read as
//! its name.
//!
//! Before the rules apply, `callers` takes the token of the caller out of `x-aerostack-token`. The injector writes these fields
//! itself, after the removal:
//!
//! | field | part | by |
//! |---|---|---|
//! | `Host`, `Content-Length`, `Transfer-Encoding` | request | hyper and `upstream/framing.rs`, from the URL and the body |
//! | `TE: trailers` | request | [`clean_request`], when the program sent it: gRPC does not work without it |
//! | `grpc-timeout` | request | `proxy/call/deadline.rs`, with the time that is left |
//! | `x-request-id` | request | `proxy/call_id.rs`, when the program sent none |
//! | `Accept-Encoding: identity` | request for OAuth metadata | `proxy/oauth_metadata.rs`, because the metadata is rewritten |
//! | `Accept-Encoding`, `grpc-accept-encoding`: `identity` | request whose whole answer is searched | `proxy/echo/mod.rs`, after [`clean_searched_request`] |
//! | the fields of a server's injections | request | `inject`; [`clean_request`] removes those of the program |
//! | `Cookie`, `Set-Cookie` | both | `proxy/cookies.rs`, so that each server gets only its own cookies and those of its injections |
//! | `Connection`, `Upgrade` | both | `proxy/upgrade/mod.rs`, for the handshake of an upgrade |
//! | `Location`, `Link` and other fields with URLs | response | `proxy/url_rewrite.rs` |
//! | `WWW-Authenticate` | response | `proxy/challenge.rs` removes it when the credential is the injector's |
//! | `Content-Length` | response | `proxy/response_framing.rs`, in one unambiguous form |
//! | `Access-Control-…`, `Vary` | response | `proxy/cors.rs`, for web pages that a server allows |
//! | `x-aerostack-call-id`, `x-aerostack-reason` | response | `proxy/call_id.rs`, `proxy/local_reply.rs` |

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::placement::{Injection, Placement};

/// A row of the table. All names are written as [`fold`] returns them.
enum FieldRule {
    /// Fields with these names, in every spelling.
    Named(&'static [&'static str]),
    /// Fields with these names, except in the correct spelling.
    Misspelled(&'static [&'static str]),
    /// Fields whose names begin so, in every spelling.
    Prefixed(&'static str),
}
use FieldRule::{Misspelled, Named, Prefixed};

/// Fields that are about one connection (RFC 9110, section 7.6.1), or that frame a message on the connection. `Expect`
/// and `TE` are requests to the next hop, which is the injector. Fields that `Connection` names are removed as well.
const CONNECTION: FieldRule = Named(&[
    "connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "http2-settings",
]);

/// Fields of the injector itself. In a request, the program addresses them to the injector; in a response, only the
/// injector may state a reason or a call id.
const OWN: FieldRule = Prefixed("x-aerostack-");

/// Fields that claim to carry a secret. Removed in every mode of injection, and when the secret is missing, so that a
/// server can trust their absence.
const SECRETS: FieldRule = Prefixed("x-mcp-secret");

/// Fields that the injector writes, or by which it decides about a request. A server must not read a second field as
/// the same one.
const INTERPRETED: FieldRule = Misspelled(&[
    "content-length",
    "content-type",
    "content-encoding",
    "content-md5",
    "content-digest",
    "repr-digest",
    "signature-input",
    "grpc-timeout",
    "grpc-encoding",
    "grpc-accept-encoding",
    "x-request-id",
]);

/// Fields that frame, route or describe a request, or that the injector writes itself, so that no secret goes there.
const NOT_INJECTABLE: FieldRule = Named(&[
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "content-md5",
    "content-digest",
    "repr-digest",
    "signature-input",
    "trailer",
    "accept-encoding",
    "cookie",
    "set-cookie",
    "x-request-id",
]);

/// Fields of the gRPC protocol.
const GRPC: FieldRule = Prefixed("grpc-");

/// Fields of the handshake of a WebSocket.
const WEBSOCKET: FieldRule = Prefixed("sec-websocket-");

/// A length that one recipient would read as `Content-Length`, and the next one would ignore.
const AMBIGUOUS_LENGTH: FieldRule = Misspelled(&["content-length"]);

/// A length in trailers, which comes too late to frame anything (RFC 9110, section 6.5.1).
const LENGTH: FieldRule = Named(&["content-length"]);

/// Fields of a request that route it or give rights, which must be known before its body.
const ROUTING_AND_RIGHTS: FieldRule = Named(&["host", "authorization", "cookie"]);

/// Fields of a response that frame its body, describe it or give rights, and so are no trailers (RFC 9110, section
/// 6.5.1). HTTP/2 clients reset the stream when they find some of them in trailers.
const HEAD_ONLY: FieldRule = Named(&[
    "content-length",
    "content-encoding",
    "content-range",
    "content-type",
    "host",
    "location",
    "set-cookie",
    "trailer",
    "www-authenticate",
    "cache-control",
    "age",
]);

/// CORS permissions. The upstream gives them for its own origin; only the injector knows which pages may call it.
const CORS: FieldRule = Prefixed("access-control-");

/// Other hosts and ports that serve the upstream's origin (RFC 7838). A client would take them as alternatives for the
/// injector's origin, and would send later requests past the injector.
const ALTERNATIVE_SERVICES: FieldRule = Named(&["alt-svc"]);

/// Fields that ask for a part of an answer: ranges (RFC 9110, section 14.2), the name that ranges had before HTTP/1.1 and
/// their name in Azure, and differences (RFC 3229). Two parts could have one half of a value each, and neither half is
/// found. A server may always answer with the whole, so programs must expect it.
const PART_OF_ANSWER: FieldRule = Named(&["range", "if-range", "request-range", "x-ms-range", "a-im"]);

/// Fields that ask for a compressed answer. In a compressed answer, values are not found.
const COMPRESSED_ANSWER: FieldRule = Named(&["accept-encoding", "sec-websocket-extensions"]);

const REQUEST: &[FieldRule] = &[CONNECTION, OWN, SECRETS, INTERPRETED];
const SEARCHED_REQUEST: &[FieldRule] = &[PART_OF_ANSWER, COMPRESSED_ANSWER];
const REQUEST_TRAILERS: &[FieldRule] = &[CONNECTION, OWN, SECRETS, LENGTH, ROUTING_AND_RIGHTS];
const RESPONSE: &[FieldRule] = &[CONNECTION, OWN, AMBIGUOUS_LENGTH, CORS, ALTERNATIVE_SERVICES];
const RESPONSE_TRAILERS: &[FieldRule] = &[CONNECTION, OWN, HEAD_ONLY, CORS, ALTERNATIVE_SERVICES];

/// Fields that stay although `Connection` names them, because they frame the body, name the target or describe the
/// body.
const NOT_REMOVABLE: [HeaderName; 3] = [header::HOST, header::CONTENT_LENGTH, header::CONTENT_TYPE];

/// Cleans the headers of a request to a server with `injections`, which also own fields.
pub(crate) fn clean_request(headers: &mut HeaderMap, injections: &[Injection]) {
    let accepts_trailers = headers
        .get_all(header::TE)
        .iter()
        .any(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    remove(headers, REQUEST, injections);
    if accepts_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Cleans the headers of a request whose whole answer is searched for values.
pub(crate) fn clean_searched_request(headers: &mut HeaderMap) {
    remove(headers, SEARCHED_REQUEST, &[]);
}

pub(crate) fn clean_request_trailers(trailers: &mut HeaderMap, injections: &[Injection]) {
    remove(trailers, REQUEST_TRAILERS, injections);
}

pub(crate) fn clean_response(headers: &mut HeaderMap) {
    remove(headers, RESPONSE, &[]);
}

pub(crate) fn clean_response_trailers(trailers: &mut HeaderMap) {
    remove(trailers, RESPONSE_TRAILERS, &[]);
}

/// Returns true for a header that a program addresses to the injector.
pub(crate) fn is_own(name: &HeaderName) -> bool {
    OWN.include(name)
}

/// Returns true for a header that may carry a secret to a server: one that does not frame, route or describe the request,
/// and that the injector does not write itself.
pub(crate) fn may_be_injected(name: &HeaderName) -> bool {
    let rows = [CONNECTION, OWN, NOT_INJECTABLE, GRPC, WEBSOCKET];
    !rows.iter().any(|row| row.include(name))
}

/// Returns true when a server may read both names as one.
pub(crate) fn are_read_as_one(name: &HeaderName, other: &HeaderName) -> bool {
    let (name, other) = (name.as_str().as_bytes(), other.as_str().as_bytes());
    name.len() == other.len() && name.iter().map(fold_byte).eq(other.iter().map(fold_byte))
}

fn remove(headers: &mut HeaderMap, rows: &[FieldRule], injections: &[Injection]) {
    let named = named_by_connection(headers);
    let is_named = |name: &HeaderName| {
        !named.is_empty() && !NOT_REMOVABLE.contains(name) && named.contains(&fold(name.as_str().as_bytes()))
    };
    let removed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            rows.iter().any(|row| row.include(name))
                || injections
                    .iter()
                    .any(|injection| owns(&injection.placement, name))
                || is_named(name)
        })
        .cloned()
        .collect();
    for name in removed {
        headers.remove(name);
    }
}

/// Returns true when a server may read `name` as the field that belongs to `placement`. The field `Cookie` belongs to the
/// injector and the program together; `proxy/cookies.rs` removes single cookies.
fn owns(placement: &Placement, name: &HeaderName) -> bool {
    let owned = match placement {
        Placement::Header { name, value: _ } => name,
        Placement::Basic { .. } => &header::AUTHORIZATION,
        Placement::Query { .. }
        | Placement::Path { .. }
        | Placement::Cookie { .. }
        | Placement::Json { .. }
        | Placement::Form { .. }
        | Placement::Protobuf { .. } => return false,
    };
    are_read_as_one(name, owned)
}

/// Returns the names that `Connection` lists, after [`fold`].
fn named_by_connection(headers: &HeaderMap) -> HashSet<Vec<u8>> {
    let values = headers.get_all(header::CONNECTION).into_iter();
    let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    names.map(|name| fold(name.trim_ascii())).collect()
}

impl FieldRule {
    fn include(&self, name: &HeaderName) -> bool {
        match self {
            Named(names) => names.iter().any(|known| is_read_as(name, known)),
            Misspelled(names) => names
                .iter()
                .any(|known| name.as_str() != *known && is_read_as(name, known)),
            Prefixed(prefix) => begins_as(name, prefix),
        }
    }
}

/// Returns true when a server may read `name` as `known`.
fn is_read_as(name: &HeaderName, known: &str) -> bool {
    name.as_str().len() == known.len() && begins_as(name, known)
}

/// Returns true when a server may read `name` as a name that begins with `prefix`.
fn begins_as(name: &HeaderName, prefix: &str) -> bool {
    let name = name.as_str().as_bytes().get(..prefix.len());
    name.is_some_and(|name| name.iter().map(fold_byte).eq(prefix.bytes()))
}

fn fold(name: &[u8]) -> Vec<u8> {
    name.iter().map(fold_byte).collect()
}

/// Folds a letter to lower case, and every byte that is no letter or digit to `-`.
fn fold_byte(byte: &u8) -> u8 {
    if byte.is_ascii_alphanumeric() {
        byte.to_ascii_lowercase()
    } else {
        b'-'
    }
}

#[cfg(test)]
mod tests;
