//! The activity of a workspace.

use std::time::{Duration, Instant};

use http::StatusCode;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    browser::{Browser, Console, between},
    event_stream::EventStream,
    fake_metrics::{FakeMetrics, calls},
    services::add_server,
};

const PAGE: &str = "/w/w/activity";
const LIVE: &str = "/w/w/activity/live";

async fn with_workspace(console: &Console) -> Browser {
    let mut browser = console.signed_in().await;
    browser
        .change("/workspaces", &[("name", "w"), ("plan", "pro")])
        .await;
    browser
}

/// Returns a console that reads the metrics of `fake` instead of those of the injector.
async fn with_fake(fake: &FakeMetrics) -> Console {
    Console::start_console_with(&["--injector-metrics", &format!("http://{}", fake.address)]).await
}

/// Returns the figure of a tile.
fn tile<'p>(page: &'p str, name: &str) -> &'p str {
    let tile = between(page, &format!("<dt>{name}</dt>"), "</div>");
    between(tile, ">", "</dd>")
}

/// Calls the server `api` of the workspace `w` through the data plane, which refuses the call.
async fn call(console: &Console) {
    let mut browser = console.stranger();
    browser.set_host(&console.dev.ports["data_plane"].to_string());
    assert_eq!(browser.get("/w/api/").await.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_page_shows_a_call_through_the_pair() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let page = browser.get(PAGE).await;
    assert!(
        page.has("No calls yet") && page.has("href=\"/w/w/servers\""),
        "{}",
        page.text
    );
    add_server(&console, "api", "https://api.example.com", &["GONE"], &["GONE"]).await;

    let mut live = EventStream::open(&browser, LIVE).await;
    live.until("content-type: text/event-stream").await;
    live.until("event: sample").await;
    call(&console).await;
    live.until("<dt>Refused</dt><dd class=\"amount warn\">1</dd>")
        .await;

    let page = browser.get(PAGE).await;
    assert_eq!(
        (tile(&page.text, "Calls"), tile(&page.text, "Refused")),
        ("1", "1")
    );
    assert!(page.has("href=\"/w/w/servers/api\""));
    let reasons = between(&page.text, "Refusals by reason", "</section>");
    assert!(
        reasons.contains("REQUIRED") || reasons.contains("MISSING"),
        "{reasons}"
    );
    assert!(page.has("role=\"img\"") && page.has("1 calls, of which 0 had an error and 1 were refused."));
    assert!(page.has("The charts as a table") && !page.has("style="));
    // The charts show the first minutes in full width.
    assert!(
        page.has("<span>4 min ago</span>") && page.has("calls in 20 s"),
        "{}",
        page.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_explains_servers_does_not_count_as_a_call() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    add_server(&console, "api", "https://api.example.com", &["GONE"], &["GONE"]).await;
    for path in ["/w/w/servers", "/w/w/servers/api", "/w/w/map"] {
        assert_eq!(browser.get(path).await.status, StatusCode::OK, "{path}");
    }
    let mut metrics = console.stranger();
    metrics.set_host(&console.dev.ports["vault_metrics"].to_string());
    let text = metrics.get("/metrics").await.text;
    assert!(
        text.contains("aerostack_vault_decrypt_checks_total{outcome=\"OK\"}"),
        "{text}"
    );
    for counted in [
        "decrypts_total{",
        "decrypted_secrets_total{",
        "decrypt_duration_seconds_count 1",
    ] {
        assert!(!text.contains(counted), "{counted}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_without_scripts_shows_the_present_figures() {
    let fake = FakeMetrics::start().await;
    fake.serve(1, &[calls("api", 1_234)]);
    let console = with_fake(&fake).await;
    let mut browser = with_workspace(&console).await;
    let page = browser.get(PAGE).await;
    assert!(page.has("1,234") && page.has("reload it"), "{}", page.text);
    assert_eq!(tile(&page.text, "Calls"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_injector_that_stops_is_named_and_one_that_restarts_counts_from_zero() {
    let fake = FakeMetrics::start().await;
    fake.serve(1, &[calls("api", 1_000)]);
    let console = with_fake(&fake).await;
    let browser = with_workspace(&console).await;
    let mut live = EventStream::open(&browser, LIVE).await;
    live.until("event: sample").await;
    fake.serve(1, &[calls("api", 1_005)]);
    live.until("<dt>Calls</dt><dd class=\"amount \">5</dd>").await;
    fake.stop();
    live.until("The metrics of the injector cannot be read").await;
    fake.serve(2, &[calls("api", 1_007)]);
    live.until("<dt>Calls</dt><dd class=\"amount \">1,012</dd>").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_and_endless_series_are_left_out() {
    let fake = FakeMetrics::start().await;
    let mut lines = vec![
        calls("<script>alert(1)</script>", 1),
        calls("a\\n\\nevent: replaced", 1),
        "aerostack_injector_calls_total{workspace=\"w\",server=\"s0\",outcome=\"<b>\",status_class=\"5xx\"} 7".to_owned(),
    ];
    lines.extend((0..20_000).map(|number| calls(&format!("s{number}"), 1)));
    fake.serve(1, &lines);
    let console = with_fake(&fake).await;
    let mut browser = with_workspace(&console).await;
    let page = browser.get(PAGE).await;
    assert!(!page.has("alert(1)") && !page.has("event: replaced") && !page.has("<b>"));
    assert!(page.has("Only the first 250 servers are counted."));
    assert!(page.text.len() < 400_000, "{}", page.text.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_program_on_the_address_is_no_injector() {
    let fake = FakeMetrics::start().await;
    // The page of an injector.
    fake.serve(1, &[]);
    let console = Console::start_console_with(&["--vault-metrics", &fake.address.to_string()]).await;
    let mut browser = with_workspace(&console).await;
    let page = browser.get(PAGE).await;
    assert!(page.has("the program there is not a vault"), "{}", page.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_page_ends_with_its_session() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let mut live = EventStream::open(&browser, LIVE).await;
    live.until("event: sample").await;
    browser.post("/sign-out", &[]).await;
    live.end().await;
    EventStream::open(&browser, LIVE)
        .await
        .until("401 Unauthorized")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_live_page_of_a_session_replaces_the_oldest() {
    let fake = FakeMetrics::start().await;
    fake.serve(1, &[calls("api", 1_000)]);
    let console = with_fake(&fake).await;
    let browser = with_workspace(&console).await;
    let mut pages = Vec::new();
    for _ in 0..3 {
        let mut page = EventStream::open(&browser, LIVE).await;
        page.until("event: sample").await;
        pages.push(page);
    }
    let mut newest = EventStream::open(&browser, LIVE).await;
    newest.until("event: sample").await;
    pages[0].until("event: replaced").await;
    // A sample that was taken after the replacement.
    fake.serve(1, &[calls("api", 1_042)]);
    for page in pages[1..].iter_mut().chain([&mut newest]) {
        page.until("<dt>Calls</dt><dd class=\"amount \">42</dd>").await;
    }
    pages[0].end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_with_a_live_page_stops_at_once() {
    let mut console = Console::start().await;
    let browser = with_workspace(&console).await;
    let mut live = EventStream::open(&browser, LIVE).await;
    live.until("event: sample").await;
    let began = Instant::now();
    kill_process(Pid::from_child(&console.child), Signal::INT).unwrap();
    live.end().await;
    let status = tokio::task::spawn_blocking(move || console.child.wait().unwrap())
        .await
        .unwrap();
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_answer_in_turn_are_named_and_their_calls_are_not_counted() {
    let fake = FakeMetrics::start().await;
    fake.serve(2, &[calls("api", 5_000_000)]);
    let console = with_fake(&fake).await;
    let browser = with_workspace(&console).await;
    let mut live = EventStream::open(&browser, LIVE).await;
    live.until("event: sample").await;
    fake.serve(1, &[calls("api", 9_000_000)]);
    live.until("Several processes of the injector answer").await;
    fake.serve(2, &[calls("api", 5_000_000)]);
    live.until("event: sample").await;
    live.until("<dt>Calls</dt><dd class=\"amount \">0</dd>").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_page_of_another_site_or_without_a_session_is_refused() {
    let console = Console::start().await;
    let stranger = console.stranger();
    EventStream::open(&stranger, LIVE)
        .await
        .until("401 Unauthorized")
        .await;
    let mut browser = console.signed_in().await;
    assert_eq!(
        browser.get("/w/unknown/activity").await.status,
        StatusCode::NOT_FOUND
    );
    EventStream::open(&browser, "/w/unknown/activity/live")
        .await
        .until("404 Not Found")
        .await;
    let answer = browser
        .send(
            http::Method::GET,
            LIVE,
            &[("origin", "https://evil.example")],
            String::new(),
        )
        .await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}
