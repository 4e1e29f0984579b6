//! Requests that are not of the console's own pages, and what every answer has.

use std::{os::unix::process::CommandExt as _, process::Command, time::Duration};

use http::{Method, StatusCode};
use rustix::process::getuid;
use tokio::{net::TcpStream, time};

use crate::browser::{Browser, Console, between};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_session_only_the_assets_are_served() {
    let console = Console::start().await;
    // The session of somebody else is none of the stranger.
    console.signed_in().await;
    let mut stranger = console.stranger();
    for path in [
        "/",
        "/status",
        "/status/live",
        "/workspaces/new",
        "/w/x/secrets",
        "/nowhere",
        "/sign-in/",
    ] {
        let answer = stranger.get(path).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
        assert!(answer.has("Open the link"), "{}", answer.text);
    }
    let answer = stranger.post("/workspaces", &[("name", "x")]).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    stranger.cookie = Some(format!(
        "aerostack-console-{}=x",
        console.host().split_once(':').unwrap().1
    ));
    assert_eq!(stranger.get("/").await.status, StatusCode::UNAUTHORIZED);
    for path in ["/assets/console.css", "/assets/console.js", "/assets/icon.svg"] {
        assert_eq!(stranger.get(path).await.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_of_the_same_name_from_another_port_does_not_hide_the_session() {
    let console = Console::start().await;
    let mut browser = console.signed_in().await;
    let own = browser.cookie.take().unwrap();
    let (name, _) = own.split_once('=').unwrap();
    browser.cookie = Some(format!("{name}=planted; {own}"));
    assert_eq!(browser.get("/").await.status, StatusCode::OK);
}

/// Asks the console for its style sheet with a program of `user`, and returns the answer.
fn answer_to(user: u32, host: &str) -> String {
    let port = host.split_once(':').unwrap().1;
    let request =
        format!("GET /assets/console.css HTTP/1.1\\r\\nhost: {host}\\r\\nconnection: close\\r\\n\\r\\n");
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; printf '{request}' >&3; cat <&3");
    let output = Command::new("bash")
        .args(["-c", &script])
        .uid(user)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_of_another_user_gets_no_answer() {
    /// The user `nobody`.
    const OTHER: u32 = 65_534;
    // Only root can start a program as another user.
    if !getuid().is_root() {
        return;
    }
    let console = Console::start().await;
    assert!(answer_to(0, &console.host()).contains("200 OK"));
    assert_eq!(answer_to(OTHER, &console.host()), "");
    assert!(console.log().contains("connection of another user closed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_keep_a_newcomer_out() {
    /// More than the console accepts at once.
    const IDLE: usize = 80;
    /// Less than the time after which the console closes a connection without a request.
    const SOON: Duration = Duration::from_secs(10);
    let console = Console::start().await;
    let mut idle = Vec::new();
    while idle.len() < IDLE {
        idle.push(TcpStream::connect(console.host()).await.unwrap());
    }
    let mut stranger = console.stranger();
    let answer = time::timeout(SOON, stranger.get("/assets/console.css")).await;
    assert_eq!(answer.expect("the newcomer waited").status, StatusCode::OK);
}

async fn status_with(browser: &mut Browser, path: &str, headers: &[(&str, &str)]) -> StatusCode {
    browser
        .send(Method::GET, path, headers, String::new())
        .await
        .status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_the_consoles_is_refused() {
    let console = Console::start().await;
    let mut browser = console.signed_in().await;
    let port = console.host().split_once(':').unwrap().1.to_owned();
    for host in [
        "evil.example",
        "127.0.0.1",
        &format!("evil.example:{port}"),
        &format!("127.0.0.2:{port}"),
        "",
    ] {
        for path in ["/", "/assets/console.css", "/sign-in?token=x"] {
            let status = status_with(&mut browser, path, &[("host", host)]).await;
            assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "{host} {path}");
        }
    }
    let own = format!("localhost:{port}");
    assert_eq!(
        status_with(&mut browser, "/", &[("host", &own)]).await,
        StatusCode::OK
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_another_site_is_refused() {
    let console = Console::start().await;
    let mut browser = console.signed_in().await;
    let own = format!("http://{}", console.host());
    let other_port = format!("http://127.0.0.1:{}", 1);
    for (origin, expected) in [
        ("https://evil.example", StatusCode::FORBIDDEN),
        ("null", StatusCode::FORBIDDEN),
        (other_port.as_str(), StatusCode::FORBIDDEN),
        (own.as_str(), StatusCode::OK),
    ] {
        assert_eq!(
            status_with(&mut browser, "/", &[("origin", origin)]).await,
            expected,
            "{origin}"
        );
    }
    for (site, expected) in [
        ("cross-site", StatusCode::FORBIDDEN),
        ("same-site", StatusCode::FORBIDDEN),
        ("same-origin", StatusCode::OK),
        ("none", StatusCode::OK),
    ] {
        assert_eq!(
            status_with(&mut browser, "/", &[("sec-fetch-site", site)]).await,
            expected,
            "{site}"
        );
    }
    let form = format!("csrf={}&name=stolen", browser.csrf);
    let headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("origin", "https://evil.example"),
    ];
    let answer = browser.send(Method::POST, "/workspaces", &headers, form).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(!browser.get("/").await.has("stolen"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_without_the_token_of_the_session_is_not_made() {
    let console = Console::start().await;
    let mut browser = console.signed_in().await;
    for fields in [
        vec![("name", "forged")],
        vec![("csrf", ""), ("name", "forged")],
        vec![("csrf", "x"), ("name", "forged")],
    ] {
        let answer = browser.post_exactly("/workspaces", &fields).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
    }
    let form = format!("csrf={}&name=forged", browser.csrf);
    let answer = browser
        .send(
            Method::POST,
            "/workspaces",
            &[("content-type", "text/plain")],
            form,
        )
        .await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(!browser.get("/").await.has("forged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_the_headers_that_confine_it() {
    let console = Console::start().await;
    let mut browser = console.signed_in().await;
    let long = "x".repeat(300_000);
    let post = [("content-type", "application/x-www-form-urlencoded")];
    let csrf = format!("csrf={}", browser.csrf);
    let mut answers = vec![
        (200, browser.get("/").await),
        (200, browser.get("/assets/console.js").await),
        (404, browser.get("/nowhere").await),
        (404, browser.get("/assets/nothing.js").await),
        (404, browser.get("/w/Not%20a%20name/secrets").await),
        (405, browser.get("/sign-out").await),
        (
            403,
            browser
                .send(Method::POST, "/workspaces", &post, String::new())
                .await,
        ),
        (
            413,
            browser
                .send(Method::POST, "/workspaces", &post, format!("{csrf}&name={long}"))
                .await,
        ),
        (422, browser.post("/workspaces", &[("name", "Not a name")]).await),
        (303, browser.post("/workspaces", &[("name", "w")]).await),
        (
            421,
            browser
                .send(Method::GET, "/", &[("host", "x")], String::new())
                .await,
        ),
        (
            403,
            browser
                .send(Method::GET, "/", &[("origin", "x")], String::new())
                .await,
        ),
        (403, browser.get("/sign-in?token=x").await),
        (
            503,
            browser
                .send(Method::HEAD, "/sign-in?token=x", &[], String::new())
                .await,
        ),
    ];
    browser.cookie = None;
    answers.push((401, browser.get("/").await));
    for (status, answer) in answers {
        assert_eq!(answer.status.as_u16(), status, "{answer:?}");
        let has = |name: &str, value: &str| assert_eq!(answer.headers[name], value, "{status} {name}");
        has("cache-control", "no-store");
        has("x-content-type-options", "nosniff");
        has("referrer-policy", "same-origin");
        has("cross-origin-opener-policy", "same-origin");
        has("cross-origin-resource-policy", "same-origin");
        has("x-frame-options", "DENY");
        has(
            "content-security-policy",
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
             frame-ancestors 'none'; base-uri 'none'",
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_in_no_answer_and_in_no_log() {
    const VALUE: &str = "planted+7f3a/value=";
    let console = Console::start().await;
    let mut browser = console.signed_in().await;
    browser.change("/workspaces", &[("name", "w")]).await;
    let secrets = "/w/w/secrets";
    // Forms with a mistake in each field, and one whose value is too long.
    let long = format!("{VALUE}{}", "x".repeat(70_000));
    let mistakes: [(u16, Vec<(&str, &str)>); 7] = [
        (422, vec![("name", ""), ("value", VALUE)]),
        (422, vec![("name", "A=B"), ("value", VALUE)]),
        (422, vec![("name", "A"), ("value", VALUE), ("origins", "nowhere")]),
        (422, vec![("name", "A"), ("value", VALUE), ("labels", "no label")]),
        (
            422,
            vec![("name", "A"), ("value", VALUE), ("expiry", "date"), ("date", "x")],
        ),
        (
            422,
            vec![
                ("name", "A"),
                ("value", VALUE),
                ("expiry", "2001-01-01T00:00:00Z"),
            ],
        ),
        (422, vec![("name", "A"), ("value", &long)]),
    ];
    for (status, fields) in mistakes {
        let answer = browser.post(secrets, &fields).await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    }
    browser
        .post_exactly(secrets, &[("name", "A"), ("value", VALUE)])
        .await;
    assert!(browser.get(secrets).await.has("Add the first secret"));
    // Puts that succeed, and one for a name that exists.
    browser.change(secrets, &[("name", "a"), ("value", VALUE)]).await;
    assert_eq!(
        browser
            .post(secrets, &[("name", "A"), ("value", VALUE)])
            .await
            .status,
        422
    );
    let replaced = [("value", VALUE), ("version", "1"), ("expiry", "30d")];
    browser.change("/w/w/secrets/A/replace", &replaced).await;
    assert_eq!(
        browser.post("/w/w/secrets/A/replace", &replaced).await.status,
        422
    );
    for page in ["", "/A", "/A/replace", "/A/delete", "/new", "/lookup?name=a"] {
        browser.get(&format!("{secrets}{page}")).await;
    }
    for page in ["/", "/status", "/w/w/settings"] {
        browser.get(page).await;
    }
    assert!(browser.seen.contains("version 2"), "the puts were made");
    for text in [browser.seen.as_str(), &console.log()] {
        for part in ["planted", "7f3a"] {
            assert!(!text.contains(part), "…{}", between(text, part, "\n"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_down_is_shown_in_words() {
    let mut console = Console::start().await;
    let mut browser = console.signed_in().await;
    assert!(browser.get("/status").await.has("Everything is in order."));
    console.dev.child.kill().unwrap();
    console.dev.wait().await;
    let answer = browser.get("/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        answer.has("A service cannot be reached") && answer.has("data-retries"),
        "{}",
        answer.text
    );
    let answer = browser.get("/status").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(
        answer.has("Something needs attention.") && answer.has("unreachable"),
        "{}",
        answer.text
    );
}
