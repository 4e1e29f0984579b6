//! A console that a token identifies to the vault.

#[allow(dead_code, reason = "the tests of other crates use the other kinds of keys")]
#[path = "../../../chassis/src/jwt/test_keys.rs"]
mod test_keys;

use std::time::{SystemTime, UNIX_EPOCH};

use http::StatusCode;
use serde_json::json;

use self::test_keys::TestKey;
use crate::browser::{Console, TOKEN_SUBJECT};

/// Returns a token that expires after `life`, in seconds from now on.
fn token(key: &TestKey, life: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let now = i64::try_from(now).unwrap();
    let claims = json!({
        "iss": "https://issuer.example",
        "sub": TOKEN_SUBJECT,
        "aud": "vault",
        "nbf": now - 120,
        "exp": now + life,
    });
    key.token("first", &claims)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_takes_a_renewed_token_without_a_restart() {
    let key = TestKey::p256();
    let keys = json!({ "keys": [key.jwk("first")] }).to_string();
    let console = Console::start_with_token(&keys, &token(&key, 3600)).await;
    let mut browser = console.signed_in().await;
    let page = browser.change("/workspaces", &[("name", "shop")]).await;
    assert!(page.has("was created"), "{}", page.text);
    browser
        .change("/w/shop/secrets", &[("name", "A"), ("value", "1")])
        .await;

    console.replace_token(&token(&key, -60));
    let new_secret = [("name", "B"), ("value", "2"), ("labels", "team=x")];
    let refused = browser.post("/w/shop/secrets", &new_secret).await;
    for answer in [
        &browser.get("/").await,
        &browser.get("/w/shop/secrets").await,
        &refused,
    ] {
        assert_ne!(answer.status, StatusCode::OK);
        assert!(answer.has("replace the token in its file"), "{}", answer.text);
    }
    assert!(refused.has("team=x</textarea>"), "{}", refused.text);

    console.replace_token(&token(&key, 3600));
    assert!(browser.get("/").await.has("/w/shop/secrets"));
    // The console has not taken the refusals for missing roles.
    let page = browser.get("/w/shop/secrets").await;
    assert!(
        page.has("Add secret") && page.has("href=\"/keys\""),
        "{}",
        page.text
    );
    let page = browser.change("/w/shop/secrets", &new_secret).await;
    assert!(page.has("<code>B</code> was created."), "{}", page.text);
}
