//! Users who sign in with client certificates, over TLS.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    time::{Duration, SystemTime},
};

use aerostack::pki::{DevPki, Leaf, Usage};
use http::{Method, StatusCode, header};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    browser::command,
    support::{run, text},
    user_console::{ALICE, BOB, TestAuthority, UserBrowser, UserConsole},
};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_valid_certificate_of_the_authority_there_is_no_answer() {
    const DAY: Duration = Duration::from_hours(24);
    let console = UserConsole::start(&[ALICE], &[]).await;
    let now = SystemTime::now();
    let client = |usages: &[Usage]| Leaf::new("user", ALICE, usages, now);
    let expired = Leaf {
        not_before: now - 2 * DAY,
        not_after: now - DAY,
        ..client(&[Usage::Client])
    };
    let early = Leaf {
        not_before: now + DAY,
        ..client(&[Usage::Client])
    };
    let own = |leaf: &Leaf| Some(console.authority.issue(leaf));
    for (what, identity) in [
        ("none", None),
        ("of another authority", Some(TestAuthority::new().user(ALICE))),
        ("expired", own(&expired)),
        ("not yet valid", own(&early)),
        ("of a server", own(&client(&[Usage::Server]))),
    ] {
        let mut browser = console.browser(identity.as_ref());
        for path in ["/", "/assets/console.css", "/sign-in?token=x"] {
            assert!(browser.get(path).await.is_err(), "{what} {path}");
        }
    }
    let mut alice = console.browser(Some(&console.authority.user(ALICE)));
    assert_eq!(alice.get("/").await.unwrap().status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_not_allowed_sees_no_page_but_the_reason() {
    let console = UserConsole::start(&[ALICE], &[]).await;
    for other in [
        BOB,
        "spiffe://test/alice2",
        "spiffe://test/Alice",
        "spiffe://test/alice/x",
    ] {
        let mut browser = console.browser(Some(&console.authority.user(other)));
        for path in ["/", "/status", "/w/x/secrets", "/nowhere"] {
            let answer = browser.get(path).await.unwrap();
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{other} {path}");
            assert!(answer.has(&format!("--allow-user {other}")), "{}", answer.text);
            assert!(answer.headers.get(header::SET_COOKIE).is_none());
        }
        assert_eq!(browser.create("x", "stolen").await, StatusCode::FORBIDDEN);
        console.assert_logged("request refused", other, "GET", "/status", "403");
        console.assert_logged("change requested", other, "POST", "/workspaces", "403");
    }
    let nameless = Leaf {
        uris: Vec::new(),
        ..Leaf::new("user", ALICE, &[Usage::Client], SystemTime::now())
    };
    let mut nobody = console.browser(Some(&console.authority.issue(&nameless)));
    let answer = nobody.get("/").await.unwrap();
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.has("does not sign in"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_made_and_logged_under_the_name_of_its_user() {
    let console = UserConsole::start(&[ALICE, BOB], &[]).await;
    let mut alice = console.browser(Some(&console.authority.user(ALICE)));
    let first = alice.get("/").await.unwrap();
    assert!(first.has(ALICE), "the page says who is signed in: {}", first.text);
    assert!(!first.has("Sign out"));
    let cookie = first.headers[header::SET_COOKIE].to_str().unwrap();
    let name = format!("__Host-aerostack-console-{}=", console.port());
    assert!(cookie.starts_with(&name), "{cookie}");
    assert!(
        cookie.ends_with("; HttpOnly; SameSite=Strict; Path=/; Secure"),
        "{cookie}"
    );

    let csrf = alice.sign_in().await;
    assert_eq!(alice.create(&csrf, "made").await, StatusCode::SEE_OTHER);
    assert_eq!(alice.create("x", "forged").await, StatusCode::FORBIDDEN);
    let list = alice.get("/").await.unwrap();
    assert!(list.has("made") && !list.has("forged"), "{}", list.text);
    assert!(
        list.headers.get(header::SET_COOKIE).is_none(),
        "the session goes on"
    );
    for status in ["303", "403"] {
        console.assert_logged("change requested", ALICE, "POST", "/workspaces", status);
    }

    // Without the cookie there is no session, and a certificate alone changes nothing.
    let kept = alice.cookie.take();
    assert_eq!(alice.create(&csrf, "forged").await, StatusCode::UNAUTHORIZED);
    // The session of one user is not that of another.
    let mut bob = console.browser(Some(&console.authority.user(BOB)));
    bob.cookie = kept;
    assert_eq!(bob.create(&csrf, "forged").await, StatusCode::UNAUTHORIZED);
    let answer = bob.get("/").await.unwrap();
    assert!(answer.has(BOB) && !answer.has(ALICE), "{}", answer.text);
    assert!(answer.headers.get(header::SET_COOKIE).is_some());
    assert!(!answer.has("forged"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_logged_also_when_the_client_closes_the_connection() {
    let console = UserConsole::start(&[ALICE], &[]).await;
    let mut alice = console.browser(Some(&console.authority.user(ALICE)));
    let csrf = alice.sign_in().await;
    let form = format!("csrf={csrf}&name=made");
    let head = format!(
        "POST /workspaces HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        console.host,
        alice.cookie.as_ref().unwrap(),
        form.len(),
    );
    // The vault does not answer until the client has gone.
    kill_process(Pid::from_child(&console.dev.child), Signal::STOP).unwrap();
    let mut connection = alice.connect().await.unwrap();
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut reads_the_form = [0; 12];
    connection.read_exact(&mut reads_the_form).await.unwrap();
    assert_eq!(reads_the_form, *b"HTTP/1.1 100");
    connection.write_all(form.as_bytes()).await.unwrap();
    drop(connection);
    let logged = console.log_with("the client closed the connection").await;
    let line = logged.lines().find(|line| line.contains("change requested"));
    let line = line.unwrap();
    assert!(
        line.contains(ALICE) && line.contains("/workspaces") && !line.contains("status="),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tabs_that_open_at_once_are_both_usable() {
    let console = UserConsole::start(&[ALICE, BOB], &[]).await;
    let identity = console.authority.user(ALICE);
    let (mut first, mut second) = (console.browser(Some(&identity)), console.browser(Some(&identity)));
    let (of_first, of_second) = (first.sign_in().await, second.sign_in().await);
    assert_ne!(of_first, of_second);
    // The browser keeps the cookie that came last.
    first.cookie.clone_from(&second.cookie);
    assert_eq!(first.create(&of_first, "one").await, StatusCode::SEE_OTHER);
    assert_eq!(second.create(&of_second, "two").await, StatusCode::SEE_OTHER);
    let mut bob = console.browser(Some(&console.authority.user(BOB)));
    bob.sign_in().await;
    assert_eq!(bob.create(&of_first, "forged").await, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_page_that_a_person_opens_begins_a_session() {
    let console = UserConsole::start(&[ALICE], &[]).await;
    let mut alice = console.browser(Some(&console.authority.user(ALICE)));
    for (mode, status) in [
        ("no-cors", StatusCode::UNAUTHORIZED),
        ("same-origin", StatusCode::UNAUTHORIZED),
        ("navigate", StatusCode::OK),
    ] {
        let headers = [("sec-fetch-site", "same-origin"), ("sec-fetch-mode", mode)];
        let answer = alice.send_with(Method::GET, "/", &headers, String::new()).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status, status, "{mode}");
        let begins = answer.headers.get(header::SET_COOKIE).is_some();
        assert_eq!(begins, status == StatusCode::OK, "{mode}");
    }
    // A session that is used stays, however many others begin.
    let kept = alice.cookie.clone();
    for _ in 0..20 {
        alice.cookie = None;
        assert_eq!(alice.get("/workspaces/new").await.unwrap().status, StatusCode::OK);
        alice.cookie.clone_from(&kept);
        let answer = alice.get("/workspaces/new").await.unwrap();
        assert!(answer.headers.get(header::SET_COOKIE).is_none(), "it ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_site_changes_nothing_over_tls() {
    let console = UserConsole::start(&[ALICE], &[]).await;
    let mut alice = console.browser(Some(&console.authority.user(ALICE)));
    let csrf = alice.sign_in().await;
    let own = format!("https://{}", console.host);
    for (origin, name, status) in [
        ("https://attacker.example", "forged", StatusCode::FORBIDDEN),
        ("null", "forged", StatusCode::FORBIDDEN),
        (
            own.trim_start_matches("https://"),
            "forged",
            StatusCode::FORBIDDEN,
        ),
        (own.as_str(), "made", StatusCode::SEE_OTHER),
    ] {
        let form = format!("csrf={csrf}&name={name}");
        let headers = [("origin", origin)];
        let answer = alice.send_with(Method::POST, "/workspaces", &headers, form).await;
        assert_eq!(answer.unwrap().status, status, "{origin}");
    }
    let list = alice.get("/").await.unwrap();
    assert!(list.has("made") && !list.has("forged"), "{}", list.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_people_who_are_not_allowed_keep_no_user_out() {
    /// More than the console has for all of them.
    const MANY: usize = 80;
    let console = UserConsole::start(&[ALICE], &[]).await;
    let bob = console.browser(Some(&console.authority.user(BOB)));
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..MANY {
        let mut connection = bob.connect().await.unwrap();
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: 9\r\n\r\nx",
            console.host
        );
        // The handshake of TLS 1.3 ends for the client before the console has decided.
        refused += usize::from(connection.write_all(head.as_bytes()).await.is_err());
        held.push(connection);
    }
    let mut alice = console.browser(Some(&console.authority.user(ALICE)));
    assert_eq!(
        alice.get("/").await.unwrap().status,
        StatusCode::OK,
        "{refused} refused"
    );
    // Bob's requests end although their bodies never do.
    let answered = tokio::time::timeout(Duration::from_secs(30), async {
        let mut answer = Vec::new();
        drop(held.first_mut().unwrap().read_to_end(&mut answer).await);
        String::from_utf8(answer).unwrap()
    });
    let answer = answered.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_try_calls_only_when_the_console_allows_it() {
    for (flags, status) in [
        (&[][..], StatusCode::FORBIDDEN),
        (&["--allow-calls"][..], StatusCode::OK),
    ] {
        let console = UserConsole::start(&[ALICE], flags).await;
        let allowed = status == StatusCode::OK;
        let mut alice = console.browser(Some(&console.authority.user(ALICE)));
        let csrf = alice.sign_in().await;
        alice.create(&csrf, "w").await;
        let added = format!("csrf={csrf}&name=api&url=http%3A%2F%2F127.0.0.1%3A1&auth=nothing");
        let added = alice
            .send(Method::POST, "/w/w/add-server/form", added)
            .await
            .unwrap();
        assert_eq!(added.status, StatusCode::SEE_OTHER, "{}", added.text);
        for page in ["/w/w/servers", "/w/w/servers/api"] {
            let page = alice.get(page).await.unwrap();
            assert_eq!(page.has("/w/w/servers/api/call\""), allowed, "{}", page.text);
        }
        let call = "/w/w/servers/api/call";
        let form = alice.get(call).await.unwrap();
        assert_eq!(form.status, status, "{}", form.text);
        assert_eq!(form.has("--allow-calls"), !allowed, "{}", form.text);
        let sent = format!("csrf={csrf}&method=GET&path=%2F");
        let sent = alice.send(Method::POST, call, sent).await.unwrap();
        assert_eq!(sent.status == StatusCode::FORBIDDEN, !allowed, "{}", sent.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_hosts_of_the_console_are_served() {
    for (flags, own, foreign) in [
        (
            &[][..],
            ["localhost", "127.0.0.1"],
            ["console.example.org", "127.0.0.2"],
        ),
        (
            &["--host", "console.example.org", "--host", "vpn.example.org"][..],
            ["console.example.org", "vpn.example.org"],
            ["localhost", "127.0.0.1"],
        ),
    ] {
        let console = UserConsole::start(&[ALICE], flags).await;
        let mut alice = console.browser(Some(&console.authority.user(ALICE)));
        let status = async |alice: &mut UserBrowser, host: &str| {
            alice.host = format!("{host}:{}", console.port());
            alice.get("/").await.unwrap().status
        };
        for host in own {
            assert_eq!(status(&mut alice, host).await, StatusCode::OK, "{host}");
        }
        for host in foreign {
            assert_eq!(
                status(&mut alice, host).await,
                StatusCode::MISDIRECTED_REQUEST,
                "{host}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_address_needs_an_authority_that_is_not_for_development_and_a_user() {
    let authority = TestAuthority::new();
    let dir = authority.path("dev");
    let pki = DevPki::ensure(&dir).unwrap();
    let mut development = command(&dir, "0.0.0.0:0");
    development.arg("--tls-cert").arg(&pki.vault.cert);
    development.arg("--tls-key").arg(&pki.vault.key);
    development
        .arg("--client-ca")
        .arg(&pki.ca)
        .args(["--allow-user", ALICE]);
    let mut without_key = command(&dir, "0.0.0.0:0");
    without_key.arg("--tls-cert").arg(authority.path("cert.pem"));
    for (command, part) in [
        (development, "development CA"),
        (
            authority.console(&dir, "0.0.0.0:0", &[]),
            "--allow-user: is required",
        ),
        (
            authority.console(&dir, "0.0.0.0:0", &["alice"]),
            "--allow-user: a principal is",
        ),
        (without_key, "--tls-key: is required"),
    ] {
        let output = run(command).await;
        assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
    }
    let mut child = authority
        .console(&dir, "0.0.0.0:0", &[ALICE])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut address = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut address)
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(address.starts_with("https://localhost:"), "{address}");
}
