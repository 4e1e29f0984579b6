//! Values in header fields of a server's choice, in Basic credentials and in cookies.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use e2e::{
    PATIENCE, Pair, Seen, Upstream,
    pair::{get, server},
    raw::{self, exchange},
};
use http::{HeaderMap, HeaderValue, Request, Response, request::Builder};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use proto::injector::v1::{
    BasicPlacement, CookiePlacement, HeaderPlacement, Injection, Oauth, Protocol, Server,
    injection::Placement,
};
use tokio::time::timeout;

use super::{Untouched, dev, explain, refusal, spoofing::with_trailers};

fn place(placement: Placement) -> Injection {
    Injection {
        required: false,
        placement: Some(placement),
    }
}

fn required(injection: Injection) -> Injection {
    Injection {
        required: true,
        ..injection
    }
}

fn header(name: &str, value: &str) -> Injection {
    let (name, value) = (name.into(), value.into());
    place(Placement::Header(HeaderPlacement { name, value }))
}

fn basic(username: &str, password: &str) -> Injection {
    let (username, password) = (username.into(), password.into());
    place(Placement::Basic(BasicPlacement { username, password }))
}

fn cookie(name: &str, value: &str) -> Injection {
    let (name, value) = (name.into(), value.into());
    place(Placement::Cookie(CookiePlacement { name, value }))
}

fn credentials(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

/// Returns the server `dev/NAME` with these injections.
fn api(name: &str, url: &str, injections: &[Injection]) -> Server {
    Server {
        injections: injections.to_vec(),
        ..server("dev", name, url, &[])
    }
}

/// A way to send a request, and the version in which the upstream gets it.
const WAYS: [(&str, Protocol, bool); 3] = [
    ("one", Protocol::Http1, false),
    ("two", Protocol::Http2, false),
    ("grpc", Protocol::Http2, true),
];

/// Sends a request to a server that takes `protocol`, over the same version of HTTP.
async fn call(pair: &Pair, request: Builder, protocol: Protocol, grpc: bool) -> Response<Bytes> {
    let request = match grpc {
        true => request
            .method("POST")
            .header("content-type", "application/grpc")
            .header("te", "trailers"),
        false => request,
    };
    if protocol == Protocol::Http1 {
        return timeout(PATIENCE, pair.injector.send(request, "")).await.unwrap();
    }
    let mut request = request.body(Full::<Bytes>::default()).unwrap();
    *request.uri_mut() = pair.injector.url(request.uri().path()).parse().unwrap();
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let response = timeout(PATIENCE, client.request(request)).await.unwrap().unwrap();
    let (head, body) = response.into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

/// Adds a server with `injections` for each way, calls it with `headers`, and returns the requests of the upstream.
async fn seen_every_way(
    secrets: &[(&str, &str)],
    injections: &[Injection],
    headers: &[(&str, &str)],
) -> [Seen; 3] {
    let upstream = Upstream::start().await;
    let pair = dev(secrets).await;
    for (name, protocol, grpc) in WAYS {
        let described = api(name, &upstream.url(), injections);
        pair.injector
            .add(Server {
                protocol: protocol.into(),
                ..described
            })
            .await;
        let request = Request::get("/x.Y/Z")
            .header("x-aerostack-workspace", "dev")
            .header("x-aerostack-server", name);
        let request = headers
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value));
        assert_eq!(call(&pair, request, protocol, grpc).await.status(), 200, "{name}");
    }
    pair.stop().await;
    upstream.seen().try_into().unwrap()
}

fn values<'s>(seen: &'s Seen, name: &str) -> Vec<&'s str> {
    let values = seen.headers.get_all(name).iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn headers_have_the_names_and_the_text_that_the_server_asks_for() {
    let long = "k".repeat(300);
    let secrets = [("KEY", &*long), ("TOKEN", "tok-1"), ("ID", "id-2")];
    let injections = [
        header("X-Api-Key", "${KEY}"),
        header("authorization", "Token token=${TOKEN}, id=$$${ID}"),
        header("x_app.id", "${id}"),
    ];
    for seen in seen_every_way(&secrets, &injections, &[("accept", "*/*")]).await {
        assert_eq!(values(&seen, "x-api-key"), [&*long]);
        assert_eq!(values(&seen, "authorization"), ["Token token=tok-1, id=$id-2"]);
        assert_eq!(values(&seen, "x_app.id"), ["id-2"]);
        assert_eq!(seen.secret_headers(), [] as [&str; 0]);
        assert_eq!(seen.header("accept"), Some("*/*"));
    }
    let injections = [header("authorization", "Sentry-Bearer ${TOKEN}")];
    for seen in seen_every_way(&secrets, &injections, &[("authorization", "Bearer mine")]).await {
        assert_eq!(values(&seen, "authorization"), ["Sentry-Bearer tok-1"]);
    }
}

#[tokio::test]
async fn basic_credentials_may_have_constant_and_empty_parts() {
    let secrets = [("EMAIL", "schl\u{fc}ssel@example.com"), ("TOKEN", "to:k en-1")];
    for (username, password, sent) in [
        (
            "${EMAIL}",
            "${TOKEN}",
            credentials("schl\u{fc}ssel@example.com", "to:k en-1"),
        ),
        (
            "${EMAIL}/token",
            "${TOKEN}",
            credentials("schl\u{fc}ssel@example.com/token", "to:k en-1"),
        ),
        ("api", "key-${TOKEN}", credentials("api", "key-to:k en-1")),
        ("", "${TOKEN}", credentials("", "to:k en-1")),
        ("${EMAIL}", "", credentials("schl\u{fc}ssel@example.com", "")),
    ] {
        let mine = [("authorization", "Bearer mine")];
        for seen in seen_every_way(&secrets, &[basic(username, password)], &mine).await {
            assert_eq!(values(&seen, "authorization"), [&sent]);
        }
    }
}

#[tokio::test]
async fn cookies_stand_beside_those_of_the_program() {
    let secrets = [("SESSION", "s3cr3t-1"), ("CSRF", "csrf-2")];
    let injections = [
        cookie("session", "${SESSION}"),
        cookie("__Host-csrf", "v1.${CSRF}"),
    ];
    let own = "session=s3cr3t-1; __Host-csrf=v1.csrf-2";
    for seen in seen_every_way(&secrets, &injections, &[]).await {
        assert_eq!(values(&seen, "cookie"), [own]);
    }
    let mine = [
        ("cookie", "a=1; session=mine; SESSION=mine; s%65ssion=\"mine\""),
        (
            "cookie",
            "session~one.dev=mine; session~two.dev=mine; session~grpc.dev=mine; b=2",
        ),
        ("cookie", "c=3 session=mine; __host-csrf = mine"),
        ("cookie", "session"),
    ];
    for seen in seen_every_way(&secrets, &injections, &mine).await {
        assert_eq!(values(&seen, "cookie"), [format!("{own}; a=1; b=2")]);
    }
    let missing = [
        cookie("session", "${GONE}"),
        header("x-key", "${SESSION} ${GONE}"),
    ];
    let mine = [("cookie", "session=mine; a=1"), ("x_key", "mine")];
    for seen in seen_every_way(&secrets, &missing, &mine).await {
        assert_eq!(values(&seen, "cookie"), ["a=1"]);
        assert!(!format!("{:?}", seen.headers).contains("mine"));
    }
}

#[tokio::test]
async fn a_server_cannot_set_a_cookie_of_the_injector() {
    let upstream = Upstream::answering(|_| {
        Response::builder()
            .header("set-cookie", "session=fresh; Path=/; HttpOnly")
            .header("set-cookie", "Session=fresh")
            .header("set-cookie", "a=1")
            .body(Full::default())
            .unwrap()
    })
    .await;
    let pair = dev(&[("SESSION", "s3cr3t-1")]).await;
    pair.injector
        .add(api("api", &upstream.url(), &[cookie("session", "${SESSION}")]))
        .await;
    let response = pair.injector.get("/dev/api/").await;
    let set: Vec<_> = response.headers().get_all("set-cookie").iter().collect();
    assert_eq!(set, ["a=1; Path=/dev/api/"]);
    pair.stop().await;
}

#[tokio::test]
async fn a_field_of_an_injection_never_arrives_from_the_program() {
    let upstream = Upstream::start().await;
    let pair = dev(&[("TOKEN", "tok-1")]).await;
    let spoofs = [
        "X-Api-Key",
        "x_api_key",
        "x.api.key",
        "x-api_key",
        "X_API.KEY",
        "x!api~key",
    ];
    for (name, injections, left) in [
        (
            "there",
            [header("x-api-key", "${TOKEN}"), basic("${TOKEN}", "")],
            vec!["tok-1"],
        ),
        (
            "gone",
            [header("x-api-key", "${TOKEN}${GONE}"), basic("${GONE}", "")],
            vec![],
        ),
    ] {
        pair.injector.add(api(name, &upstream.url(), &injections)).await;
        for spoof in spoofs {
            let head = format!(
                "POST /dev/{name}/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{spoof}: mine\r\n{spoof}: mine\r\n\
                 Authorization: Basic mine\r\nX-Api-Keys: kept\r\nContent-Length: 0\r\n\r\n"
            );
            let answer = exchange(pair.injector.data_plane, head).await;
            assert_eq!(raw::status(&answer), 200, "{spoof}");
            let seen = upstream.last();
            assert_eq!(values(&seen, "x-api-key"), left, "{spoof}");
            assert!(
                !format!("{:?}", seen.headers).contains("mine"),
                "{spoof} {:?}",
                seen.headers
            );
            assert_eq!(seen.header("x-api-keys"), Some("kept"));
        }
        let described = api(&format!("{name}-two"), &upstream.url(), &injections);
        pair.injector
            .add(Server {
                protocol: Protocol::Http2.into(),
                ..described
            })
            .await;
        let mut trailers = HeaderMap::new();
        for spoof in spoofs {
            trailers.append(
                http::HeaderName::from_bytes(spoof.as_bytes()).unwrap(),
                HeaderValue::from_static("mine"),
            );
        }
        trailers.append("x-checksum", HeaderValue::from_static("1"));
        let path = format!("/dev/{name}-two/");
        assert_eq!(
            with_trailers(pair.injector.data_plane, &path, trailers).await,
            200
        );
        let left: Vec<_> = upstream
            .last()
            .trailers
            .keys()
            .map(|name| name.to_string())
            .collect();
        assert_eq!(left, ["x-checksum"]);
    }
    pair.stop().await;
}

#[tokio::test]
async fn an_optional_secret_that_is_missing_leaves_out_its_injections_and_a_required_one_refuses_the_call() {
    let upstream = Upstream::start().await;
    let pair = dev(&[("A", "value-a"), ("B", "value-b")]).await;
    let injections = [
        header("x-both", "${A} ${B}"),
        header("x-one", "${A}"),
        cookie("c", "${B}"),
    ];
    pair.injector
        .add(api("optional", &upstream.url(), &injections))
        .await;
    let must = [required(header("x-both", "${A} ${B}")), header("x-one", "${A}")];
    pair.injector.add(api("required", &upstream.url(), &must)).await;
    pair.vault.delete("dev", "B").await;
    assert_eq!(pair.injector.get("/dev/optional/").await.status(), 200);
    let seen = upstream.last();
    assert_eq!(
        (seen.header("x-both"), seen.header("x-one"), seen.header("cookie")),
        (None, Some("value-a"), None)
    );
    let response = pair.injector.get("/dev/required/").await;
    assert_eq!(refusal(&response), (502, "SECRET_REQUIRED_MISSING"));
    assert_eq!(upstream.seen().len(), 1);
    pair.vault.delete("dev", "A").await;
    assert_eq!(pair.injector.get("/dev/optional/").await.status(), 200);
    let metrics = get(&format!("http://{}/metrics", pair.injector.metrics)).await;
    let metrics = String::from_utf8(metrics.body().to_vec()).unwrap();
    for (metric, count) in [("injected", 1), ("missed", 3)] {
        let line = format!(
            "aerostack_injector_{metric}_secrets_total{{workspace=\"dev\",server=\"optional\"}} {count}\n"
        );
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_value_that_is_illegal_in_its_place_is_refused_before_anything_is_sent() {
    let (untouched, url) = Untouched::bind();
    let pair = dev(&[("GOOD", "good-value")]).await;
    for (name, injection) in [
        ("header", header("x-key", "Key ${BAD}")),
        ("username", basic("${BAD}", "${GOOD}")),
        ("password", basic("${GOOD}", "${BAD}")),
        ("cookie", cookie("c", "v=${BAD}")),
    ] {
        pair.injector
            .add(api(name, &url, &[header("x-good", "${GOOD}"), injection]))
            .await;
    }
    let long = [b'z'; 8193];
    let all = &["header", "username", "password", "cookie"][..];
    for (value, places, says) in [
        (&b"canary\r\nx: y"[..], all, "has several lines"),
        (b"canary\n", all, "ends with a line break"),
        (b"can\0ary", all, "its value has "),
        (b"can\x7fary", all, "its value has "),
        (b"can\xffary", all, "is not UTF-8"),
        (&long, all, "more than 8192 bytes"),
        (b"can:ary", &["username"], "has a colon"),
        (
            "can\u{e9}ary".as_bytes(),
            &["header", "cookie"],
            "printable ASCII",
        ),
        (b" canary", &["header", "cookie"], "a space"),
        (b"can;ary", &["cookie"], "a semicolon"),
    ] {
        pair.vault.put("dev", "BAD", value).await;
        for place in places {
            let response = pair.injector.get(&format!("/dev/{place}/")).await;
            assert_eq!(
                refusal(&response),
                (502, "SECRET_VALUE_NOT_PLACEABLE"),
                "{value:?} {place}"
            );
            let answer = String::from_utf8_lossy(response.body()).into_owned();
            assert!(
                answer.contains("secret BAD: ") && answer.contains(says),
                "{answer}"
            );
            assert!(
                !answer.contains("ary") && !answer.contains("zzz") && !answer.contains("good-value"),
                "{answer}"
            );
        }
    }
    untouched.check();
    pair.stop().await;
}

#[tokio::test]
async fn the_longest_values_arrive_whole() {
    let (most, half) = ("m".repeat(8192), "h".repeat(4096));
    let secrets = [("MOST", &*most), ("HALF", &*half)];
    // One at a time, because the upstream takes heads of 16 KiB over HTTP/2.
    for (injection, name, sent) in [
        (
            header("x-key", "Key ${HALF}${HALF}"),
            "x-key",
            format!("Key {half}{half}"),
        ),
        (
            basic("${HALF}", "${HALF}"),
            "authorization",
            credentials(&half, &half),
        ),
        (cookie("c", "v1.${MOST}"), "cookie", format!("c=v1.{most}; a=1")),
    ] {
        for seen in seen_every_way(&secrets, &[injection], &[("cookie", "a=1")]).await {
            assert_eq!(values(&seen, name), [&sent]);
        }
    }
}

#[tokio::test]
async fn binary_metadata_of_a_template_is_base64_in_grpc_only() {
    let secrets = [("KEY", "k\u{fc}"), ("TOKEN", "tok-1")];
    let injections = [header("x-both-bin", "k=${KEY}${TOKEN}")];
    let upstream = Upstream::start().await;
    let pair = dev(&secrets).await;
    let described = api("api", &upstream.url(), &injections);
    pair.injector
        .add(Server {
            protocol: Protocol::Http2.into(),
            ..described
        })
        .await;
    let request = || {
        Request::get("/x.Y/Z")
            .header("x-aerostack-workspace", "dev")
            .header("x-aerostack-server", "api")
            .header("x_both-bin", "mine")
    };
    assert_eq!(call(&pair, request(), Protocol::Http2, true).await.status(), 200);
    let seen = upstream.last();
    assert_eq!(values(&seen, "x-both-bin"), ["az1rw7x0b2stMQ"]);
    assert_eq!(seen.header("x_both-bin"), None);
    let response = call(&pair, request(), Protocol::Http2, false).await;
    assert_eq!(refusal(&response), (502, "SECRET_VALUE_NOT_PLACEABLE"));
    pair.stop().await;
}

#[tokio::test]
async fn a_challenge_for_a_credential_of_the_injector_is_explained() {
    let upstream = Upstream::answering(|_| {
        let unauthorized = Response::builder()
            .status(401)
            .header("www-authenticate", "Basic realm=\"x\"");
        unauthorized.body(Full::default()).unwrap()
    })
    .await;
    let pair = dev(&[("TOKEN", "tok-1")]).await;
    pair.injector
        .add(api("api", &upstream.url(), &[basic("${TOKEN}", "${GONE}")]))
        .await;
    let pass = Server {
        oauth: Oauth::Pass.into(),
        ..api("pass", &upstream.url(), &[cookie("c", "${TOKEN}")])
    };
    pair.injector.add(pass).await;
    let response = pair.injector.get("/dev/api/").await;
    assert_eq!(refusal(&response), (502, "UPSTREAM_REJECTED_CREDENTIAL"));
    assert!(!response.headers().contains_key("www-authenticate"));
    let answer = String::from_utf8_lossy(response.body()).into_owned();
    assert!(
        answer.contains("missing: GONE") && !answer.contains("injected"),
        "{answer}"
    );
    let response = pair.injector.get("/dev/pass/").await;
    assert_eq!(response.status(), 401);
    assert!(response.headers().contains_key("www-authenticate"));
    pair.stop().await;
}

#[tokio::test]
async fn the_places_are_explained_without_values() {
    let upstream = Upstream::start().await;
    let pair = dev(&[("A", "canary-a"), ("B", "canary-b")]).await;
    let injections = [
        header("x-key", "Key ${A}"),
        basic("${A}", "${B}"),
        cookie("c", "${B}"),
    ];
    pair.injector.add(api("api", &upstream.url(), &injections)).await;
    let explained = format!("{:?}", explain(&pair, "api").await);
    assert!(
        explained.contains("x-key") && explained.contains("cookie") && !explained.contains("canary"),
        "{explained}"
    );
    pair.stop().await;
}
