//! Certificates in a cluster whose API is a fake: two replicas at once, conflicts, renewals and Secrets of others.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::kubernetes::fake_api::FakeApi;

const DAY: Duration = Duration::from_hours(24);
const SECRET: &str = "/api/v1/namespaces/aerostack/secrets/web";
const AUTHORITY: &str = "/api/v1/namespaces/aerostack/secrets/web-ca";

fn plan() -> RenewalPlan {
    RenewalPlan {
        holder: "web".to_owned(),
        dns: vec!["web.aerostack.svc".to_owned()],
        uris: Vec::new(),
        authority_life: 360 * DAY,
        leaf_life: 30 * DAY,
    }
}

fn name(text: &str) -> NamespacedName {
    text.parse().unwrap()
}

async fn one(api: &ApiClient, now: SystemTime) -> RenewedCertificates {
    renew_in_one_secret(api, &name("aerostack/web"), &plan(), now)
        .await
        .unwrap()
}

async fn two(api: &ApiClient, now: SystemTime) -> RenewedCertificates {
    let (secret, authority) = (name("aerostack/web"), name("aerostack/web-ca"));
    renew_in_two_secrets(api, &secret, &authority, &plan(), now)
        .await
        .unwrap()
}

fn entry(object: &Value, key: &str) -> String {
    let text = object["data"][key].as_str().unwrap();
    String::from_utf8(BASE64.decode(text).unwrap()).unwrap()
}

#[tokio::test]
async fn replicas_that_start_at_once_share_one_certificate() {
    let api = FakeApi::start().await;
    let (client, now) = (api.client(), SystemTime::now());
    let (a, b, c) = tokio::join!(one(&client, now), one(&client, now), one(&client, now));
    assert_eq!(a.certificate_pem, b.certificate_pem);
    assert_eq!(a.certificate_pem, c.certificate_pem);
    assert_eq!(a.authorities_pem, c.authorities_pem);
    let secret = api.object(SECRET);
    assert_eq!(secret["type"], TLS);
    assert_eq!(entry(&secret, "tls.crt"), a.certificate_pem);
    assert_eq!(entry(&secret, "tls.key"), *b.key_pem);
    api.writes();
    let again = one(&client, now + 19 * DAY).await;
    assert!(!again.leaf_made && !again.authorities_changed);
    assert!(api.writes().is_empty());
}

#[tokio::test]
async fn a_conflict_is_resolved_by_reading_again() {
    let api = FakeApi::start().await;
    let (client, now) = (api.client(), SystemTime::now());
    let first = one(&client, now).await;
    api.writes();
    api.state.lock().unwrap().rivals = 3;
    let renewed = one(&client, now + 21 * DAY).await;
    assert!(renewed.leaf_made && !renewed.authorities_changed);
    assert_ne!(first.certificate_pem, renewed.certificate_pem);
    assert_eq!(api.writes().len(), 4);
    assert_eq!(entry(&api.object(SECRET), "tls.crt"), renewed.certificate_pem);
}

#[tokio::test]
async fn a_secret_that_always_changes_is_given_up() {
    let api = FakeApi::start().await;
    let (client, now) = (api.client(), SystemTime::now());
    one(&client, now).await;
    api.state.lock().unwrap().rivals = usize::MAX;
    let given_up = renew_in_one_secret(&client, &name("aerostack/web"), &plan(), now + 21 * DAY).await;
    assert!(matches!(given_up, Err(CertificatesError::Contended(_))));
}

#[tokio::test]
async fn a_new_authority_is_published_while_the_old_one_still_issues() {
    let api = FakeApi::start().await;
    let (client, now) = (api.client(), SystemTime::now());
    let old = one(&client, now).await.authorities_pem;
    let both = one(&client, now + 241 * DAY).await.authorities_pem;
    assert!(both.starts_with(&old) && both.len() > old.len());
    let new = one(&client, now + 361 * DAY).await.authorities_pem;
    assert_eq!(both, format!("{old}{new}"));
}

#[tokio::test]
async fn the_key_of_the_authority_has_a_secret_of_its_own() {
    let api = FakeApi::start().await;
    let (client, now) = (api.client(), SystemTime::now());
    let made = two(&client, now).await;
    assert!(made.leaf_made && made.authorities_changed);
    let (secret, authority) = (api.object(SECRET), api.object(AUTHORITY));
    assert_eq!(entry(&secret, "ca.crt"), entry(&authority, "ca.crt"));
    assert!(secret["data"].get("ca.key").is_none());
    assert!(authority["data"].get("tls.key").is_none());
    api.writes();
    two(&client, now + DAY).await;
    assert!(api.writes().is_empty());
    // The bundle with the new authority goes to both Secrets, and the leaf is renewed.
    let renewed = two(&client, now + 241 * DAY).await;
    assert!(renewed.leaf_made && renewed.authorities_changed);
    assert_eq!(entry(&api.object(SECRET), "ca.crt"), renewed.authorities_pem);
    assert_eq!(entry(&api.object(AUTHORITY), "ca.crt"), renewed.authorities_pem);
}

#[tokio::test]
async fn a_secret_of_somebody_else_stays_as_it_is() {
    let api = FakeApi::start().await;
    let (client, now) = (api.client(), SystemTime::now());
    api.put(
        SECRET,
        json!({"metadata": {"name": "web"}, "data": {"password": "c2VjcmV0"}}),
    );
    let refused = renew_in_one_secret(&client, &name("aerostack/web"), &plan(), now).await;
    let refused = refused.err().unwrap().to_string();
    assert!(
        refused.contains("aerostack/web exists and was not made by this program"),
        "{refused}"
    );
    assert!(api.writes().is_empty());
    api.put(
        SECRET,
        json!({"metadata": {"name": "web"}, "type": TLS, "data": null}),
    );
    assert!(one(&client, now).await.leaf_made);
}

#[tokio::test]
async fn an_authority_that_cannot_be_used_is_not_replaced() {
    let api = FakeApi::start().await;
    let (client, now) = (api.client(), SystemTime::now());
    one(&client, now).await;
    let mut broken = api.object(SECRET);
    broken["data"]["ca.key"] = BASE64.encode("no key").into();
    api.put(SECRET, broken.clone());
    let refused = renew_in_one_secret(&client, &name("aerostack/web"), &plan(), now).await;
    assert!(matches!(refused, Err(CertificatesError::Authority { .. })));
    assert_eq!(api.object(SECRET)["data"], broken["data"]);
}

#[tokio::test]
async fn the_api_is_made_to_trust_the_authorities() {
    let api = FakeApi::start().await;
    let client = api.client();
    let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/aerostack-webhook";
    let webhook =
        json!({"name": "inject.aerostack.dev", "clientConfig": {"service": {"name": "web"}}, "unknown": [1]});
    api.put(
        path,
        json!({"metadata": {"name": "aerostack-webhook"}, "webhooks": [webhook]}),
    );
    api.state.lock().unwrap().rivals = 2;
    let configuration = ObjectName::parse("aerostack-webhook").unwrap();
    let set = async |pem: &str| set_ca_bundle(&client, &configuration, pem).await.unwrap();
    let (a, b) = tokio::join!(set("PEM"), set("PEM"));
    assert!(a || b);
    let object = api.object(path);
    assert_eq!(
        object["webhooks"][0]["clientConfig"]["caBundle"],
        BASE64.encode("PEM")
    );
    assert_eq!(object["webhooks"][0]["unknown"], json!([1]));
    assert!(!set("PEM").await && set("OTHER").await);
}

#[tokio::test]
async fn an_error_has_the_message_of_the_api_and_the_token_is_read_for_each_call() {
    let api = FakeApi::start().await;
    let client = api.client();
    let token = api.service_account.path().join("token");
    std::fs::write(&token, "expired").unwrap();
    let refused = client.get(SECRET).await.unwrap_err().to_string();
    assert_eq!(
        refused,
        format!("the API of Kubernetes refused GET {SECRET} (401 Unauthorized): Unauthorized")
    );
    std::fs::write(&token, crate::kubernetes::fake_api::TOKEN).unwrap();
    assert!(client.get(SECRET).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn an_api_whose_certificate_is_of_another_authority_gets_no_token() {
    let (api, other) = (FakeApi::start().await, FakeApi::start().await);
    let client = ApiClient::at(api.port, other.service_account.path());
    let refused = client.get(SECRET).await.unwrap_err();
    let refused = crate::telemetry::chain(&refused);
    assert!(refused.contains("invalid peer certificate"), "{refused}");
    assert!(api.state.lock().unwrap().calls.is_empty());
}
