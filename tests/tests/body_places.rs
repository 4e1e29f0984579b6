//! Values at places in bodies: members of JSON bodies at JSON Pointers, and fields of forms.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use bytes::Bytes;
use e2e::{PATIENCE, Pair, Upstream, pair::server, raw};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use proto::injector::v1::{
    AuthType, FormPlacement, Injection, JsonPlacement, Protocol, Server, injection::Placement,
};
use tokio::time::timeout;

const VALUE: &str = "canary-77b1e0-\"quoted\"&more";
/// [`VALUE`] as a JSON string and in a form.
const IN_JSON: &str = r#""canary-77b1e0-\"quoted\"&more""#;
const IN_FORM: &str = "canary-77b1e0-%22quoted%22%26more";
const JSON: (&str, &str) = ("content-type", "application/json");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

/// A pair whose workspace `dev` has the secret `TOKEN`, and not the secret `MISSING`.
struct Scene {
    pair: Pair,
    upstream: Upstream,
}

fn json(pointer: &str, value: &str) -> Injection {
    let placement = JsonPlacement {
        pointer: pointer.to_owned(),
        value: value.to_owned(),
    };
    Injection {
        required: false,
        placement: Some(Placement::Json(placement)),
    }
}

fn form(field: &str, value: &str) -> Injection {
    let placement = FormPlacement {
        field: field.to_owned(),
        value: value.to_owned(),
    };
    Injection {
        required: false,
        placement: Some(Placement::Form(placement)),
    }
}

fn api(url: &str, injections: Vec<Injection>) -> Server {
    Server {
        auth_type: AuthType::Custom.into(),
        injections,
        ..server("dev", "api", url, &[])
    }
}

impl Scene {
    async fn start(injections: Vec<Injection>) -> Self {
        Self::with(|_| {}, |server| server, injections).await
    }

    async fn with(
        settings: impl FnOnce(&mut injector_service::config::Settings),
        edit: impl FnOnce(Server) -> Server,
        injections: Vec<Injection>,
    ) -> Self {
        let pair = Pair::start_with(|_| {}, settings).await;
        let upstream = Upstream::start().await;
        pair.vault.workspace("dev").await;
        pair.vault.put("dev", "TOKEN", VALUE).await;
        pair.injector.add(edit(api(&upstream.url(), injections))).await;
        Self { pair, upstream }
    }

    async fn post(&self, http2: bool, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Bytes> {
        let request = Request::post(self.pair.injector.url("/dev/api/run"));
        let request = headers
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value));
        let client = Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build_http();
        let answer = async {
            let request = request.body(Full::new(body.into())).unwrap();
            let (parts, body) = client.request(request).await.unwrap().into_parts();
            Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
        };
        timeout(PATIENCE, answer).await.expect("no answer came")
    }

    /// Returns the body that the upstream received for `body`, which is the same over both versions of HTTP.
    async fn rewritten(&self, header: (&str, &str), body: &str) -> String {
        let mut seen = Vec::new();
        for http2 in [false, true] {
            let response = self.post(http2, &[header], body.to_owned()).await;
            assert_eq!(response.status(), StatusCode::OK, "{response:?}");
            let last = self.upstream.last();
            assert!(last.complete);
            assert_eq!(
                last.header("content-length"),
                Some(last.body.len().to_string().as_str())
            );
            seen.push(String::from_utf8(last.body.to_vec()).unwrap());
        }
        assert_eq!(seen[0], seen[1]);
        seen.remove(0)
    }

    /// Asserts that a call is refused, with the same answer over both versions of HTTP and without a call upstream.
    async fn assert_refused(
        &self,
        headers: &[(&str, &str)],
        body: &str,
        status: u16,
        reason: &str,
    ) -> String {
        let mut text = String::new();
        for http2 in [false, true] {
            let response = self.post(http2, headers, body.to_owned()).await;
            let found = response
                .headers()
                .get("x-aerostack-reason")
                .map(|reason| reason.to_str().unwrap());
            assert_eq!(
                (response.status().as_u16(), found),
                (status, Some(reason)),
                "{body}: {response:?}"
            );
            text = String::from_utf8(response.body().to_vec()).unwrap();
            assert!(!text.contains("canary") && !text.contains("hush"), "{text}");
        }
        assert!(self.upstream.seen().is_empty(), "{:?}", self.upstream.seen());
        text
    }
}

#[tokio::test]
async fn an_mcp_token_goes_into_the_metadata_of_a_message() {
    let scene = Scene::start(vec![json("/params/_meta/token", "Bearer ${TOKEN}")]).await;
    let ours = IN_JSON.replacen('"', "\"token\":\"Bearer ", 1);
    for (body, expected) in [
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{"progressToken":7}}}"#,
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"x","_meta":{{"progressToken":7,{ours}}}}}}}"#
            ),
        ),
        (
            "{\"jsonrpc\": \"2.0\", \"method\": \"ping\"}\n",
            format!("{{\"jsonrpc\": \"2.0\", \"method\": \"ping\",\"params\":{{\"_meta\":{{{ours}}}}}}}\n"),
        ),
        (
            r#"{"params":{"_meta":{"TOKEN":"spoofed","\u0074oken":"spoofed"}},"n":1e400}"#,
            format!(r#"{{"params":{{"_meta":{{{ours}}}}},"n":1e400}}"#),
        ),
        (
            r#"{"params":{"_META":{"token":"spoofed"},"_meta":{}}}"#,
            format!(r#"{{"params":{{"_META":{{}},"_meta":{{{ours}}}}}}}"#),
        ),
    ] {
        assert_eq!(scene.rewritten(JSON, body).await, expected);
    }
}

#[tokio::test]
async fn several_members_share_a_body_and_a_missing_secret_only_removes_its_member() {
    let places = [
        ("/a/b", "${TOKEN}"),
        ("/a/c", "${MISSING}"),
        ("/a/d", "${TOKEN}-${MISSING}"),
        ("/x/y", "${MISSING}"),
    ];
    let scene = Scene::start(places.map(|(pointer, value)| json(pointer, value)).to_vec()).await;
    for (body, expected) in [
        ("{}", format!(r#"{{"a":{{"b":{IN_JSON}}}}}"#)),
        (
            r#"{"a":{"c":"spoofed","d":"spoofed","e":0},"x":{"Y":"spoofed"}}"#,
            format!(r#"{{"a":{{"e":0,"b":{IN_JSON}}},"x":{{}}}}"#),
        ),
    ] {
        assert_eq!(scene.rewritten(JSON, body).await, expected);
    }
}

#[tokio::test]
async fn a_json_body_without_a_place_for_the_value_is_refused() {
    let scene = Scene::start(vec![json("/params/token", "${TOKEN}")]).await;
    for body in [
        r#"{"params":["hush"]}"#,
        r#"{"params":"hush"}"#,
        r#"{"params":null}"#,
    ] {
        let text = scene.assert_refused(&[JSON], body, 400, "BODY_INVALID").await;
        assert!(text.contains("/params"), "{text}");
    }
    for body in ["[]", "{", r#"{"hush":01}"#, "{} {}", "hush"] {
        scene.assert_refused(&[JSON], body, 400, "BODY_INVALID").await;
    }
    let gzip = ("content-encoding", "gzip");
    scene
        .assert_refused(&[JSON, gzip], "{}", 415, "BODY_TYPE_UNSUPPORTED")
        .await;
    scene
        .assert_refused(&[JSON, ("content-digest", "x")], "{}", 400, "BODY_SIGNED")
        .await;
}

#[tokio::test]
async fn a_form_field_replaces_every_spelling_of_its_name() {
    let scene = Scene::start(vec![form("api_token", "${TOKEN}"), form("user", "${MISSING}")]).await;
    for (body, expected) in [
        ("a=1&b=%7e", format!("a=1&b=%7e&api_token={IN_FORM}")),
        (
            "API.Token=x&a=1&api+token=x&%61pi_token[]=x&USER=x&b",
            format!("a=1&b&api_token={IN_FORM}"),
        ),
        ("user=x;api_token=x", format!("api_token={IN_FORM}")),
    ] {
        assert_eq!(scene.rewritten(FORM, body).await, expected);
    }
}

#[tokio::test]
async fn the_content_type_picks_the_place() {
    let injections = || vec![json("/token", "${TOKEN}"), form("token", "${TOKEN}")];
    let scene = Scene::start(injections()).await;
    assert_eq!(
        scene.rewritten(JSON, "{}").await,
        format!(r#"{{"token":{IN_JSON}}}"#)
    );
    assert_eq!(scene.rewritten(FORM, "a=1").await, format!("a=1&token={IN_FORM}"));
    let scene = Scene::start(injections()).await;
    for header in [
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded; charset=utf-16",
    ] {
        let text = scene
            .assert_refused(&[("content-type", header)], "hush", 415, "BODY_TYPE_UNSUPPORTED")
            .await;
        assert!(
            text.contains("application/json") && text.contains("application/x-www-form-urlencoded"),
            "{text}"
        );
    }
    let only_json = Scene::start(vec![json("/token", "${TOKEN}")]).await;
    let text = only_json
        .assert_refused(&[FORM], "a=1", 415, "BODY_TYPE_UNSUPPORTED")
        .await;
    assert!(!text.contains("x-www-form-urlencoded"), "{text}");
    let only_form = Scene::start(vec![form("token", "${TOKEN}")]).await;
    let text = only_form
        .assert_refused(&[JSON], "{}", 415, "BODY_TYPE_UNSUPPORTED")
        .await;
    assert!(!text.contains("application/json"), "{text}");
}

#[tokio::test]
async fn a_body_that_is_too_large_to_be_read_whole_is_refused() {
    let injections = vec![json("/token", "${TOKEN}"), form("token", "${TOKEN}")];
    let small = |settings: &mut injector_service::config::Settings| {
        settings.limits.max_buffered_body = "64".to_owned();
    };
    let scene = Scene::with(small, |server| server, injections).await;
    let body = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
    for (header, body) in [(JSON, body(65)), (FORM, "x".repeat(65))] {
        let text = scene
            .assert_refused(&[header], &body, 413, "BODY_TOO_LARGE")
            .await;
        assert!(
            text.contains("64") && text.contains("--max-buffered-body"),
            "{text}"
        );
    }
    // Without a length, the body is refused when it turns out to be too large.
    let chunked = "POST /dev/api/run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n\
                   Transfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("41\r\n{}\r\n0\r\n\r\n", body(65));
    let answer = raw::exchange(
        scene.pair.injector.data_plane,
        format!("{chunked}{chunk}").as_bytes(),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(scene.upstream.seen().is_empty());
    for (header, body) in [(JSON, body(64)), (FORM, "x".repeat(64))] {
        scene.rewritten(header, &body).await;
    }
}

#[tokio::test]
async fn paths_limit_the_calls_that_get_values_in_their_body() {
    let injections = vec![json("/token", "${TOKEN}"), form("token", "${TOKEN}")];
    let edit = |server| Server {
        paths: vec!["/other".to_owned()],
        ..server
    };
    let scene = Scene::with(|_| {}, edit, injections).await;
    for (header, body) in [
        (JSON, r#"{"token":"mine"}"#),
        (FORM, "token=mine"),
        (("content-type", "text/plain"), "hush"),
    ] {
        assert_eq!(scene.rewritten(header, body).await, body);
    }
}

#[tokio::test]
async fn a_call_without_a_body_goes_out_unless_a_value_is_required() {
    for (required, injection) in [
        (false, json("/token", "${TOKEN}")),
        (false, form("token", "${TOKEN}")),
        (true, json("/token", "${TOKEN}")),
        (true, form("token", "${TOKEN}")),
    ] {
        let scene = Scene::start(vec![Injection {
            required,
            ..injection
        }])
        .await;
        let response = scene.pair.injector.get("/dev/api/run").await;
        match required {
            false => assert_eq!(
                (response.status(), scene.upstream.last().body.len()),
                (StatusCode::OK, 0)
            ),
            true => {
                assert_eq!(response.status(), StatusCode::BAD_REQUEST);
                assert_eq!(response.headers()["x-aerostack-reason"], "BODY_MISSING");
                assert!(scene.upstream.seen().is_empty());
            }
        }
    }
}

#[tokio::test]
async fn a_value_that_is_no_text_refuses_the_call() {
    for (injection, header, body) in [
        (json("/token", "${BYTES}"), JSON, "{}"),
        (form("token", "${BYTES}"), FORM, "a=1"),
    ] {
        let scene = Scene::start(vec![injection]).await;
        scene.pair.vault.put("dev", "BYTES", b"canary\xff").await;
        scene
            .assert_refused(&[header], body, 502, "SECRET_VALUE_NOT_PLACEABLE")
            .await;
    }
}

#[tokio::test]
async fn values_reach_an_upstream_over_http_2() {
    let injections = vec![json("/token", "${TOKEN}"), form("token", "${TOKEN}")];
    let edit = |server| Server {
        protocol: Protocol::Http2.into(),
        ..server
    };
    let scene = Scene::with(|_| {}, edit, injections).await;
    assert_eq!(
        scene.rewritten(JSON, "{}").await,
        format!(r#"{{"token":{IN_JSON}}}"#)
    );
    assert_eq!(scene.rewritten(FORM, "a=1").await, format!("a=1&token={IN_FORM}"));
    assert_eq!(scene.upstream.last().version, http::Version::HTTP_2);
}
