//! Bodies of requests: the injector puts secrets into JSON, and passes all other bodies on unchanged.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::{convert::Infallible, io, net::SocketAddr, ops::Range, sync::Arc};

use bytes::Bytes;
use e2e::{
    PATIENCE, Pair, Upstream,
    pair::{get, server},
    process::{peak, reset_peak},
    raw,
};
use futures_util::{StreamExt as _, stream};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use proto::injector::v1::{AuthType, Protocol, Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{RwLock, RwLockReadGuard, mpsc},
    time::timeout,
};

const VALUE: &str = "canary-5f1d7c";
/// The injected member.
const OURS: &str = r#""secrets":{"TOKEN":"canary-5f1d7c"}"#;
/// Larger than any body that is buffered whole, and than all buffers on the way together.
const LARGE: usize = 24 << 20;
/// Size up to which a body is buffered and checked whole.
const WHOLE: usize = 1 << 20;

/// Locked exclusively by the test that measures the memory of this process.
static MEMORY: RwLock<()> = RwLock::const_new(());

/// A pair whose workspace `dev` has the secret `TOKEN`. The servers `skill`, `headers`, `bearer` and `skill2` (over
/// HTTP/2) lead to one upstream.
struct Scene {
    pair: Pair,
    upstream: Upstream,
    _shared: RwLockReadGuard<'static, ()>,
}

impl Scene {
    async fn start() -> Self {
        let shared = MEMORY.read().await;
        let (pair, upstream) = (Pair::start().await, Upstream::start().await);
        pair.vault.workspace("dev").await;
        pair.vault.put("dev", "TOKEN", VALUE).await;
        serve_all(&pair, &upstream.url()).await;
        Self {
            pair,
            upstream,
            _shared: shared,
        }
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Bytes> {
        let request = headers
            .iter()
            .fold(Request::post(path), |request, (name, value)| {
                request.header(*name, *value)
            });
        self.pair.injector.send(request, body).await
    }

    async fn json(&self, body: impl Into<Bytes>) -> Response<Bytes> {
        self.post("/dev/skill/run", &[("content-type", "application/json")], body)
            .await
    }

    /// Returns the body that the upstream received for `body`.
    async fn rewritten(&self, body: impl Into<Bytes>) -> String {
        let response = self.json(body).await;
        assert_eq!(response.status(), StatusCode::OK, "{response:?}");
        let seen = self.upstream.last();
        assert!(seen.complete);
        String::from_utf8(seen.body.to_vec()).unwrap()
    }

    /// Asserts that no request has reached the upstream.
    fn assert_upstream_not_called(&self) {
        assert!(self.upstream.seen().is_empty(), "{:?}", self.upstream.seen());
    }

    async fn missed(&self, server: &str) -> u64 {
        let page = get(&format!("http://{}/metrics", self.pair.injector.metrics))
            .await
            .into_body();
        let line =
            format!("aerostack_injector_missed_secrets_total{{workspace=\"dev\",server=\"{server}\"}} ");
        let page = String::from_utf8(page.to_vec()).unwrap();
        page.lines()
            .find_map(|text| text.strip_prefix(&line))
            .map_or(0, |count| count.parse().unwrap())
    }
}

async fn serve_all(pair: &Pair, url: &str) {
    for (name, auth_type, protocol) in [
        ("skill", AuthType::Skill, Protocol::Auto),
        ("skill2", AuthType::Skill, Protocol::Http2),
        ("headers", AuthType::SecretHeaders, Protocol::Auto),
        ("headers2", AuthType::SecretHeaders, Protocol::Http2),
        ("bearer", AuthType::Bearer, Protocol::Auto),
    ] {
        let (auth_type, protocol) = (auth_type.into(), protocol.into());
        pair.injector
            .add(Server {
                auth_type,
                protocol,
                ..server("dev", name, url, &["TOKEN"])
            })
            .await;
    }
}

fn refused(response: &Response<Bytes>, status: u16, reason: &str) {
    assert_eq!(
        (response.status().as_u16(), reason_of(response)),
        (status, reason),
        "{response:?}"
    );
    let text = String::from_utf8_lossy(response.body());
    assert!(text.contains(reason) && !text.contains("canary"), "{text}");
}

fn reason_of(response: &Response<Bytes>) -> &str {
    response
        .headers()
        .get("x-aerostack-reason")
        .map_or("", |reason| reason.to_str().unwrap())
}

#[tokio::test]
async fn a_top_level_secrets_member_is_replaced_and_nested_ones_are_kept() {
    let scene = Scene::start().await;
    for (body, left) in [
        (r#"{"secrets":{"TOKEN":"theirs"}}"#, r"{"),
        (r#"{"secrets":["theirs"]}"#, r"{"),
        (r#"{"secrets":"theirs"}"#, r"{"),
        (r#"{"secrets":null}"#, r"{"),
        (r#"{"secrets":"one","a":1,"secrets":"two"}"#, r#"{"a":1,"#),
        (r#"{"\u0073ecret\u0053":"theirs","a":1}"#, r#"{"a":1,"#),
        (r#"{"\u017fecrets":"theirs","a":1}"#, r#"{"a":1,"#),
        (r#"{"Secrets":1,"SECRETS":2,"sECRETs":3}"#, r"{"),
        (r#"{"ſecrets":"theirs","secretſ":"theirs"}"#, r"{"),
        (r#"{"a":{"secrets":"deeper"}}"#, r#"{"a":{"secrets":"deeper"},"#),
        (
            r#"{"a":[{"Secrets":[1]}],"secret":2}"#,
            r#"{"a":[{"Secrets":[1]}],"secret":2,"#,
        ),
        (r#"{"secrets ":1,"secretss":2}"#, r#"{"secrets ":1,"secretss":2,"#),
        (
            r#"{"a":"\"secrets\":1","b":"}"}"#,
            r#"{"a":"\"secrets\":1","b":"}","#,
        ),
        ("{}", "{"),
    ] {
        assert_eq!(scene.rewritten(body).await, format!("{left}{OURS}}}"), "{body}");
    }
    // Whitespace and commas around a removed member stay, so the test compares parsed JSON.
    for body in [
        "{ \"a\" : 1 , \"Secrets\" : {} , \"b\" : 2 }\r\n",
        "\t{\"secrets\":0 ,\"a\":1,\n\"b\":2,\"secrets\":[]\n}",
    ] {
        let rewritten = scene.rewritten(body).await;
        assert_eq!(rewritten.matches("ecrets").count(), 1, "{rewritten}");
        let rewritten: serde_json::Value = serde_json::from_str(&rewritten).unwrap();
        assert_eq!(
            rewritten,
            serde_json::json!({"a": 1, "b": 2, "secrets": {"TOKEN": VALUE}})
        );
    }
}

#[tokio::test]
async fn every_valid_json_object_passes_byte_for_byte() {
    let scene = Scene::start().await;
    let deep = format!("{{\"a\":{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let many = format!("{{{}\"\":0", "\"\":0,".repeat(1_000_000));
    for body in [
        r#"{"a":1e400,"b":-0.0E-00,"c":12345678901234567890"#,
        r#"{"a":"\ud800","b":"\udfff\ud800","c":"\u0000""#,
        "{\"é\u{1f511}\":\"\u{feff}\u{7f}\",\"\":\"\\/\"",
        "{ \"a\" :\r\n\t[ ] , \"a\":true",
        &deep,
        &many,
    ] {
        let rewritten = scene.rewritten(format!("{body}}}")).await;
        assert!(
            rewritten == format!("{body},{OURS}}}"),
            "{}",
            &rewritten[..rewritten.len().min(100)]
        );
    }
}

#[tokio::test]
async fn a_body_that_is_not_one_json_object_is_refused() {
    let scene = Scene::start().await;
    for body in [
        &b"\xef\xbb\xbf{}"[..],
        b"{\"a\":\"\xff\"}",
        b"{\"a\":\"\xed\xa0\x80\"}",
        b"{\"a\":\"\xc0\xaf\"}",
        b"\xfe\xff\0{\0}",
        b"[{\"jsonrpc\":\"2.0\"},{\"jsonrpc\":\"2.0\"}]",
        b"\"text\"",
        b"null",
        b"1",
        b" ",
        b"{}{}",
        b"{} {}",
        b"{}x",
        b"{},",
        b"{\"a\":1",
        b"{\"a\"",
        b"{",
        b"}",
        b"{]",
        b"{\"a\":1,}",
        b"{,}",
        b"{a:1}",
        b"{'a':1}",
        b"{\"a\":01}",
        b"{\"a\":+1}",
        b"{\"a\":.5}",
        b"{\"a\":1.}",
        b"{\"a\":NaN}",
        b"{\"a\":\"\\x\"}",
        b"{\"a\":\"\n\"}",
        b"{\"a\":1}//",
        b"/**/{}",
        b"{\"a\":\"\\u12\"}",
        b"{\0}",
    ] {
        let response = scene.json(body.to_vec()).await;
        refused(&response, 400, "BODY_INVALID");
    }
    let too_deep = format!("{{\"a\":{}1{}}}", "[".repeat(500_000), "]".repeat(500_000));
    refused(&scene.json(too_deep).await, 400, "BODY_INVALID");
    scene.assert_upstream_not_called();
}

#[tokio::test]
async fn a_call_without_a_body_is_forwarded_and_counted() {
    let scene = Scene::start().await;
    assert_eq!(
        scene.pair.injector.get("/dev/skill/run?q").await.status(),
        StatusCode::OK
    );
    let seen = scene.upstream.last();
    assert_eq!(
        (
            seen.target.as_str(),
            seen.body.len(),
            seen.header("content-length")
        ),
        ("/run?q", 0, None)
    );
    // Without a body, the content type does not matter.
    for (count, (path, content_type)) in [
        ("skill", "application/json"),
        ("skill", "text/plain"),
        ("skill2", "text/plain"),
    ]
    .into_iter()
    .enumerate()
    {
        let response = scene
            .post(&format!("/dev/{path}/"), &[("content-type", content_type)], "")
            .await;
        assert_eq!(response.status(), StatusCode::OK);
        let seen = scene.upstream.last();
        assert_eq!((seen.body.len(), seen.secret_headers().len()), (0, 0));
        assert_eq!(seen.header("content-type"), Some(content_type));
        assert_eq!(scene.upstream.seen().len(), count + 2);
    }
    let answer = raw::exchange(
        scene.pair.injector.data_plane,
        "POST /dev/skill/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
         Content-Type: application/json\r\n\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(raw::status(&answer), 200, "{answer}");
    assert!(scene.upstream.last().body.is_empty());
    assert_eq!(
        (scene.missed("skill").await, scene.missed("skill2").await),
        (4, 1)
    );
}

#[tokio::test]
async fn a_call_without_a_body_is_refused_when_a_secret_is_required() {
    let scene = Scene::start().await;
    for (name, protocol) in [("strict", Protocol::Http1), ("strict2", Protocol::Http2)] {
        scene
            .pair
            .injector
            .add(Server {
                auth_type: AuthType::Skill.into(),
                protocol: protocol.into(),
                required_secrets: vec!["TOKEN".into()],
                ..server("dev", name, &scene.upstream.url(), &["TOKEN"])
            })
            .await;
        for method in ["GET", "HEAD", "DELETE", "OPTIONS", "POST", "PUT"] {
            let request = Request::builder().method(method).uri(format!("/dev/{name}/run"));
            let response = scene.pair.injector.send(request, "").await;
            assert_eq!(
                (response.status().as_u16(), reason_of(&response)),
                (400, "BODY_MISSING"),
                "{method}"
            );
        }
    }
    let chunked = raw::exchange(
        scene.pair.injector.data_plane,
        "POST /dev/strict/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
         Content-Type: application/json\r\n\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(raw::status(&chunked), 400, "{chunked}");
    scene.assert_upstream_not_called();
}

#[tokio::test]
async fn secrets_go_only_into_the_bodies_of_calls_to_named_paths() {
    let scene = Scene::start().await;
    let named = Server {
        auth_type: AuthType::Skill.into(),
        required_secrets: vec!["TOKEN".into()],
        paths: vec!["/run".into(), "/tools/*".into()],
        ..server("dev", "named", &scene.upstream.url(), &["TOKEN"])
    };
    scene.pair.injector.add(named).await;
    let theirs = r#"{"secrets":"mine"}"#;
    let post = async |path: &str| {
        let json = [("content-type", "application/json")];
        let answer = scene.post(&format!("/dev/named{path}"), &json, theirs).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        String::from_utf8(scene.upstream.last().body.to_vec()).unwrap()
    };
    for path in ["/run", "/run?q", "/tools/a/b", "/tools/a%20b"] {
        assert_eq!(post(path).await, format!("{{{OURS}}}"), "{path}");
    }
    // The injector forwards bodies of other paths unchanged, and does not need the required secret for them.
    for path in [
        "",
        "/",
        "/other",
        "/run/",
        "/tools//a",
        "/tools/a%2fb",
        "/tools/%252e%252e/x",
        "/tools/a%00b",
        "/tools/a%2eb",
    ] {
        assert_eq!(post(path).await, theirs, "{path}");
    }
    scene.pair.vault.delete("dev", "TOKEN").await;
    let text = scene
        .post("/dev/named/other", &[("content-type", "text/plain")], "plain")
        .await;
    assert_eq!(
        (text.status(), &*scene.upstream.last().body),
        (StatusCode::OK, &b"plain"[..])
    );
    assert_eq!(
        scene.pair.injector.get("/dev/named/other").await.status(),
        StatusCode::OK
    );
    refused(
        &scene
            .post("/dev/named/run", &[("content-type", "application/json")], "{}")
            .await,
        502,
        "SECRET_REQUIRED_MISSING",
    );
}

#[tokio::test]
async fn a_removed_server_leaves_no_metric() {
    let scene = Scene::start().await;
    scene.pair.vault.delete("dev", "TOKEN").await;
    scene.rewritten("{}").await;
    assert_eq!(scene.missed("skill").await, 1);
    scene.pair.injector.remove("dev", "skill").await;
    let page = get(&format!("http://{}/metrics", scene.pair.injector.metrics)).await;
    let page = String::from_utf8_lossy(page.body()).into_owned();
    assert!(!page.contains("skill\""), "{page}");
}

#[tokio::test]
async fn when_every_secret_is_missing_the_member_is_empty() {
    let scene = Scene::start().await;
    scene.pair.vault.delete("dev", "TOKEN").await;
    assert_eq!(
        scene.rewritten(r#"{"a":1,"secrets":{"TOKEN":"theirs"}}"#).await,
        r#"{"a":1,"secrets":{}}"#
    );
    assert_eq!(scene.missed("skill").await, 1);
}

#[tokio::test]
async fn a_required_secret_that_is_missing_refuses_the_call_and_an_optional_one_is_left_out() {
    let scene = Scene::start().await;
    let url = scene.upstream.url();
    let both = |name, required: &[&str]| Server {
        auth_type: AuthType::Skill.into(),
        required_secrets: required.iter().map(|&name| name.to_owned()).collect(),
        ..server("dev", name, &url, &["ABSENT", "TOKEN"])
    };
    scene.pair.injector.add(both("optional", &["TOKEN"])).await;
    scene.pair.injector.add(both("required", &["ABSENT"])).await;
    let json = [("content-type", "application/json")];
    for body in [
        "{}".to_owned(),
        format!("{{\"a\":\"{}\"}}", "x".repeat(2 * WHOLE)),
    ] {
        let response = scene.post("/dev/required/", &json, body).await;
        refused(&response, 502, "SECRET_REQUIRED_MISSING");
    }
    scene.assert_upstream_not_called();
    assert_eq!(
        scene.post("/dev/optional/", &json, "{}").await.status(),
        StatusCode::OK
    );
    assert_eq!(scene.upstream.last().body, format!("{{{OURS}}}"));
    assert_eq!(scene.missed("optional").await, 1);
}

#[tokio::test]
async fn only_json_gets_secrets_into_its_body() {
    let scene = Scene::start().await;
    for content_type in [
        None,
        Some(""),
        Some("text/plain"),
        Some("application/json; charset=utf-16"),
        Some("application/json;charset=latin1"),
        Some("multipart/form-data; boundary=x"),
        Some("application/x-www-form-urlencoded"),
        Some("application/grpc-web"),
        Some("application/grpc-web+proto"),
        Some("application/jsonp"),
        Some("text/json+x"),
        Some("application/x-ndjson"),
        Some("application/json, text/plain"),
    ] {
        // The injector refuses whole and streamed bodies before it sends a byte.
        for body in [
            "{}".to_owned(),
            format!("{{\"a\":\"{}\"}}", "x".repeat(2 * WHOLE)),
        ] {
            let headers: Vec<_> = content_type
                .map(|value| ("content-type", value))
                .into_iter()
                .collect();
            let response = scene.post("/dev/skill/", &headers, body).await;
            refused(&response, 415, "BODY_TYPE_UNSUPPORTED");
        }
    }
    let two_types = [
        ("content-type", "application/json"),
        ("content-type", "text/plain"),
    ];
    refused(
        &scene.post("/dev/skill/", &two_types, "{}").await,
        415,
        "BODY_TYPE_UNSUPPORTED",
    );
    scene.assert_upstream_not_called();
    for content_type in [
        "application/json",
        "APPLICATION/JSON; Charset=\"UTF-8\"",
        "application/vnd.api+json",
        "application/problem+JSON ; x=y",
    ] {
        let response = scene
            .post("/dev/skill/", &[("content-type", content_type)], "{}")
            .await;
        assert_eq!(response.status(), StatusCode::OK, "{content_type}");
        let seen = scene.upstream.last();
        assert_eq!(
            (&seen.body[..], seen.header("content-type")),
            (format!("{{{OURS}}}").as_bytes(), Some(content_type))
        );
    }
}

#[tokio::test]
async fn nothing_is_put_into_a_compressed_body() {
    let scene = Scene::start().await;
    // `{}` in gzip, and bytes that are no gzip.
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0";
    for encoding in [
        "gzip",
        "x-gzip",
        "br",
        "deflate",
        "zstd",
        "gzip, br",
        "identity, gzip",
        "GZIP",
        "unknown",
        "",
    ] {
        for body in [&gzip[..], b"corrupt", b"{}"] {
            let headers = [
                ("content-type", "application/json"),
                ("content-encoding", encoding),
            ];
            refused(
                &scene.post("/dev/skill/", &headers, body.to_vec()).await,
                415,
                "BODY_TYPE_UNSUPPORTED",
            );
        }
    }
    scene.assert_upstream_not_called();
    let headers = [
        ("content-type", "application/json"),
        ("content-encoding", "identity"),
    ];
    assert_eq!(
        scene.post("/dev/skill/", &headers, "{}").await.status(),
        StatusCode::OK
    );
    // A server that gets its secrets in headers may get compressed bodies.
    let headers = [("content-encoding", "gzip")];
    assert_eq!(
        scene.post("/dev/headers/", &headers, &gzip[..]).await.status(),
        StatusCode::OK
    );
    let seen = scene.upstream.last();
    assert_eq!(
        (&seen.body[..], seen.header("content-encoding")),
        (&gzip[..], Some("gzip"))
    );
}

#[tokio::test]
async fn a_body_that_was_signed_is_not_rewritten() {
    let scene = Scene::start().await;
    for name in [
        "Content-MD5",
        "Digest",
        "Content-Digest",
        "Repr-Digest",
        "Signature",
        "Signature-Input",
    ] {
        let headers = [("content-type", "application/json"), (name, "x=:AAAA:")];
        refused(
            &scene.post("/dev/skill/", &headers, "{}").await,
            400,
            "BODY_SIGNED",
        );
    }
    scene.assert_upstream_not_called();
    let headers = [("content-digest", "sha-256=:AAAA:"), ("signature", "x=:AAAA:")];
    assert_eq!(
        scene.post("/dev/headers/", &headers, "{}").await.status(),
        StatusCode::OK
    );
    assert_eq!(
        scene.upstream.last().header("content-digest"),
        Some("sha-256=:AAAA:")
    );
}

#[tokio::test]
async fn every_text_value_is_escaped() {
    let scene = Scene::start().await;
    let control: String = (0..0x20).map(char::from).collect();
    for value in [
        "\"},\"admin\":{\"x\":\"",
        "\\\\u0022\\",
        &control,
        "né€\u{1f511}\u{7f}\u{2028}\0",
        " ",
        "</script>",
    ] {
        scene.pair.vault.put("dev", "TOKEN", value).await;
        let rewritten = scene.rewritten("{\"a\":1}").await;
        let expected = serde_json::json!({"a": 1, "secrets": {"TOKEN": value}});
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&rewritten).unwrap(),
            expected,
            "{rewritten}"
        );
    }
    let longest = "\u{1}".repeat(64 * 1024);
    scene.pair.vault.put("dev", "TOKEN", &longest).await;
    assert_eq!(
        scene.rewritten("{}").await,
        format!(
            "{{\"secrets\":{{\"TOKEN\":\"{}\"}}}}",
            "\\u0001".repeat(64 * 1024)
        )
    );
}

#[tokio::test]
async fn a_value_that_is_not_utf_8_is_refused_and_not_shown() {
    let scene = Scene::start().await;
    for value in [&b"canary\xff"[..], b"canary\xed\xa0\x80", b"\xc0\x80canary"] {
        scene.pair.vault.put("dev", "TOKEN", value).await;
        for body in [
            "{}".to_owned(),
            format!("{{\"a\":\"{}\"}}", "x".repeat(2 * WHOLE)),
            String::new(),
        ] {
            refused(&scene.json(body).await, 502, "SECRET_VALUE_NOT_PLACEABLE");
        }
    }
    scene.assert_upstream_not_called();
}

#[tokio::test]
async fn a_small_body_has_its_exact_length_and_a_large_one_is_chunked() {
    let scene = Scene::start().await;
    let empty = "{\"a\":\"\"}".len();
    for (server, version) in [("skill", Version::HTTP_11), ("skill2", Version::HTTP_2)] {
        for (size, whole) in [
            (empty, true),
            (WHOLE - 1, true),
            (WHOLE, true),
            (WHOLE + 1, false),
            (3 * WHOLE, false),
        ] {
            let head = format!("{{\"a\":\"{}\"", "x".repeat(size - empty));
            // The client sends the body with its length, and in chunks.
            for streamed in [false, true] {
                let body = Bytes::from(format!("{head}}}"));
                assert_eq!(body.len(), size);
                let body = if streamed {
                    in_pieces(body, 100_000)
                } else {
                    fixed(body)
                };
                let url = scene.pair.injector.url(&format!("/dev/{server}/"));
                let request = Request::post(url)
                    .header("content-type", "application/json")
                    .body(body)
                    .unwrap();
                let response = timeout(PATIENCE, client(streamed).request(request))
                    .await
                    .unwrap()
                    .unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                let seen = scene.upstream.last();
                assert!(seen.body == format!("{head},{OURS}}}") && seen.complete, "{size}");
                let length = seen.body.len().to_string();
                assert_eq!(seen.version, version);
                assert_eq!(
                    seen.header("content-length"),
                    whole.then_some(length.as_str()),
                    "{server} {size}"
                );
                let chunked = (!whole && version == Version::HTTP_11).then_some("chunked");
                assert_eq!(seen.header("transfer-encoding"), chunked, "{server} {size}");
            }
        }
    }
}

#[tokio::test]
async fn bodies_for_other_servers_are_unchanged() {
    let scene = Scene::start().await;
    let bytes: Bytes = (0..=255).cycle().take(300_000).collect();
    for server in ["headers", "headers2", "bearer"] {
        for (body, length) in [
            (fixed(bytes.clone()), Some("300000")),
            (in_pieces(bytes.clone(), 70_001), None),
            (fixed(Bytes::from_static(b"{\"secrets\":{\"a\":1}}")), Some("19")),
        ] {
            let sent = match length {
                Some("19") => Bytes::from_static(b"{\"secrets\":{\"a\":1}}"),
                _ => bytes.clone(),
            };
            let url = scene.pair.injector.url(&format!("/dev/{server}/"));
            let request = Request::put(url)
                .header("content-type", "application/json")
                .body(body)
                .unwrap();
            let response = timeout(PATIENCE, client(false).request(request))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let seen = scene.upstream.last();
            assert!(seen.body == sent && seen.complete, "{server}");
            assert_eq!(seen.header("content-length"), length, "{server}");
            let chunked = length.is_none() && server != "headers2";
            assert_eq!(
                seen.header("transfer-encoding"),
                chunked.then_some("chunked"),
                "{server}"
            );
        }
    }
}

#[tokio::test]
async fn trailers_pass_without_fields_named_like_secrets() {
    let scene = Scene::start().await;
    let post = |server: &str, body: &str| {
        format!(
            "POST /dev/{server}/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTE: trailers\r\nTransfer-Encoding: \
             chunked\r\nTrailer: X-Checksum, X-Mcp-Secret-TOKEN\r\nContent-Type: application/json\r\n\r\n{body}0\r\n\
             X-Checksum: 7\r\nX-Mcp-Secret-TOKEN: theirs\r\nAuthorization: theirs\r\nX_Mcp.Secret_Token: theirs\r\n\r\n"
        )
    };
    for (server, passed) in [("headers", true), ("bearer", true), ("skill", false)] {
        let answer = raw::exchange(scene.pair.injector.data_plane, post(server, "2\r\n{}\r\n")).await;
        assert_eq!(raw::status(&answer), 200, "{answer}");
        let seen = scene.upstream.last();
        assert!(
            !format!("{:?}{:?}{:?}", seen.headers, seen.trailers, seen.body).contains("theirs"),
            "{seen:?}"
        );
        // Trailers describe the original body, so a rewritten body has none.
        assert!(passed || seen.trailers.is_empty(), "{seen:?}");
    }
}

#[tokio::test]
async fn an_aborted_body_never_looks_complete() {
    let scene = Scene::start().await;
    for server in ["skill", "skill2", "headers", "headers2"] {
        for (framing, body) in [
            ("Content-Length: 100", "{\"a\":1}"),
            ("Transfer-Encoding: chunked", "7\r\n{\"a\":1}\r\n"),
            ("Transfer-Encoding: chunked", "7\r\n{\"a\":1}\r\n5\r\n"),
            ("Transfer-Encoding: chunked", "7\r\n{\"a\":1}\r\nx\r\n"),
        ] {
            let mut stream = TcpStream::connect(scene.pair.injector.data_plane).await.unwrap();
            let head = format!(
                "POST /dev/{server}/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: \
                 application/json\r\n{framing}\r\n\r\n{body}"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
                .await
                .expect("the connection was never closed");
            let status = raw::status(&String::from_utf8_lossy(&answer));
            assert_eq!(status, 400, "{server} {framing} {body:?}");
        }
    }
    // Some bodies began to reach the upstream. None ended there.
    for seen in scene.upstream.seen() {
        assert!(!seen.complete, "{seen:?}");
        assert!(!String::from_utf8_lossy(&seen.body).contains("canary"));
    }
}

#[tokio::test]
async fn a_large_body_is_streamed_and_the_secrets_come_last() {
    let _shared = MEMORY.read().await;
    let large = Large::start().await;
    let sent = large_json(LARGE, "\"]}");
    for server in ["skill", "skill2", "headers", "headers2"] {
        for http2 in [false, true] {
            let response = large
                .send(server, client(http2), in_pieces(sent.clone(), 64 << 10), &sent)
                .await;
            let counted = large.next().await;
            assert_eq!(response.unwrap().status(), StatusCode::OK, "{server}");
            assert!(counted.complete, "{server}");
            let rest = String::from_utf8(counted.rest).unwrap();
            let expected = match server {
                "skill" | "skill2" => (LARGE - 1, format!(",{OURS}}}")),
                _ => (LARGE, String::new()),
            };
            assert_eq!((counted.same, rest), expected, "{server}");
        }
    }
}

#[tokio::test]
async fn a_large_body_with_an_error_at_its_end_carries_no_secret() {
    let _shared = MEMORY.read().await;
    let large = Large::start().await;
    for end in ["\"]", "\"]}x", "\"]}{}", "\"],}", "\"}", "\n\"]}", "\"]}\0"] {
        let sent = large_json(3 * WHOLE, end);
        for (server, http2) in [
            ("skill", false),
            ("skill", true),
            ("skill2", false),
            ("skill2", true),
        ] {
            let response = large
                .send(server, client(http2), in_pieces(sent.clone(), 64 << 10), &sent)
                .await;
            broken(&response, &large.next().await);
        }
    }
}

#[tokio::test]
async fn a_large_body_that_the_client_aborts_is_aborted_upstream() {
    let _shared = MEMORY.read().await;
    let large = Large::start().await;
    let sent = large_json(3 * WHOLE, "\"]}");
    for server in ["skill", "skill2", "headers", "headers2"] {
        for http2 in [false, true] {
            // Everything but the end of the body.
            let pieces = pieces(sent.slice(..3 * WHOLE - 1), 64 << 10).map(Ok);
            let gone = stream::once(async { Err(io::Error::other("given up")) });
            let body = StreamBody::new(pieces.chain(gone).map(|piece| piece.map(Frame::data))).boxed_unsync();
            let response = large.send(server, client(http2), body, &sent).await;
            let counted = large.next().await;
            assert!(
                response.is_none_or(|response| response.status() == StatusCode::BAD_REQUEST),
                "{server}"
            );
            assert!(!counted.complete && !counted.canary(), "{server}");
        }
    }
}

#[tokio::test]
async fn a_response_to_an_aborted_body_does_not_end_cleanly() {
    let scene = Scene::start().await;
    let upstream = Streaming::start(true).await;
    serve_as(&scene.pair, "early", upstream.address, Protocol::Auto).await;
    serve_as(&scene.pair, "early2", upstream.address, Protocol::Http2).await;
    for server in ["early", "early2"] {
        let (more, pieces) = mpsc::channel(1);
        let body = StreamBody::new(
            tokio_stream::wrappers::ReceiverStream::new(pieces)
                .map(Frame::data)
                .map(Ok::<_, io::Error>),
        );
        let url = scene.pair.injector.url(&format!("/dev/{server}/"));
        let request = Request::post(url)
            .header("content-type", "application/json")
            .body(body.boxed_unsync())
            .unwrap();
        let answer = tokio::spawn(async move { client(true).request(request).await });
        more.send(Bytes::from(format!("{{\"a\":\"{}\",", "x".repeat(WHOLE))))
            .await
            .unwrap();
        let response = timeout(PATIENCE, answer).await.unwrap().unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        more.send(Bytes::from_static(b"broken")).await.unwrap();
        drop(more);
        let ended = timeout(PATIENCE, response.into_body().collect()).await.unwrap();
        assert!(
            ended.is_err(),
            "{server}: the answer to a body that broke ended as if it was whole"
        );
    }
}

/// The upstream does not read, so the injector has to stop reading from the client.
#[tokio::test]
async fn a_large_body_needs_no_more_memory_than_a_small_one() {
    let _alone = MEMORY.write().await;
    let large = Large::start().await;
    let (small, sent) = (large_json(2 * WHOLE, "\"]}"), large_json(LARGE, "\"]}"));
    for server in ["skill", "skill2", "headers", "headers2"] {
        for http2 in [false, true] {
            // The first call shows the memory of connections and their buffers.
            let response = large
                .send(server, client(http2), in_pieces(small.clone(), 64 << 10), &small)
                .await;
            assert!(response.is_some() && large.next().await.complete, "{server}");
            let before = reset_peak();
            let response = large
                .send(server, client(http2), in_pieces(sent.clone(), 64 << 10), &sent)
                .await;
            let counted = large.next().await;
            assert!(response.is_some() && counted.complete, "{server}");
            let grown = peak().saturating_sub(before);
            assert!(
                grown < LARGE / 3,
                "{server}: memory grew by {grown} for a body of {LARGE}"
            );
        }
    }
}

#[tokio::test]
async fn a_client_may_continue_only_after_the_call_is_allowed() {
    let scene = Scene::start().await;
    let url = scene.upstream.url();
    let required = Server {
        required_secrets: vec!["ABSENT".into()],
        ..server("dev", "required", &url, &["ABSENT"])
    };
    scene.pair.injector.add(required).await;
    let head = |server: &str, more: &str| {
        format!(
            "POST /dev/{server}/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\
             Expect: 100-Continue\r\n{more}\r\n"
        )
    };
    for (server, more, status) in [
        ("unknown", "Content-Type: application/json\r\n", 404),
        ("headers", "Origin: https://evil.example\r\n", 403),
        ("headers", "X-Aerostack-Server: headers\r\n", 400),
        ("required", "", 502),
        ("skill", "Content-Type: text/plain\r\n", 415),
        (
            "skill",
            "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
            415,
        ),
        ("skill", "Content-Type: application/json\r\nDigest: x\r\n", 400),
    ] {
        // The client sends no body, because it was not told to continue.
        let answer = raw::exchange(scene.pair.injector.data_plane, head(server, more)).await;
        assert_eq!(raw::status(&answer), status, "{server} {more}: {answer}");
    }
    scene.assert_upstream_not_called();
    for (server, expected) in [
        ("headers", "{}".to_owned()),
        ("bearer", "{}".to_owned()),
        ("skill", format!("{{{OURS}}}")),
    ] {
        let mut stream = TcpStream::connect(scene.pair.injector.data_plane).await.unwrap();
        stream
            .write_all(head(server, "Content-Type: application/json\r\n").as_bytes())
            .await
            .unwrap();
        let mut interim = [0; 25];
        timeout(PATIENCE, stream.read_exact(&mut interim))
            .await
            .expect("100 never came")
            .unwrap();
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"{}").await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(raw::status(&String::from_utf8_lossy(&answer)), 200);
        let seen = scene.upstream.last();
        assert_eq!(
            (&seen.body[..], seen.header("expect")),
            (expected.as_bytes(), None)
        );
    }
}

#[tokio::test]
async fn an_unknown_expectation_is_refused() {
    let scene = Scene::start().await;
    for expect in ["200-ok", "100-continue, x", "", "100-continue=1"] {
        for server in ["headers", "skill"] {
            let headers = [("content-type", "application/json"), ("expect", expect)];
            refused(
                &scene.post(&format!("/dev/{server}/"), &headers, "{}").await,
                417,
                "EXPECTATION_FAILED",
            );
        }
    }
    scene.assert_upstream_not_called();
}

/// Returns a JSON body of `size` bytes that ends with `end`.
fn large_json(size: usize, end: &str) -> Bytes {
    let start = "{\"items\":[\"";
    let mut body = Vec::with_capacity(size);
    body.extend_from_slice(start.as_bytes());
    let piece = b"0123456789 abcdefghij\",\"";
    while body.len() + piece.len() + end.len() <= size {
        body.extend_from_slice(piece);
    }
    body.resize(size - end.len(), b'x');
    body.extend_from_slice(end.as_bytes());
    body.into()
}

fn broken(response: &Option<Response<Incoming>>, counted: &Counted) {
    if let Some(response) = response {
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{response:?}");
        assert_eq!(response.headers()["x-aerostack-reason"], "BODY_INVALID");
    }
    assert!(
        !counted.complete,
        "a broken body ended upstream as if it was whole"
    );
    assert!(!counted.canary(), "a broken body took a secret along");
}

/// A pair whose servers lead to a [`Streaming`] upstream.
struct Large {
    pair: Pair,
    upstream: Streaming,
}

impl Large {
    async fn start() -> Self {
        let (pair, upstream) = (Pair::start().await, Streaming::start(false).await);
        pair.vault.workspace("dev").await;
        pair.vault.put("dev", "TOKEN", VALUE).await;
        serve_all(&pair, &format!("http://{}", upstream.address)).await;
        Self { pair, upstream }
    }

    /// Sends a body that should arrive as `expected` at first. Returns `None` when the connection broke.
    async fn send(
        &self,
        server: &str,
        client: Sender,
        body: Sent,
        expected: &Bytes,
    ) -> Option<Response<Incoming>> {
        *self.upstream.expected.lock().unwrap() = expected.clone();
        let request = Request::post(self.pair.injector.url(&format!("/dev/{server}/")));
        let request = request
            .header("content-type", "application/json")
            .body(body)
            .unwrap();
        let response = timeout(3 * PATIENCE, client.request(request))
            .await
            .expect("no answer came");
        response.ok()
    }

    async fn next(&self) -> Counted {
        let mut counted = self.upstream.counted.lock().await;
        timeout(PATIENCE, counted.recv())
            .await
            .expect("the upstream never saw the end")
            .unwrap()
    }
}

async fn serve_as(pair: &Pair, name: &str, upstream: SocketAddr, protocol: Protocol) {
    let url = format!("http://{upstream}");
    let (auth_type, protocol) = (AuthType::Skill.into(), protocol.into());
    pair.injector
        .add(Server {
            auth_type,
            protocol,
            ..server("dev", name, &url, &["TOKEN"])
        })
        .await;
}

/// An upstream that compares bodies with the expected bytes, and keeps only the bytes that differ.
struct Streaming {
    address: SocketAddr,
    expected: Arc<std::sync::Mutex<Bytes>>,
    counted: tokio::sync::Mutex<mpsc::UnboundedReceiver<Counted>>,
}

/// The result of receiving one body.
#[derive(Default)]
struct Counted {
    /// Number of bytes that were as expected.
    same: usize,
    /// The bytes after these.
    rest: Vec<u8>,
    complete: bool,
}

impl Counted {
    fn take(&mut self, data: &[u8], expected: &[u8]) {
        let here: Range<usize> = self.same..(self.same + data.len()).min(expected.len());
        let expected = expected.get(here).unwrap_or_default();
        let same = match self.rest.as_slice() {
            [] if data.starts_with(expected) => expected.len(),
            [] => data
                .iter()
                .zip(expected)
                .take_while(|(one, other)| one == other)
                .count(),
            _ => 0,
        };
        self.same += same;
        self.rest.extend_from_slice(&data[same..]);
    }

    /// Returns true when the unexpected bytes contain a value. The expected bytes contain none.
    fn canary(&self) -> bool {
        self.rest.windows(6).any(|bytes| bytes == b"canary")
    }
}

impl Streaming {
    /// Starts an upstream that answers at once (`early`), or after the whole request.
    async fn start(early: bool) -> Self {
        let expected = Arc::new(std::sync::Mutex::new(Bytes::new()));
        let (sender, counted) = mpsc::unbounded_channel();
        let expecting = expected.clone();
        let address = serving(move |request: Request<Incoming>| {
            let (expecting, sender) = (expecting.clone(), sender.clone());
            async move {
                if early {
                    return Response::new(echo(request.into_body()));
                }
                let expected = expecting.lock().unwrap().clone();
                drop(sender.send(count(request.into_body(), &expected).await));
                Response::new(
                    Empty::new()
                        .map_err(|never: Infallible| match never {})
                        .boxed_unsync(),
                )
            }
        })
        .await;
        Self {
            address,
            expected,
            counted: tokio::sync::Mutex::new(counted),
        }
    }
}

/// Returns a body that passes on `body` and its end.
fn echo(body: Incoming) -> Sent {
    body.map_err(io::Error::other).boxed_unsync()
}

async fn count(mut body: Incoming, expected: &[u8]) -> Counted {
    let mut counted = Counted::default();
    loop {
        match body.frame().await {
            Some(Ok(frame)) => counted.take(frame.data_ref().map_or(&[][..], |data| data), expected),
            Some(Err(_)) => return counted,
            None => {
                return Counted {
                    complete: true,
                    ..counted
                };
            }
        }
    }
}

async fn serving<R>(answer: impl Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static) -> SocketAddr
where
    R: Future<Output = Response<Sent>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            let calls = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let http = auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { http.serve_connection(TokioIo::new(stream), calls).await.is_ok() });
        }
    });
    address
}

type Sent = UnsyncBoxBody<Bytes, io::Error>;
type Sender = Client<HttpConnector, Sent>;

fn client(http2: bool) -> Sender {
    Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http()
}

fn fixed(body: Bytes) -> Sent {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

fn pieces(body: Bytes, size: usize) -> impl stream::Stream<Item = Bytes> + Send {
    let starts = (0..body.len()).step_by(size);
    stream::iter(starts).map(move |start| body.slice(start..(start + size).min(body.len())))
}

/// Returns a body without a length.
fn in_pieces(body: Bytes, size: usize) -> Sent {
    StreamBody::new(pieces(body, size).map(|piece| Ok(Frame::data(piece)))).boxed_unsync()
}
