use proto::SecretName;

use super::*;
use crate::{placement::AuthType, template::Template};

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

fn names(row: &FieldRule) -> &'static [&'static str] {
    match row {
        Named(names) | Misspelled(names) => names,
        Prefixed(_) => panic!("a prefix has no list of names"),
    }
}

fn injection(placement: Placement) -> Injection {
    Injection {
        required: false,
        placement,
    }
}

fn header_injection(name: &'static str) -> Injection {
    injection(Placement::Header {
        name: HeaderName::from_static(name),
        value: Template::parse("Key ${KEY}").unwrap(),
    })
}

fn basic_injection() -> Injection {
    injection(Placement::Basic {
        username: Template::parse("${USER}").unwrap(),
        password: Template::parse("").unwrap(),
    })
}

fn of_auth_type(auth_type: AuthType) -> Vec<Injection> {
    auth_type.injections(&SecretName::parse("T").unwrap(), false)
}

const AUTH_TYPES: [AuthType; 3] = [AuthType::SecretHeaders, AuthType::Bearer, AuthType::Skill(None)];

#[test]
fn a_secret_header_is_removed_in_every_spelling() {
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
            clean_request(&mut request, &of_auth_type(auth_type));
            assert!(request.is_empty(), "{name}");
        }
    }
    for name in ["x-mcp-session-id", "mcp-secret", "x-mcp-secre", "xx-mcp-secret"] {
        let mut request = headers(&[(name, "1")]);
        clean_request(&mut request, &[]);
        assert_eq!(left(&request), [name]);
    }
}

#[test]
fn authorization_is_removed_in_bearer_mode_only() {
    for auth_type in AUTH_TYPES {
        let mut request = headers(&[("authorization", "Bearer mine")]);
        clean_request(&mut request, &of_auth_type(auth_type));
        assert_eq!(request.is_empty(), auth_type == AuthType::Bearer);
    }
}

#[test]
fn a_field_of_an_injection_is_removed_in_every_spelling() {
    let injections = [
        header_injection("x-api_key"),
        header_injection("x-key-bin"),
        basic_injection(),
    ];
    for name in [
        "x-api-key",
        "x_api_key",
        "x.api-key",
        "x!api~key",
        "x-key-bin",
        "x_key.bin",
        "authorization",
    ] {
        let fields = [(name, "1"), (name, "2"), ("x-kept", "1")];
        let (mut request, mut trailers) = (headers(&fields), headers(&fields));
        clean_request(&mut request, &injections);
        clean_request_trailers(&mut trailers, &injections);
        assert_eq!(
            (left(&request), left(&trailers)),
            (vec!["x-kept"], vec!["x-kept"]),
            "{name}"
        );
    }
    for name in ["x-api-keys", "api-key", "x-apikey", "x-key-bi", "x-key", "cookie"] {
        let mut request = headers(&[(name, "1")]);
        clean_request(&mut request, &injections);
        assert_eq!(left(&request), [name]);
    }
}

#[test]
fn a_field_that_connection_names_is_removed_in_every_spelling() {
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
    clean_request(&mut request, &[]);
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
fn hop_by_hop_and_own_fields_are_removed_in_every_spelling() {
    let own = ["content-length", "x-aerostack-server", "x-aerostack-reason"];
    for name in names(&CONNECTION).iter().chain(&own) {
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
            let clean_request = |headers: &mut HeaderMap| clean_request(headers, &[]);
            for trailers in [
                cleaned(&|trailers| clean_request_trailers(trailers, &[])),
                cleaned(&clean_response_trailers),
            ] {
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
fn an_interpreted_field_is_left_in_its_correct_spelling_only() {
    for known in names(&INTERPRETED) {
        for between in ["_", ".", "~"] {
            let misspelled = HeaderName::from_bytes(known.replace('-', between).as_bytes()).unwrap();
            let mut request = headers(&[(*known, "1"), ("accept_language", "de")]);
            request.append(&misspelled, HeaderValue::from_static("2"));
            clean_request(&mut request, &of_auth_type(AuthType::Skill(None)));
            let mut kept = [*known, "accept_language"];
            kept.sort_unstable();
            assert_eq!(left(&request), kept, "{misspelled}");
        }
    }
}

#[test]
fn trailers_carry_no_secrets_credentials_or_cookies() {
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
    clean_request_trailers(&mut trailers, &[]);
    assert_eq!(left(&trailers), ["x-checksum"]);
    let mut trailers = headers(&[("set-cookie", "a=1"), ("grpc-status", "0")]);
    clean_response_trailers(&mut trailers);
    assert_eq!(left(&trailers), ["grpc-status"]);
}

#[test]
fn alternative_services_of_the_upstream_are_removed() {
    let alternative = [("alt-svc", "h3=\"other.example:443\""), ("x-kept", "1")];
    let (mut head, mut trailers) = (headers(&alternative), headers(&alternative));
    clean_response(&mut head);
    clean_response_trailers(&mut trailers);
    assert_eq!((left(&head), left(&trailers)), (vec!["x-kept"], vec!["x-kept"]));
}

#[test]
fn cors_permissions_of_the_upstream_are_removed() {
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

#[test]
fn headers_that_frame_or_route_a_request_may_not_be_injected() {
    for (name, may) in [
        ("x-api-key", true),
        ("authorization", true),
        ("x-mcp-secret-a", true),
        ("private-token", true),
        ("x-grpc-key", true),
        ("host", false),
        ("content-length", false),
        ("content_type", false),
        ("content-encoding", false),
        ("transfer-encoding", false),
        ("connection", false),
        ("te", false),
        ("upgrade", false),
        ("proxy-authorization", false),
        ("cookie", false),
        ("x-aerostack-server", false),
        ("grpc-timeout", false),
        ("grpc.metadata-bin", false),
        ("sec-websocket-key", false),
        ("x-request-id", false),
    ] {
        let name = HeaderName::try_from(name).unwrap();
        assert_eq!(may_be_injected(&name), may, "{name}");
    }
}
