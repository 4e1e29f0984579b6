//! A value arrives whole in its place, or nothing is sent at all.

use e2e::{
    Upstream,
    pair::{get, server},
    raw::RawUpstream,
};
use http::{Request, Response};
use http_body_util::Full;
use proto::injector::v1::{AuthType, Server};

use super::{Untouched, api, call, dev, explain, refusal};

#[tokio::test]
async fn every_secret_has_a_header_of_its_own() {
    let upstream = Upstream::start().await;
    let pair = dev(&[
        ("GITHUB_TOKEN", "gh-1"),
        ("my.api.key", "key-2"),
        ("_a__9", "odd-3"),
        ("OTHER", "no"),
    ])
    .await;
    let names = ["github-token", "MY_API_KEY", "_A__9"];
    pair.injector
        .add(api(&upstream.url(), AuthType::Unspecified, &names))
        .await;
    assert_eq!(call(&pair, "/dev/api/").await.status(), 200);
    let seen = upstream.last();
    assert_eq!(
        seen.secret_headers(),
        [
            "x-mcp-secret--a--9",
            "x-mcp-secret-github-token",
            "x-mcp-secret-my-api-key"
        ]
    );
    assert_eq!(seen.header("x-mcp-secret-github-token"), Some("gh-1"));
    assert_eq!(seen.header("x-mcp-secret-my-api-key"), Some("key-2"));
    assert_eq!(seen.header("x-mcp-secret--a--9"), Some("odd-3"));
    pair.stop().await;
}

#[tokio::test]
async fn secrets_of_other_servers_and_workspaces_never_arrive() {
    let upstream = Upstream::start().await;
    let pair = dev(&[("A", "dev-a"), ("B", "dev-b")]).await;
    pair.vault.workspace("ops").await;
    pair.vault.put("ops", "A", "ops-a").await;
    for (workspace, name, secrets) in [
        ("dev", "one", &["A"][..]),
        ("dev", "two", &["B"]),
        ("dev", "none", &[]),
        ("ops", "one", &["A"]),
    ] {
        pair.injector
            .add(server(workspace, name, &upstream.url(), secrets))
            .await;
    }
    let carried = async |path: &str| {
        assert_eq!(call(&pair, path).await.status(), 200);
        let seen = upstream.last();
        let names: Vec<_> = seen.secret_headers().iter().map(ToString::to_string).collect();
        names
            .into_iter()
            .map(|name| (seen.header(&name).unwrap().to_owned(), name))
            .collect::<Vec<_>>()
    };
    let a = |value: &str| vec![(value.to_owned(), "x-mcp-secret-a".to_owned())];
    assert_eq!(carried("/dev/one/").await, a("dev-a"));
    assert_eq!(
        carried("/dev/two/").await,
        [("dev-b".to_owned(), "x-mcp-secret-b".to_owned())]
    );
    assert_eq!(carried("/dev/none/").await, []);
    assert_eq!(carried("/ops/one/").await, a("ops-a"));
    assert_eq!(carried("/dev/one/").await, a("dev-a"));
    pair.stop().await;
}

#[tokio::test]
async fn a_bearer_token_replaces_the_authorization_of_the_program() {
    let upstream = Upstream::start().await;
    let pair = dev(&[("TOKEN", "tok-1")]).await;
    pair.injector
        .add(api(&upstream.url(), AuthType::Bearer, &["TOKEN"]))
        .await;
    let mine = || {
        Request::get("/dev/api/")
            .header("authorization", "Bearer mine")
            .header("Authorization", "Basic mine")
    };
    assert_eq!(pair.injector.send(mine(), "").await.status(), 200);
    assert_eq!(upstream.last().header("authorization"), Some("Bearer tok-1"));
    assert_eq!(upstream.last().secret_headers(), [] as [&str; 0]);

    pair.vault.delete("dev", "TOKEN").await;
    assert_eq!(pair.injector.send(mine(), "").await.status(), 200);
    assert_eq!(upstream.last().header("authorization"), None);
    pair.stop().await;
}

#[tokio::test]
async fn authorization_passes_in_other_auth_types() {
    let upstream = Upstream::start().await;
    let pair = dev(&[("TOKEN", "tok-1")]).await;
    pair.injector
        .add(api(&upstream.url(), AuthType::SecretHeaders, &["TOKEN"]))
        .await;
    let mine = Request::get("/dev/api/").header("authorization", "Bearer mine");
    assert_eq!(pair.injector.send(mine, "").await.status(), 200);
    assert_eq!(upstream.last().header("authorization"), Some("Bearer mine"));
    pair.stop().await;
}

#[tokio::test]
async fn a_value_that_is_illegal_in_a_header_is_refused_before_anything_is_sent() {
    let (untouched, url) = Untouched::bind();
    let pair = dev(&[("GOOD", "good-value")]).await;
    pair.injector
        .add(api(&url, AuthType::SecretHeaders, &["GOOD", "BAD"]))
        .await;
    let bearer = api(&url, AuthType::Bearer, &["BAD"]);
    pair.injector
        .add(Server {
            name: "bearer".into(),
            ..bearer
        })
        .await;
    let long = [b'z'; 8193];
    let values: [&[u8]; 14] = [
        b"canary\r\nx: y",
        b"canary\n",
        b"canary\r",
        b"\ncanary",
        b"can\0ary",
        b"can\tary",
        b"can\x7fary",
        "can\u{e9}ary".as_bytes(),
        b"can\xffary",
        b" canary",
        b"canary ",
        b"\x1bcanary",
        b" ",
        &long,
    ];
    for value in values {
        pair.vault.put("dev", "BAD", value).await;
        for path in ["/dev/api/", "/dev/bearer/"] {
            let response = call(&pair, path).await;
            assert_eq!(
                refusal(&response),
                (502, "SECRET_VALUE_NOT_PLACEABLE"),
                "{value:?}"
            );
            let answer = format!(
                "{:?} {}",
                response.headers(),
                String::from_utf8_lossy(response.body())
            );
            assert!(
                answer.contains("BAD")
                    && !answer.contains("ary")
                    && !answer.contains("zzzz")
                    && !answer.contains("good-value")
            );
        }
    }
    untouched.check();
    pair.stop().await;
}

#[tokio::test]
async fn every_legal_value_arrives_byte_for_byte() {
    let mut upstream =
        RawUpstream::start(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    let url = format!("http://{}", upstream.address);
    let pair = dev(&[]).await;
    pair.injector
        .add(api(&url, AuthType::SecretHeaders, &["TOKEN"]))
        .await;
    let bearer = api(&url, AuthType::Bearer, &["TOKEN"]);
    pair.injector
        .add(Server {
            name: "bearer".into(),
            ..bearer
        })
        .await;
    let all: String = (0x21..=0x7e).map(char::from).chain(" ~".chars()).collect();
    for value in [
        all,
        "a".into(),
        "a  b".into(),
        "\"{}\\%0d%0a".into(),
        "x".repeat(8192),
    ] {
        pair.vault.put("dev", "TOKEN", &value).await;
        for (path, line) in [
            ("/dev/api/", format!("\r\nx-mcp-secret-token: {value}\r\n")),
            ("/dev/bearer/", format!("\r\nauthorization: Bearer {value}\r\n")),
        ] {
            assert_eq!(call(&pair, path).await.status(), 200);
            let received = String::from_utf8(upstream.received().await).unwrap();
            assert!(received.contains(&line), "{received}");
        }
    }
    pair.stop().await;
}

#[tokio::test]
async fn the_injector_itself_never_shows_a_value() {
    let canary = "canary-value-7f3a";
    let upstream =
        Upstream::answering(|_| Response::builder().status(500).body(Full::default()).unwrap()).await;
    let pair = dev(&[("TOKEN", canary)]).await;
    pair.injector
        .add(api(&upstream.url(), AuthType::SecretHeaders, &["TOKEN", "GONE"]))
        .await;
    assert_eq!(call(&pair, "/dev/api/").await.status(), 500);
    assert_eq!(upstream.last().header("x-mcp-secret-token"), Some(canary));
    let explained = format!("{:?}", explain(&pair, "api").await);
    let metrics = get(&format!("http://{}/metrics", pair.injector.metrics)).await;
    let metrics = String::from_utf8(metrics.body().to_vec()).unwrap();
    let file = std::fs::read_to_string(pair.injector.servers_file()).unwrap();
    for text in [explained, metrics, file] {
        assert!(!text.contains(canary), "{text}");
    }
    pair.stop().await;
}
