//! Secrets that are missing, and secrets that are bound to other origins.

use e2e::{Pair, Upstream, pair::get};
use proto::injector::v1::{AuthType, ExplainedSecret, Server, explained_secret::State};

use super::{Untouched, api, call, dev, explain, refusal};

/// Returns the value of a counter, which is 0 when the page does not show the counter.
async fn counter(pair: &Pair, line: &str) -> u64 {
    let page = get(&format!("http://{}/metrics", pair.injector.metrics)).await;
    let page = String::from_utf8(page.body().to_vec()).unwrap();
    page.lines()
        .find_map(|shown| shown.strip_prefix(line)?.trim().parse().ok())
        .unwrap_or(0)
}

#[tokio::test]
async fn a_call_without_a_missing_secret_is_forwarded_and_reported() {
    let upstream = Upstream::start().await;
    let pair = dev(&[("HERE", "here-1")]).await;
    pair.injector
        .add(api(
            &upstream.url(),
            AuthType::SecretHeaders,
            &["HERE", "GONE", "AWAY"],
        ))
        .await;
    let shown = "aerostack_injector_missed_secrets_total{workspace=\"dev\",server=\"api\"}";
    assert_eq!(counter(&pair, shown).await, 0);
    for calls in 1..=2 {
        assert_eq!(call(&pair, "/dev/api/").await.status(), 200);
        assert_eq!(upstream.last().secret_headers(), ["x-mcp-secret-here"]);
        assert_eq!(counter(&pair, shown).await, 2 * calls);
    }
    let secret = |name: &str, state: State, version| ExplainedSecret {
        name: name.into(),
        placement: format!("header x-mcp-secret-{}", name.to_ascii_lowercase()),
        required: false,
        state: state.into(),
        version,
        detail: match state {
            State::Missing => "the secret does not exist".into(),
            _ => String::new(),
        },
        // The values of this test have 6 bytes.
        note: match state {
            State::Injected => {
                "the value has fewer than 8 bytes, so the injector does not look for it in responses".into()
            }
            _ => String::new(),
        },
    };
    let explained = explain(&pair, "api").await;
    assert!(explained.would_forward);
    let expected = [
        secret("HERE", State::Injected, 1),
        secret("GONE", State::Missing, 0),
        secret("AWAY", State::Missing, 0),
    ];
    assert_eq!(explained.secrets, expected);

    pair.vault.put("dev", "GONE", "back-1").await;
    assert_eq!(call(&pair, "/dev/api/").await.status(), 200);
    assert_eq!(upstream.last().header("x-mcp-secret-gone"), Some("back-1"));
    assert_eq!(counter(&pair, shown).await, 5);
    assert_eq!(
        explain(&pair, "api").await.secrets[1],
        secret("GONE", State::Injected, 1)
    );
    pair.stop().await;
}

#[tokio::test]
async fn a_call_without_a_required_secret_is_refused() {
    let (untouched, url) = Untouched::bind();
    let pair = dev(&[("HERE", "here-1")]).await;
    let described = api(&url, AuthType::SecretHeaders, &["HERE", "GONE"]);
    pair.injector
        .add(Server {
            required_secrets: vec!["gone".into()],
            ..described
        })
        .await;
    let response = call(&pair, "/dev/api/").await;
    assert_eq!(refusal(&response), (502, "SECRET_REQUIRED_MISSING"));
    let text = String::from_utf8_lossy(response.body());
    assert!(text.contains("GONE") && !text.contains("here-1"), "{text}");
    let explained = explain(&pair, "api").await;
    assert!(!explained.would_forward && explained.secrets[1].required && !explained.secrets[0].required);
    untouched.check();
    pair.stop().await;
}

#[tokio::test]
async fn a_value_bound_to_other_origins_is_not_sent() {
    let (untouched, url) = Untouched::bind();
    let pair = dev(&[("FREE", "free-1")]).await;
    pair.injector
        .add(api(&url, AuthType::SecretHeaders, &["FREE", "BOUND"]))
        .await;
    let port = url.rsplit_once(':').unwrap().1;
    for origins in [
        &["https://api.example.com"][..],
        &[&format!("https://127.0.0.1:{port}")],
        &[&format!("http://localhost:{port}")],
        &["http://127.0.0.1"],
        &["https://*.example.com", "http://127.0.0.1:1"],
    ] {
        pair.vault.put_for("dev", "BOUND", "bound-1", origins).await;
        let response = call(&pair, "/dev/api/").await;
        assert_eq!(
            refusal(&response),
            (502, "SECRET_NOT_FOR_THIS_UPSTREAM"),
            "{origins:?}"
        );
        let text = String::from_utf8_lossy(response.body());
        assert!(
            text.contains("BOUND") && !text.contains("bound-1") && !text.contains("example"),
            "{text}"
        );
    }
    let explained = explain(&pair, "api").await;
    assert!(!explained.would_forward);
    assert_eq!(explained.secrets[1].state(), State::OriginRefused);
    untouched.check();
    pair.stop().await;
}

#[tokio::test]
async fn a_new_binding_takes_effect_with_the_next_call() {
    let upstream = Upstream::start().await;
    let pair = dev(&[]).await;
    let (here, elsewhere) = (upstream.url(), "https://api.example.com");
    pair.vault
        .put_for("dev", "TOKEN", "tok-1", &[elsewhere, &here])
        .await;
    pair.injector.add(api(&here, AuthType::Bearer, &["TOKEN"])).await;
    assert_eq!(call(&pair, "/dev/api/").await.status(), 200);
    pair.vault.put_for("dev", "TOKEN", "tok-2", &[elsewhere]).await;
    assert_eq!(
        refusal(&call(&pair, "/dev/api/").await),
        (502, "SECRET_NOT_FOR_THIS_UPSTREAM")
    );
    pair.vault.put_for("dev", "TOKEN", "tok-3", &[]).await;
    assert_eq!(call(&pair, "/dev/api/").await.status(), 200);
    let sent: Vec<_> = upstream
        .seen()
        .iter()
        .map(|seen| seen.header("authorization").unwrap().to_owned())
        .collect();
    assert_eq!(sent, ["Bearer tok-1", "Bearer tok-3"]);
    pair.stop().await;
}
