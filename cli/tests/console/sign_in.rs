//! Links and sessions.

use http::{Method, StatusCode, header};

use crate::{
    browser::{Console, command},
    support::{run, text},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_link_signs_in_once_and_its_second_use_ends_the_session() {
    let console = Console::start().await;
    let path = console.link.split_once(&console.host()).unwrap().1.to_owned();
    let mut first = console.stranger();
    // A program that looks at the link before the person does not use it up.
    let head = first.send(Method::HEAD, &path, &[], String::new()).await;
    let prefetch = first
        .send(Method::GET, &path, &[("sec-purpose", "prefetch")], String::new())
        .await;
    assert!(
        head.headers.get(header::SET_COOKIE).is_none() && prefetch.headers.get(header::SET_COOKIE).is_none()
    );

    let answer = first
        .send(
            Method::GET,
            &path,
            &[("sec-fetch-site", "cross-site")],
            String::new(),
        )
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.has("http-equiv=\"refresh\" content=\"0; url=/\""));
    let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(
        cookie.ends_with("; HttpOnly; SameSite=Strict; Path=/"),
        "{cookie}"
    );
    first.cookie = Some(cookie.split_once(';').unwrap().0.to_owned());
    assert_eq!(first.get("/").await.status, StatusCode::OK);
    assert_eq!(first.get(&path).await.status, StatusCode::OK);
    // A link on a page of another site: the browser leaves the `SameSite=Strict` cookie out.
    for site in ["cross-site", "same-site"] {
        let answer = console
            .stranger()
            .send(Method::GET, &path, &[("sec-fetch-site", site)], String::new())
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{site}");
        assert!(answer.headers.get(header::SET_COOKIE).is_none(), "{site}");
    }
    assert_eq!(first.get("/").await.status, StatusCode::OK);

    let mut second = console.stranger();
    let answer = second.get(&path).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.has("aerostack console"));
    assert_eq!(first.get("/").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_link_is_explained() {
    let console = Console::start().await;
    for path in ["/sign-in", "/sign-in?token=", "/sign-in?token=x"] {
        let answer = console.stranger().get(path).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
        assert!(answer.has("press Enter"), "{}", answer.text);
    }
    // The right link still works.
    console.signed_in().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_signs_out_has_no_session() {
    let console = Console::start().await;
    let mut browser = console.signed_in().await;
    let answer = browser.post("/sign-out", &[]).await;
    assert!(
        answer.headers[header::SET_COOKIE]
            .to_str()
            .unwrap()
            .contains("Max-Age=0")
    );
    assert_eq!(browser.get("/").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_loopback_is_refused() {
    let home = tempfile::tempdir().unwrap();
    aerostack::pki::DevPki::ensure(home.path()).unwrap();
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let output = run(command(home.path(), listen)).await;
        assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("ssh -L"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_without_certificates_does_not_start() {
    let home = tempfile::tempdir().unwrap();
    let output = run(command(&home.path().join("missing"), "127.0.0.1:0")).await;
    assert_eq!(output.status.code(), Some(78), "{}", text(&output.stderr));
}
