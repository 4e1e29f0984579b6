//! The header fields that pass through the injector, in either direction.
//!
//! Many servers turn the names of fields into names of variables, and so read `_`, `.` and other characters as `-` (RFC
//! 3875, section 4.1.18), or `-` as `_`. So the injector removes a field in every spelling that a server may read as
//! its name:
//!
//! | field | request | its trailers | answer | its trailers |
//! |---|---|---|---|---|
//! | about the connection, or named by `Connection` | removed | removed | removed | removed |
//! | `x-aerostack-…` | removed | removed | removed | removed |
//! | `Content-Length` | misspelled ones removed | removed | misspelled ones removed | removed |
//! | what the injector writes or acts on, as `Content-Type` | misspelled ones removed | | | |
//! | `x-mcp-secret…`, and `Authorization` where a token goes there | removed | removed | | |
//! | `Access-Control-…` | | | removed | removed |
//! | `Host`, `Authorization`, `Cookie` | | removed | | |
//! | what a head alone may have, as `Set-Cookie` and `Content-Type` | | | | removed |
//!
//! `TE: trailers`, without which gRPC does not work, stays in a request. `outgoing` in `proxy/call.rs` makes `Host` and
//! `Content-Length` anew, `proxy/cookies.rs` has the rules for cookies, and `proxy/upgrade.rs` puts `Connection` and `Upgrade` of a
//! handshake back. The rule for any other field belongs here.

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::placement::AuthType;

/// Fields that are about one connection (RFC 9110, section 7.6.1) or frame a message on the connection.
/// `Content-Length` is not listed, because a correct `Content-Length` passes through.
const CONNECTION: [&str; 11] = [
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
];
const LENGTH: &str = "content-length";
/// Fields of a request that the injector writes, or decides by. A server must not read another one as the same field.
const INTERPRETED: [&str; 11] = [
    LENGTH,
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
];
/// Fields of an answer that are no trailers, because they frame the body, describe it, or give rights (RFC 9110, section
/// 6.5.1). Clients of HTTP/2 end the stream when they find some of them there.
const HEAD_ONLY: [&str; 11] = [
    LENGTH,
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
];
/// Prefixes of the names of the injector's own fields, of fields with secrets, and of CORS permissions for web pages.
const OURS: &str = "x-aerostack-";
const SECRETS: &str = "x-mcp-secret";
const PAGES: &str = "access-control-";
/// Fields that stay although `Connection` names them, because they frame the body, name the target or describe the
/// body.
const MESSAGE: [HeaderName; 3] = [header::HOST, header::CONTENT_LENGTH, header::CONTENT_TYPE];

/// Removes the headers of a request that its server must not get.
pub(crate) fn clean_request(headers: &mut HeaderMap, auth_type: AuthType) {
    let te = headers.get_all(header::TE).into_iter();
    let trailers = te
        .map(HeaderValue::as_bytes)
        .any(|te| te.eq_ignore_ascii_case(b"trailers"));
    clean(headers, |name| {
        is_misspelled(name, &INTERPRETED) || is_secret(name, auth_type)
    });
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes the trailers of a request that its server must not get, among them fields of framing and credentials.
pub(crate) fn clean_request_trailers(trailers: &mut HeaderMap, auth_type: AuthType) {
    let rights = [header::HOST, header::AUTHORIZATION, header::COOKIE];
    clean(trailers, |name| {
        is_read_as(name, LENGTH) || is_secret(name, auth_type) || rights.contains(name)
    });
}

/// Removes the headers of an answer that the downstream must not get.
pub(crate) fn clean_response(headers: &mut HeaderMap) {
    clean(headers, |name| {
        is_misspelled(name, &[LENGTH]) || begins_as(name, PAGES)
    });
}

/// Removes the trailers of an answer that the downstream must not get.
pub(crate) fn clean_response_trailers(trailers: &mut HeaderMap) {
    clean(trailers, |name| {
        HEAD_ONLY.iter().any(|known| is_read_as(name, known)) || begins_as(name, PAGES)
    });
}

/// Returns true when the header is addressed to the injector.
pub(crate) fn is_ours(name: &HeaderName) -> bool {
    begins_as(name, OURS)
}

/// Removes fields about the connection, the injector's own fields, and the fields for which `unwanted` returns true.
fn clean(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let named = named_by_connection(headers);
    let is_named = |name: &HeaderName| {
        !named.is_empty() && !MESSAGE.contains(name) && named.contains(&fold(name.as_str().as_bytes()))
    };
    let removed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            CONNECTION.iter().any(|known| is_read_as(name, known))
                || is_ours(name)
                || is_named(name)
                || unwanted(name)
        })
        .cloned()
        .collect();
    for name in removed {
        headers.remove(name);
    }
}

/// Returns the names that `Connection` lists, after [`fold`].
fn named_by_connection(headers: &HeaderMap) -> HashSet<Vec<u8>> {
    let values = headers.get_all(header::CONNECTION).into_iter();
    let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    names.map(|name| fold(name.trim_ascii())).collect()
}

/// Returns true when the header claims to carry a secret.
fn is_secret(name: &HeaderName, auth_type: AuthType) -> bool {
    begins_as(name, SECRETS) || auth_type == AuthType::Bearer && name == header::AUTHORIZATION
}

/// Returns true when a server may read `name` as one of `known`, although `name` is spelled differently.
fn is_misspelled(name: &HeaderName, known: &[&str]) -> bool {
    known
        .iter()
        .any(|known| name.as_str() != *known && is_read_as(name, known))
}

/// Returns true when a server may read `name` as `known`, which is folded.
fn is_read_as(name: &HeaderName, known: &str) -> bool {
    name.as_str().len() == known.len() && begins_as(name, known)
}

/// Returns true when a server may read `name` as a name that begins with `known`, which is folded.
fn begins_as(name: &HeaderName, known: &str) -> bool {
    let name = name.as_str().as_bytes().get(..known.len());
    name.is_some_and(|name| name.iter().map(fold_byte).eq(known.bytes()))
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
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn left(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    const AUTH_TYPES: [AuthType; 3] = [AuthType::SecretHeaders, AuthType::Bearer, AuthType::Skill(None)];

    #[test]
    fn every_spelling_of_a_secret_header_is_removed() {
        for name in [
            "x-mcp-secret-github-token",
            "x_mcp_secret_github_token",
            "x.mcp.secret.a",
            "x-mcp_secret-a",
            "x-mcp-secret",
            "x-mcp-secrets",
            "x!mcp!secret!a",
        ] {
            for auth_type in AUTH_TYPES {
                let mut request = headers(&[(name, "1"), (name, "2")]);
                clean_request(&mut request, auth_type);
                assert!(request.is_empty(), "{name}");
            }
        }
        for name in ["x-mcp-session-id", "mcp-secret", "x-mcp-secre", "xx-mcp-secret"] {
            let mut request = headers(&[(name, "1")]);
            clean_request(&mut request, AuthType::SecretHeaders);
            assert_eq!(left(&request), [name]);
        }
    }

    #[test]
    fn authorization_is_removed_in_bearer_mode_only() {
        for auth_type in AUTH_TYPES {
            let mut request = headers(&[("authorization", "Bearer mine")]);
            clean_request(&mut request, auth_type);
            assert_eq!(request.is_empty(), auth_type == AuthType::Bearer);
        }
    }

    #[test]
    fn what_connection_names_is_removed_in_every_spelling() {
        let mut request = headers(&[
            ("connection", "close, X-Mcp-Secret-T"),
            (
                "connection",
                "authorization,x_mine ,,host, content-type, content-length",
            ),
            ("x-mine", "1"),
            ("x.mine", "1"),
            ("x-mine-too", "1"),
            ("authorization", "1"),
            ("host", "h"),
            ("content-type", "text/plain"),
            ("content_type", "text/plain"),
            ("content-length", "2"),
            ("te", "gzip"),
            ("te", "Trailers"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        clean_request(&mut request, AuthType::SecretHeaders);
        let kept = [
            "accept",
            "content-length",
            "content-type",
            "host",
            "te",
            "x-mine-too",
        ];
        assert_eq!(left(&request), kept);
        assert_eq!(request["te"], "trailers");
    }

    #[test]
    fn what_is_about_the_connection_or_ours_is_removed_in_every_spelling() {
        let table = CONNECTION
            .iter()
            .chain(&[LENGTH, "x-aerostack-server", "x-aerostack-reason"]);
        for name in table {
            for between in ["-", "_", ".", "~", "!"] {
                let spelled = HeaderName::from_bytes(name.replace('-', between).as_bytes()).unwrap();
                let with = || {
                    let mut headers = headers(&[("x-kept", "1")]);
                    headers.append(&spelled, HeaderValue::from_static("1"));
                    headers.append(&spelled, HeaderValue::from_static("2"));
                    headers
                };
                let cleaned = |clean: &dyn Fn(&mut HeaderMap)| {
                    let mut headers = with();
                    clean(&mut headers);
                    headers
                };
                let clean_request = |headers: &mut HeaderMap| clean_request(headers, AuthType::SecretHeaders);
                let clean_trailers =
                    |headers: &mut HeaderMap| clean_request_trailers(headers, AuthType::SecretHeaders);
                for trailers in [cleaned(&clean_trailers), cleaned(&clean_response_trailers)] {
                    assert_eq!(left(&trailers), ["x-kept"], "{spelled}");
                }
                for headers in [cleaned(&clean_request), cleaned(&clean_response)] {
                    match spelled == header::CONTENT_LENGTH {
                        true => assert_eq!(left(&headers), ["content-length", "x-kept"]),
                        false => assert_eq!(left(&headers), ["x-kept"], "{spelled}"),
                    }
                }
            }
        }
    }

    #[test]
    fn what_the_injector_decides_by_is_there_in_one_spelling() {
        for known in INTERPRETED {
            for between in ["_", ".", "~"] {
                let misspelled = HeaderName::from_bytes(known.replace('-', between).as_bytes()).unwrap();
                let mut request = headers(&[(known, "1"), ("accept_language", "de")]);
                request.append(&misspelled, HeaderValue::from_static("2"));
                clean_request(&mut request, AuthType::Skill(None));
                let mut kept = [known, "accept_language"];
                kept.sort_unstable();
                assert_eq!(left(&request), kept, "{misspelled}");
            }
        }
    }

    #[test]
    fn trailers_carry_no_secrets_no_rights_and_no_cookies() {
        let rights = [
            ("x-mcp-secret-t", "1"),
            ("x_mcp_secret_t", "1"),
            ("authorization", "1"),
            ("cookie", "1"),
            ("host", "1"),
            ("te", "trailers"),
            ("x-checksum", "1"),
        ];
        let mut trailers = headers(&rights);
        clean_request_trailers(&mut trailers, AuthType::SecretHeaders);
        assert_eq!(left(&trailers), ["x-checksum"]);
        let mut trailers = headers(&[("set-cookie", "a=1"), ("grpc-status", "0")]);
        clean_response_trailers(&mut trailers);
        assert_eq!(left(&trailers), ["grpc-status"]);
    }

    #[test]
    fn permissions_for_web_pages_are_ours_to_give() {
        let mut answer = headers(&[
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("access_control_allow_origin", "*"),
            ("x-aerostack-reason", "x"),
            ("connection", "x-mine"),
            ("x-mine", "1"),
            ("content-type", "text/plain"),
        ]);
        clean_response(&mut answer);
        assert_eq!(left(&answer), ["content-type"]);
    }
}
