//! The pages of servers.

use std::time::{Duration, Instant};

use aerostack::pki::DevPki;
use http::StatusCode;
use proto::injector::v1::{
    HeaderPlacement, Injection, JsonPlacement, Server, UpstreamTls, injection::Placement,
};

use crate::{
    browser::{Answer, Browser, Console, between},
    services,
    support::dev::PATIENCE,
    upstream::{KEEP_OPEN, serve, with_body},
    viewer::SHOWN_UID,
};

const FORM: &str = "/w/w/add-server/form";

async fn with_workspace(console: &Console) -> Browser {
    let mut browser = console.signed_in().await;
    browser
        .change("/workspaces", &[("name", "w"), ("plan", "pro")])
        .await;
    browser
}

/// The fields of a server with a bearer token, as a browser sends them.
fn bearer<'f>(name: &'f str, url: &'f str, secret: &'f str) -> Vec<(&'f str, &'f str)> {
    vec![
        ("name", name),
        ("url", url),
        ("auth", "bearer"),
        ("bearer", secret),
        ("bearer-required", "yes"),
    ]
}

/// Returns the hidden fields of a form that name the state of the server.
fn state(page: &Answer) -> [(&'static str, String); 2] {
    ["uid", "revision"].map(|name| {
        let value = between(&page.text, &format!("name=\"{name}\" value=\""), "\"");
        (name, value.to_owned())
    })
}

/// Returns the fields of a form that belongs to a state.
fn of_state<'f>(
    state: &'f [(&'static str, String); 2],
    fields: &[(&'f str, &'f str)],
) -> Vec<(&'f str, &'f str)> {
    let state = state.iter().map(|(name, value)| (*name, value.as_str()));
    state.chain(fields.iter().copied()).collect()
}

/// Answers with every `authorization` that arrived.
fn authorization(head: &str) -> Vec<u8> {
    let lines = head.lines().filter(|line| line.starts_with("authorization:"));
    let lines: Vec<_> = lines.collect();
    with_body(
        "text/plain",
        format!("<got> {} <end>", lines.join(" and ")).as_bytes(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_added_called_edited_and_deleted_by_forms() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let url = format!("http://{}", serve(authorization).await);
    assert!(browser.get("/w/w/servers").await.has("Add the first server"));

    let page = browser.change(FORM, &bearer("api", &url, "api-token")).await;
    assert!(
        page.has("The server <code>api</code> was added. It gets the secret <code>API_TOKEN</code>, which does not exist yet.")
            && page.has(">Add API_TOKEN</a>")
            && !page.has("to see it work"),
        "{}",
        page.text
    );
    assert!(page.has("A call would be refused"), "{}", page.text);
    // The secret is missing, and the page leads to the form that adds it, filled in.
    let add = between(&page.text, "href=\"/w/w/secrets/new?", "\"").replace("&amp;", "&");
    let form = browser.get(&format!("/w/w/secrets/new?{add}")).await;
    assert!(
        form.has("value=\"API_TOKEN\"") && form.has(&format!("{url}</textarea>")),
        "{}",
        form.text
    );
    let secret = [
        ("name", "API_TOKEN"),
        ("value", "s3cr3t-value"),
        ("origins", url.as_str()),
    ];
    let secret_page = browser.change("/w/w/secrets", &secret).await;
    assert!(
        secret_page.has("href=\"/w/w/servers/api\""),
        "{}",
        secret_page.text
    );
    assert!(
        browser
            .get("/w/w/secrets/API_TOKEN/delete")
            .await
            .has("href=\"/w/w/servers/api\"")
    );

    let page = browser.get("/w/w/servers/api").await;
    assert!(
        page.has("A call carries everything that it needs."),
        "{}",
        page.text
    );
    assert!(
        page.has("authorization: Bearer <span class=\"blank sent\">"),
        "{}",
        page.text
    );
    let data_plane = console.dev.ports["data_plane"];
    assert!(
        page.has(&format!("curl http://{data_plane}/w/api/")),
        "{}",
        page.text
    );
    assert!(browser.get("/w/w/servers").await.has("href=\"/w/w/servers/api\""));

    let call = [
        ("method", "GET"),
        ("path", "/x?y=1"),
        ("headers", "authorization: forged"),
    ];
    let answer = browser.post("/w/w/servers/api/call", &call).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(
        answer.has("200 OK") && answer.has("&lt;got&gt; authorization: bearer ************ &lt;end&gt;"),
        "{}",
        answer.text
    );

    let form = browser.get("/w/w/servers/api/edit").await;
    let shown = state(&form);
    let mut edited = of_state(&shown, &bearer("api", &url, "API_TOKEN"));
    edited.push(("description", "An API & more"));
    let page = browser.change("/w/w/servers/api/edit", &edited).await;
    assert!(
        page.has("<code>api</code> was changed: description.") && page.has("An API &amp; more"),
        "{}",
        page.text
    );

    let form = browser.get("/w/w/servers/api/delete").await;
    assert!(form.has("API_TOKEN"), "{}", form.text);
    let stale = browser
        .post("/w/w/servers/api/delete", &of_state(&shown, &[]))
        .await;
    assert_eq!(stale.status, StatusCode::UNPROCESSABLE_ENTITY);
    let without = browser.post("/w/w/servers/api/delete", &[]).await;
    assert_eq!(without.status, StatusCode::UNPROCESSABLE_ENTITY);
    let page = browser
        .change("/w/w/servers/api/delete", &of_state(&state(&form), &[]))
        .await;
    assert!(
        page.has("was deleted") && page.has("Add the first server"),
        "{}",
        page.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_change_is_told_and_not_overwritten() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let mut fields = bearer("api", "https://a.example", "A");
    fields.extend([("origins", "https://app.example"), ("scrub", "SCRUB_ALL")]);
    browser.change(FORM, &fields).await;
    let shown_form = browser.get("/w/w/servers/api/edit").await;
    let shown = state(&shown_form);

    // A colleague changes the URL in the meantime.
    let mut colleague = bearer("api", "https://b.example", "A");
    colleague.extend([
        ("uid", shown[0].1.as_str()),
        ("revision", shown[1].1.as_str()),
        ("origins", "https://app.example"),
        ("scrub", "SCRUB_ALL"),
    ]);
    browser.change("/w/w/servers/api/edit", &colleague).await;

    // The person left the URL, and entered a description and another protocol.
    let encoded = between(&shown_form.text, "name=\"shown\" value=\"", "\"");
    let mut mine = colleague.clone();
    mine[1].1 = "https://a.example";
    mine.extend([
        ("shown", encoded),
        ("description", "mine"),
        ("protocol", "PROTOCOL_HTTP2"),
    ]);
    let answer = browser.post("/w/w/servers/api/edit", &mine).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    for text in [
        "Somebody else changed the server meanwhile.",
        "Changed by somebody else: URL (now <code>https://b.example</code>). “Save changes” saves your entries: description, \
         version of HTTP.",
        "href=\"/w/w/servers/api/edit\">Discard your entries</a>",
        "value=\"https://b.example\"",
        "value=\"mine\"",
        "<option value=\"PROTOCOL_HTTP2\" selected>",
    ] {
        assert!(answer.has(text), "{text}: {}", answer.text);
    }
    // The person changed the URL, too.
    let mut both = mine.clone();
    both[1].1 = "https://c.example";
    let other = browser.post("/w/w/servers/api/edit", &both).await;
    assert!(
        other.has("value=\"https://c.example\"")
            && other.has("saves your entries: URL, description")
            && other.has("Where both of you changed a setting, your entry replaces the other one."),
        "{}",
        other.text
    );
    // The next send belongs to the state that the form shows, so it saves the entries.
    let present = state(&other);
    assert_ne!(present, shown);
    let encoded = between(&other.text, "name=\"shown\" value=\"", "\"");
    let mut again = of_state(&present, &bearer("api", "https://c.example", "A"));
    again.extend([("shown", encoded), ("description", "mine")]);
    let saved = browser.change("/w/w/servers/api/edit", &again).await;
    assert!(saved.has("was changed: URL, description"), "{}", saved.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_for_a_deleted_server_leaves_another_one_of_its_name_alone() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let first = bearer("api", "https://a.example", "A");
    browser.change(FORM, &first).await;
    let deleted = state(&browser.get("/w/w/servers/api/delete").await);
    browser
        .change("/w/w/servers/api/delete", &of_state(&deleted, &[]))
        .await;
    browser
        .change(FORM, &bearer("api", "https://b.example", "B"))
        .await;
    // Both servers are at their first revision.
    let present = state(&browser.get("/w/w/servers/api/edit").await);
    assert_eq!(present[1], deleted[1]);
    for (path, fields) in [
        ("/w/w/servers/api/edit", of_state(&deleted, &first)),
        ("/w/w/servers/api/delete", of_state(&deleted, &[])),
    ] {
        let answer = browser.post(path, &fields).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        assert!(
            answer.has("Somebody else deleted the server meanwhile") && answer.has(&present[0].1),
            "{}",
            answer.text
        );
    }
    assert!(browser.get("/w/w/servers/api").await.has("https://b.example"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_form_cannot_send_survives_an_edit() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let pki = DevPki::ensure(&console.dev.dir).unwrap();
    let ca = std::fs::read_to_string(&pki.ca).unwrap();
    let stored = services::add(&console, server_of_a_program(&ca)).await;
    let shown = state(&browser.get("/w/w/servers/api/edit").await);
    // What a browser makes of these texts.
    let ca = ca.trim().replace('\n', "\r\n");
    let unedited = of_state(
        &shown,
        &[
            ("url", "https://a.example"),
            ("description", "onetwo"),
            ("auth", "places"),
            ("place-0-kind", "header"),
            ("place-0-name", "x-key"),
            ("place-0-value", "Key ${A}"),
            ("place-0-required", "yes"),
            ("place-1-kind", "json"),
            ("place-1-name", "/key"),
            ("place-1-value", "${A}"),
            ("place-1-required", "yes"),
            ("ca_pem", &ca),
        ],
    );
    let page = browser.change("/w/w/servers/api/edit", &unedited).await;
    assert!(
        page.has("Nothing was changed in <code>api</code>."),
        "{}",
        page.text
    );
    let mut edited = unedited.clone();
    edited[6].1 = "x-other";
    let page = browser.change("/w/w/servers/api/edit", &edited).await;
    assert!(page.has("was changed: credential."), "{}", page.text);
    let present = services::server(&console, "api").await;
    assert_eq!(
        (&present.tls, &present.description),
        (&stored.tls, &stored.description)
    );
    assert_eq!(present.injections[1], stored.injections[1]);
    assert_ne!(present.injections[0], stored.injections[0]);
}

/// Returns a server with texts that a program can send and a form cannot.
fn server_of_a_program(ca: &str) -> Server {
    let injection = |placement| Injection {
        required: true,
        placement: Some(placement),
    };
    Server {
        workspace: "w".to_owned(),
        name: "api".to_owned(),
        url: "https://a.example".to_owned(),
        description: "one\ntwo".to_owned(),
        injections: vec![
            injection(Placement::Header(HeaderPlacement {
                name: "x-key".to_owned(),
                value: "Key ${A}".to_owned(),
            })),
            injection(Placement::Json(JsonPlacement {
                pointer: "/key".to_owned(),
                value: "${A} ".to_owned(),
            })),
        ],
        tls: Some(UpstreamTls {
            ca_pem: ca.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_changes_only_what_the_person_changed() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let places = [
        ("name", "api"),
        ("url", "https://a.example/v1?fixed=1"),
        ("auth", "places"),
        ("place-0-kind", "header"),
        ("place-0-name", "x-api-key"),
        ("place-0-value", "Key ${KEY}"),
        ("place-0-required", "yes"),
        ("place-1-kind", "query"),
        ("place-1-name", "token"),
        ("place-1-value", "${TOKEN}"),
        ("on_echo", "ON_ECHO_BLOCK"),
        ("oauth", "OAUTH_PASS"),
        ("client_cert", "CERT"),
    ];
    let page = browser.change(FORM, &places).await;
    assert!(
        page.has("x-api-key: Key ") && page.has("client certificate"),
        "{}",
        page.text
    );
    let form = browser.get("/w/w/servers/api/edit").await;
    for shown in [
        "value=\"x-api-key\"",
        "value=\"Key ${KEY}\"",
        "value=\"ON_ECHO_BLOCK\" selected",
        "value=\"OAUTH_PASS\" selected",
        "value=\"CERT\"",
    ] {
        assert!(form.has(shown), "{shown}: {}", form.text);
    }
    let shown = state(&form);
    let mut same = places.to_vec();
    same.extend(of_state(&shown, &[]));
    let page = browser.change("/w/w/servers/api/edit", &same).await;
    assert!(
        page.has("Nothing was changed in <code>api</code>."),
        "{}",
        page.text
    );
    same[5].1 = "Token ${KEY}";
    let page = browser.change("/w/w/servers/api/edit", &same).await;
    assert!(page.has("was changed: credential."), "{}", page.text);
    assert!(
        page.has("x-api-key: Token ") && page.has("a value ends the answer"),
        "{}",
        page.text
    );
    // The page of the certificate's secret names the server too.
    browser
        .change("/w/w/secrets", &[("name", "CERT"), ("value", "x")])
        .await;
    assert!(
        browser
            .get("/w/w/secrets/CERT")
            .await
            .has("href=\"/w/w/servers/api\"")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_the_picture_need_no_script() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let mut fields = vec![
        ("name", "api"),
        ("url", "https://a.example/"),
        ("auth", "places"),
        ("place-0-kind", "cookie"),
        ("place-0-name", "sid"),
        ("place-0-value", "${SESSION}"),
        ("step", "place-basic"),
    ];
    let page = browser.post(FORM, &fields).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.has("name=\"place-1-kind\" value=\"basic\""), "{}", page.text);
    assert!(
        page.has("cookie: ") && page.has("not stored yet"),
        "{}",
        page.text
    );
    fields[6].1 = "remove-place-0";
    let page = browser.post(FORM, &fields).await;
    assert!(!page.has("value=\"sid\""), "{}", page.text);
    assert!(
        browser.get("/w/w/servers").await.has("Add the first server"),
        "a step stores nothing"
    );
    // The script asks for the picture alone, which is no page and takes no notices.
    let page = browser.get("/w/w/add-server/form").await;
    assert!(
        page.has("data-picture=\"/w/w/add-server/picture\""),
        "{}",
        page.text
    );
    browser
        .post(FORM, &bearer("other", "https://b.example", "A"))
        .await;
    let picture = browser.post("/w/w/add-server/picture", &fields[..6]).await;
    assert_eq!(picture.status, StatusCode::OK);
    assert!(
        picture.text.starts_with("<div id=\"picture\">"),
        "{}",
        picture.text
    );
    assert!(picture.has("cookie: "), "{}", picture.text);
    let notice = "The server <code>other</code> was added.";
    assert!(browser.get("/w/w/servers").await.has(notice));
    let forged = browser
        .post_exactly("/w/w/add-server/picture", &fields[..6])
        .await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_the_url_makes_the_other_credentials_places() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let url = "https://a.example/bot${TOKEN}";
    for (name, auth, secret, receives) in [
        ("bearer", "bearer", "OTHER", true),
        ("unnamed", "bearer", "", false),
        ("nothing", "nothing", "OTHER", false),
    ] {
        let mut fields = bearer(name, url, secret);
        fields[2].1 = auth;
        let picture = browser.post("/w/w/add-server/picture", &fields).await;
        assert_eq!(
            picture.has("authorization: "),
            receives,
            "{name}: {}",
            picture.text
        );
        let page = browser.change(FORM, &fields).await;
        assert!(
            page.has(&format!("The server <code>{name}</code> was added.")),
            "{name}: {}",
            page.text
        );
        let form = browser.get(&format!("/w/w/servers/{name}/edit")).await;
        // No blank place stands beside the URL.
        assert_eq!(
            form.has("name=\"place-0-kind\""),
            receives,
            "{name}: {}",
            form.text
        );
        assert!(form.has("bot${TOKEN}"), "{name}: {}", form.text);
        // Neither secret exists.
        let delete = browser.get(&format!("/w/w/servers/{name}/delete")).await;
        assert!(!delete.has("stay in the workspace"), "{}", delete.text);
    }
}

/// Asserts that the only error of a page stands at its field.
fn assert_error_once(answer: &Answer, field: &str) {
    let help = between(&answer.text, &format!("id=\"{field}-help\""), "</div>");
    let message = between(help, "<p class=\"error\">", "</p>");
    assert_eq!(
        answer.text.matches(message).count(),
        1,
        "{field}: {}",
        answer.text
    );
    assert!(!answer.has("role=\"alert\""), "{field}: {}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_server_is_shown_with_the_error_at_its_field() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let url = "https://a.example";
    browser.change(FORM, &bearer("taken", url, "A")).await;
    let with = |more: &[(&'static str, &'static str)]| [bearer("api", url, "A").as_slice(), more].concat();
    for (fields, field) in [
        (bearer("Not a name", url, "A"), "name"),
        (bearer("taken", url, "A"), "name"),
        (bearer("api", "", "A"), "url"),
        (bearer("api", "ftp://a.example", "A"), "url"),
        (bearer("api", "http://192.0.2.1", "A"), "url"),
        (bearer("api", "\"><script>", "A"), "url"),
        (bearer("api", url, ""), "bearer"),
        (bearer("api", url, "A=b"), "bearer"),
        (with(&[("origins", "nowhere")]), "origins"),
        (with(&[("ca_pem", "no pem")]), "ca_pem"),
        (with(&[("client_cert", "=")]), "client_cert"),
        (with(&[("paths", "/run")]), "paths"),
        (with(&[("grpc_methods", "x")]), "grpc_methods"),
    ] {
        let answer = browser.post(FORM, &fields).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{fields:?}");
        assert_error_once(&answer, field);
        let control = between(&answer.text, &format!(" id=\"{field}\""), ">");
        assert!(
            control.contains("aria-invalid=\"true\"") && control.contains(" autofocus"),
            "{field}: {control}"
        );
        // Everything that was entered is kept.
        for (name, value) in &fields {
            let value = value
                .replace('"', "&quot;")
                .replace('<', "&lt;")
                .replace('>', "&gt;");
            assert!(answer.has(&value), "{name}: {}", answer.text);
        }
        assert!(!answer.has("<script>"));
    }
    // A mistake in one of several places names the place and marks it.
    let places = [
        ("name", "api"),
        ("url", url),
        ("auth", "places"),
        ("place-0-kind", "header"),
        ("place-0-name", "x-key"),
        ("place-0-value", "${A}"),
        ("place-1-kind", "header"),
        ("place-1-name", "host"),
        ("place-1-value", "${A}"),
    ];
    let answer = browser.post(FORM, &places).await;
    assert!(answer.has("Place 2: header.name"), "{}", answer.text);
    let marked = |row: &str| between(&answer.text, &format!("id=\"{row}\""), ">").contains("aria-invalid");
    assert!(
        !marked("place-0-name") && marked("place-1-name"),
        "{}",
        answer.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_fills_the_form() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let all = browser.get("/w/w/add-server").await;
    assert!(all.has("@github/api") && all.has("@stripe/api"), "{}", all.text);
    let found = browser.get("/w/w/add-server?q=stripe").await;
    assert!(
        found.has("@stripe/api") && !found.has("@github/api"),
        "{}",
        found.text
    );
    let path = between(&found.text, "class=\"entry\" href=\"", "\"").to_owned();
    let form = browser.get(&path).await;
    for filled in [
        "value=\"stripe\"",
        "value=\"https://api.stripe.com\"",
        "value=\"STRIPE_API_KEY\"",
    ] {
        assert!(form.has(filled), "{filled}: {}", form.text);
    }
    let mut fields = bearer("stripe", "https://api.stripe.com", "STRIPE_API_KEY");
    fields.push(("entry", "@stripe/api"));
    let page = browser.change(FORM, &fields).await;
    assert!(
        page.has("The server <code>stripe</code> was added."),
        "{}",
        page.text
    );

    // The URL of an entry that is only an example is not proposed, and not accepted.
    let jira = browser
        .get("/w/w/add-server/form?entry=%40atlassian%2Fjira")
        .await;
    assert!(
        jira.has("Your own address") && jira.has("value=\"${ATLASSIAN_EMAIL}\""),
        "{}",
        jira.text
    );
    // The path of the URL holds the secret.
    let telegram = browser.get("/w/w/add-server/form?entry=%40telegram%2Fbot").await;
    let url = between(
        &telegram.text,
        "name=\"url\" type=\"text\" inputmode=\"url\" value=\"",
        "\"",
    )
    .to_owned();
    let fields = [
        ("name", "bot"),
        ("url", url.as_str()),
        ("auth", "places"),
        ("entry", "@telegram/bot"),
    ];
    let page = browser.change(FORM, &fields).await;
    assert!(page.has("TELEGRAM_BOT_TOKEN"), "{}", page.text);
    let missing = browser.get("/w/w/add-server/form?entry=%40no%2Fentry").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_shows_what_the_upstream_received() {
    let console = Console::start_with(&["--demo"]).await;
    let mut browser = console.signed_in().await;
    // The demo is made after the services are ready.
    let started = Instant::now();
    while browser.get("/w/demo/servers/echo").await.status != StatusCode::OK {
        assert!(started.elapsed() < PATIENCE, "the demo is not made");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let call = [("method", "GET"), ("path", "/hello")];
    let answer = browser.post("/w/demo/servers/echo/call", &call).await;
    assert!(answer.has("What the server received"), "{}", answer.text);
    assert!(
        answer.has("GET /hello") && answer.has("from DEMO_TOKEN"),
        "{}",
        answer.text
    );
    assert!(answer.has("sha256:"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_every_kind_are_bounded_and_escaped() {
    fn answer(head: &str) -> Vec<u8> {
        match head.split(' ').nth(1).unwrap_or_default() {
            "/html" => with_body("text/html", b"<script>alert(1)</script>"),
            "/binary" => with_body("image/png", b"\x89PNG\r\n\x1a\n\0\0"),
            "/long" => with_body("text/plain", "x".repeat(1_000_000).as_bytes()),
            "/events" => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: first\n\n";
                [head.as_bytes(), KEEP_OPEN].concat()
            }
            _ => b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_vec(),
        }
    }
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let url = format!("http://{}", serve(answer).await);
    browser
        .change(FORM, &[("name", "api"), ("url", &url), ("auth", "nothing")])
        .await;
    let mut call = async |path: &str| {
        let fields = [("method", "GET"), ("path", path)];
        browser.post("/w/w/servers/api/call", &fields).await
    };
    let html = call("/html").await;
    assert!(
        html.has("&lt;script&gt;alert(1)&lt;/script&gt;") && !html.has("<script>"),
        "{}",
        html.text
    );
    let binary = call("binary").await;
    assert!(
        binary.has("Binary: 10 bytes") && binary.has("image/png"),
        "{}",
        binary.text
    );
    let long = call("/long").await;
    assert!(long.has("The body is longer."), "{}", long.status);
    assert!(long.text.len() < 400_000, "{}", long.text.len());
    let events = call("/events").await;
    assert!(
        events.has("data: first") && events.has("was still sending after 4 seconds"),
        "{}",
        events.text
    );
    assert!(call("/nothing").await.has("204 No Content"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_refused_or_malformed_is_explained() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let url = format!("http://{}", serve(authorization).await);
    browser.change(FORM, &bearer("api", &url, "A")).await;
    let refused = browser
        .post("/w/w/servers/api/call", &[("method", "GET"), ("path", "/")])
        .await;
    assert!(
        refused.has("The injector refused the call.") && refused.has("SECRET_REQUIRED_MISSING"),
        "{}",
        refused.text
    );
    assert!(refused.has("See which secret is the cause"), "{}", refused.text);
    let lines = |number: u32| -> String {
        let digits = |line: u32| [line / 1296, line / 36 % 36, line % 36];
        let name = |line| digits(line).map(|digit| char::from_digit(digit, 36).unwrap());
        (0..number)
            .map(|line| format!("{}:\n", String::from_iter(name(line))))
            .collect()
    };
    // A `HeaderMap` holds no more than 24,576 names.
    let (few_more, many_more) = (lines(101), lines(24_600));
    for (field, fields) in [
        ("headers", [("path", "/"), ("headers", &few_more)]),
        ("headers", [("path", "/"), ("headers", &many_more)]),
        ("path", [("path", "/a b"), ("headers", "")]),
        ("headers", [("path", "/"), ("headers", "no header")]),
        ("headers", [("path", "/"), ("headers", "a b: c")]),
        ("headers", [("path", "/"), ("headers", "Content-Length: 3")]),
        ("headers", [("path", "/"), ("headers", "Host: a.example")]),
        (
            "headers",
            [("path", "/"), ("headers", "transfer-encoding: chunked")],
        ),
        ("headers", [("path", "/"), ("headers", "connection: close")]),
    ] {
        let fields = [&[("method", "GET")], fields.as_slice()].concat();
        let answer = browser.post("/w/w/servers/api/call", &fields).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_error_once(&answer, field);
    }
    // A call cannot name another server than that of its page.
    browser
        .change(FORM, &[("name", "other"), ("url", &url), ("auth", "nothing")])
        .await;
    let fields = [
        ("method", "GET"),
        ("path", "/"),
        ("headers", "x-aerostack-server: other"),
    ];
    let answer = browser.post("/w/w/servers/api/call", &fields).await;
    assert!(answer.has("SECRET_REQUIRED_MISSING"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_and_calls_need_the_token_of_the_session() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    browser
        .change(FORM, &bearer("api", "https://a.example", "A"))
        .await;
    for path in [
        FORM,
        "/w/w/servers/api/edit",
        "/w/w/servers/api/delete",
        "/w/w/servers/api/call",
    ] {
        let answer = browser
            .post_exactly(path, &bearer("forged", "https://a.example", "A"))
            .await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
    }
    let page = browser.get("/w/w/servers").await;
    assert!(
        page.has("/w/w/servers/api\"") && !page.has("forged"),
        "{}",
        page.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_filtered_and_a_server_may_have_any_name() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    for name in ["new", "add-server", "call"] {
        let page = browser
            .change(FORM, &bearer(name, "https://a.example", "A"))
            .await;
        assert!(
            page.has(&format!("<h1 class=\"mono\">{name}</h1>")),
            "{}",
            page.text
        );
        let page = browser.get(&format!("/w/w/servers/{name}")).await;
        assert!(page.has(&format!("<title>{name} ")), "{}", page.text);
    }
    let settings = browser.get("/w/w/settings").await;
    assert!(settings.has("href=\"/w/w/servers/call\""), "{}", settings.text);
    let found = browser.get("/w/w/servers?q=CALL").await;
    assert!(
        found.has("/w/w/servers/call\"") && !found.has("/w/w/servers/new\""),
        "{}",
        found.text
    );
    assert!(browser.get("/w/w/servers?q=%3Cb%3E").await.has("“&lt;b&gt;”"));
    assert_eq!(browser.get("/w/none/servers").await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        browser.get("/w/w/servers/none").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheme_in_capitals_is_cleartext_too() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let server = Server {
        workspace: "w".to_owned(),
        name: "api".to_owned(),
        url: "Http://a.example".to_owned(),
        allow_plaintext: true,
        ..Default::default()
    };
    services::add(&console, server).await;
    let list = browser.get("/w/w/servers").await;
    assert!(
        list.has("<span class=\"badge bad\">cleartext</span>"),
        "{}",
        list.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_may_only_look_is_offered_no_change_and_told_why() {
    let console = Console::start_as_viewer_of_servers().await;
    let mut browser = with_workspace(&console).await;
    let list = browser.get("/w/w/servers").await;
    assert!(
        list.has("is a viewer here") && list.has("--editor"),
        "{}",
        list.text
    );
    assert!(!list.has("add-server"), "{}", list.text);
    for path in ["/w/w/add-server", FORM] {
        let page = browser.get(path).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN, "{path}");
        assert!(page.has("may look at the servers"), "{}", page.text);
    }
    let refused = browser.post(FORM, &bearer("api", "https://a.example", "A")).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.text);
    // A server that somebody else added.
    let page = browser.get("/w/shown/servers/api").await;
    assert!(
        page.has("Try a call") && page.has("is a viewer here"),
        "{}",
        page.text
    );
    assert!(!page.has("/edit\"") && !page.has("/delete\""), "{}", page.text);
    for change in ["edit", "delete"] {
        let path = format!("/w/shown/servers/api/{change}");
        assert_eq!(browser.get(&path).await.status, StatusCode::FORBIDDEN, "{change}");
        // The form that somebody with more rights has, sent as it is.
        let shown = [("uid", SHOWN_UID.to_owned()), ("revision", "1".to_owned())];
        let fields = bearer("api", "https://b.example", "A");
        let refused = browser.post(&path, &of_state(&shown, &fields)).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.text);
    }
    assert!(browser.get("/w/shown/servers/api").await.has("https://a.example"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_needs_neither_an_administrator_nor_the_vault() {
    let mut console = Console::start_as_viewer_without_a_role_in_the_vault().await;
    let mut browser = console.signed_in().await;
    let list = browser.get("/w/shown/servers").await;
    assert_eq!(list.status, StatusCode::OK, "{}", list.text);
    assert!(list.has("href=\"/w/shown/servers/api\""), "{}", list.text);
    console.dev.child.kill().unwrap();
    console.dev.wait().await;
    let list = browser.get("/w/shown/servers").await;
    assert_eq!(list.status, StatusCode::OK, "{}", list.text);
    assert!(
        list.has("href=\"/w/shown/servers/api\"")
            && list.has("Whether calls would carry their secrets is not known."),
        "{}",
        list.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_with_a_row_that_cannot_be_read_changes_nothing() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let fields = [
        ("name", "api"),
        ("url", "https://a.example"),
        ("auth", "places"),
        ("place-0-kind", "header"),
        ("place-0-name", "x-key"),
        ("place-0-value", "${A}"),
    ];
    for more in [("place-1-kind", "trailer"), ("place-2-kind", "header")] {
        let answer = browser.post(FORM, &[fields.as_slice(), &[more]].concat()).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{more:?}");
        assert!(
            answer.has("nothing was changed") || answer.has("Nothing was changed"),
            "{}",
            answer.text
        );
    }
    assert!(browser.get("/w/w/servers").await.has("Add the first server"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_say_when_the_services_are_down() {
    let mut console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    browser
        .change(FORM, &bearer("api", "https://a.example", "A"))
        .await;
    console.dev.child.kill().unwrap();
    console.dev.wait().await;
    for path in [
        "/w/w/servers",
        "/w/w/servers/api",
        "/w/w/add-server",
        "/w/w/servers/api/edit",
    ] {
        let answer = browser.get(path).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(answer.has("data-retries"), "{path}: {}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_bound_to_another_origin_is_refused_at_its_field() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let secret = [("name", "A"), ("value", "x"), ("origins", "https://a.example")];
    browser.change("/w/w/secrets", &secret).await;
    let answer = browser.post(FORM, &bearer("api", "https://b.example", "A")).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_error_once(&answer, "bearer");
    let help = between(&answer.text, "id=\"bearer-help\"", "</div>");
    assert!(help.contains("Send only to"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pasted_token_is_no_name_of_a_secret_and_is_not_shown_again() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let token = "ghp_aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5";
    let form = browser.get(FORM).await;
    assert!(
        form.has("Name of the secret that holds the token"),
        "{}",
        form.text
    );
    let answer = browser
        .post(FORM, &bearer("api", "https://api.example.com", token))
        .await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    let help = between(&answer.text, "id=\"bearer-help\"", "</div>");
    assert!(help.contains("This looks like a credential"), "{}", answer.text);
    assert!(
        !answer.has(token) && !answer.has(&token.to_uppercase()),
        "{}",
        answer.text
    );
    let fields = bearer("api", "https://api.example.com", "TOKEN");
    browser.change(FORM, &fields).await;
    let form = browser.get("/w/w/servers/api/edit").await;
    let state = state(&form);
    let edited = of_state(&state, &bearer("api", "https://api.example.com", token));
    let answer = browser.post("/w/w/servers/api/edit", &edited).await;
    assert!(
        answer.has("This looks like a credential") && !answer.has(token),
        "{}",
        answer.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_http_url_names_the_box_that_allows_it() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let answer = browser
        .post(FORM, &bearer("api", "http://10.0.0.1", "TOKEN"))
        .await;
    let help = between(&answer.text, "id=\"url-help\"", "</div>");
    assert!(
        help.contains("or “Allow http:// to another machine”") && !help.contains("allow_plaintext"),
        "{help}"
    );
}
