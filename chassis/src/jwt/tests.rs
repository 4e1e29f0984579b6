#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    fs,
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{task::AbortHandle, time};

use super::{test_keys::TestKey, *};
use crate::test_log::TestLog;

const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "aerostack-vault";

/// An issuer with a key of each kind, whose key set is a file.
struct TestIssuer {
    dir: TempDir,
    keys: [TestKey; 3],
    issuers: Issuers,
    task: AbortHandle,
}

impl Drop for TestIssuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TestIssuer {
    fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let keys = [TestKey::rsa(), TestKey::p256(), TestKey::ed25519()];
        let file = dir.path().join("jwks.json");
        fs::write(&file, key_set(&keys)).unwrap();
        let issuers = issuers(&[&format!(
            "{ISSUER}={AUDIENCE},name=kubernetes,jwks={}",
            file.display()
        )]);
        let task = tokio::spawn(issuers.clone().keep_fresh()).abort_handle();
        Self {
            dir,
            keys,
            issuers,
            task,
        }
    }

    fn write(&self, text: &str) {
        let new = self.dir.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.dir.path().join("jwks.json")).unwrap();
    }

    /// Verifies a token of the P-256 key with the claims of [`claims`] and these changes. `null` removes a claim.
    async fn verify(&self, changes: Value) -> Result<VerifiedToken, TokenRefusal> {
        self.verify_token(&self.keys[1].token("ES256", &claims(changes)))
            .await
    }

    /// Verifies a token of the P-256 key with this header.
    async fn verify_header(&self, header: Value) -> Result<VerifiedToken, TokenRefusal> {
        self.verify_token(&self.keys[1].signed(&header, &claims(json!({}))))
            .await
    }

    async fn verify_token(&self, token: &str) -> Result<VerifiedToken, TokenRefusal> {
        self.issuers.verify(token).await
    }
}

fn issuers(texts: &[&str]) -> Issuers {
    let settings = texts.iter().map(|text| IssuerSetting::parse(text).unwrap());
    Issuers::new(settings.collect()).unwrap()
}

/// Returns a key set in which the id of each key is its algorithm.
fn key_set(keys: &[TestKey]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| key.jwk(key.algorithm())).collect();
    json!({ "keys": keys }).to_string()
}

fn in_seconds(seconds: i64) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    json!(i64::try_from(now).unwrap() + seconds)
}

fn claims(changes: Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER,
        "sub": "system:serviceaccount:shop:web",
        "aud": [AUDIENCE],
        "exp": in_seconds(600),
        "nbf": in_seconds(0),
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    claims
}

#[tokio::test]
async fn a_token_of_each_algorithm_gives_its_principal_and_its_expiry() {
    let issuer = TestIssuer::start();
    let exp = in_seconds(3600);
    for key in &issuer.keys {
        let token = key.token(key.algorithm(), &claims(json!({"exp": exp})));
        let verified = issuer.verify_token(&token).await.unwrap();
        let principal = "jwt:https://issuer.example#system:serviceaccount:shop:web";
        assert_eq!(verified.principal.to_string(), principal);
        let exp = UNIX_EPOCH + Duration::from_secs(exp.as_u64().unwrap());
        assert!(verified.not_after < exp && verified.not_after > exp - Duration::from_secs(1));
    }
}

/// The example of RFC 7515, appendix A.2, which another implementation signed.
#[test]
fn the_signature_of_the_standards_example_verifies() {
    let signed = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb2\
                  90Ijp0cnVlfQ";
    let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9\
                     uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRm\
                     B_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98\
                     rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let set = key_set::KeySet::parse(key_set(&[TestKey::rsa()]).as_bytes()).unwrap();
    let key = set.find(None, public_key::Algorithm::Rs256).unwrap();
    assert!(key.verifies(signed.as_bytes(), &signature));
    signature[0] ^= 1;
    assert!(!key.verifies(signed.as_bytes(), &signature));
}

#[tokio::test]
async fn a_token_for_another_audience_is_refused() {
    let issuer = TestIssuer::start();
    for aud in [json!("other"), json!(["other"]), json!([]), json!(null)] {
        let verified = issuer.verify(json!({"aud": aud.clone()})).await;
        assert_eq!(verified, Err(TokenRefusal::Audience), "{aud}");
    }
    assert!(issuer.verify(json!({"aud": AUDIENCE})).await.is_ok());
}

#[tokio::test]
async fn a_token_of_another_issuer_is_refused() {
    let issuer = TestIssuer::start();
    for iss in [
        "https://issuer.example/",
        "https://ISSUER.example",
        "https://other.example",
        "",
    ] {
        let verified = issuer.verify(json!({ "iss": iss })).await;
        assert_eq!(verified, Err(TokenRefusal::UnknownIssuer), "{iss}");
    }
}

/// Two issuers are known, and the key of one of them signs a token in the name of the other.
#[tokio::test]
async fn an_issuer_signs_for_itself_only() {
    let one = TestIssuer::start();
    let file = one.dir.path().join("other.json");
    fs::write(&file, key_set(&[TestKey::p256()])).unwrap();
    let settings = [
        format!("{ISSUER}={AUDIENCE},jwks={}/jwks.json", one.dir.path().display()),
        format!("https://other.example={AUDIENCE},jwks={}", file.display()),
    ];
    let both = issuers(&settings.each_ref().map(String::as_str));
    let task = tokio::spawn(both.clone().keep_fresh());
    let token = one.keys[1].token("ES256", &claims(json!({"iss": "https://other.example"})));
    assert_eq!(both.verify(&token).await, Err(TokenRefusal::Signature));
    let own = one.keys[1].token("ES256", &claims(json!({})));
    assert!(both.verify(&own).await.is_ok());
    task.abort();
}

#[tokio::test]
async fn a_token_is_refused_before_and_after_its_time() {
    let issuer = TestIssuer::start();
    let verified = issuer.verify(json!({"exp": in_seconds(-1)})).await;
    assert_eq!(verified, Err(TokenRefusal::Expired));
    let verified = issuer.verify(json!({"exp": null})).await;
    assert_eq!(verified, Err(TokenRefusal::Malformed));
    let verified = issuer.verify(json!({"nbf": in_seconds(60)})).await;
    assert_eq!(verified, Err(TokenRefusal::NotYetValid));
    assert!(issuer.verify(json!({"nbf": null})).await.is_ok());
}

#[tokio::test]
async fn a_token_that_lives_too_long_is_refused_also_when_it_comes_again() {
    let issuer = TestIssuer::start();
    let token = issuer.keys[1].token("ES256", &claims(json!({"exp": in_seconds(25 * 3600)})));
    for _ in 0..2 {
        assert_eq!(issuer.verify_token(&token).await, Err(TokenRefusal::MaxLife));
    }
    let setting = format!(
        "{ISSUER}={AUDIENCE},max-life=26h,jwks={}/jwks.json",
        issuer.dir.path().display()
    );
    let patient = issuers(&[&setting]);
    let task = tokio::spawn(patient.clone().keep_fresh());
    assert!(patient.verify(&token).await.is_ok());
    task.abort();
}

#[tokio::test]
async fn a_subject_that_is_no_principal_is_refused() {
    let issuer = TestIssuer::start();
    for (sub, refusal) in [
        (json!(""), TokenRefusal::Subject),
        (json!("two\nlines"), TokenRefusal::Subject),
        (json!(null), TokenRefusal::Malformed),
        (json!(7), TokenRefusal::Malformed),
    ] {
        assert_eq!(issuer.verify(json!({ "sub": sub })).await, Err(refusal), "{sub}");
    }
}

#[tokio::test]
async fn an_algorithm_that_is_not_on_the_list_is_refused() {
    let issuer = TestIssuer::start();
    for alg in [
        "none", "None", "HS256", "RS384", "PS256", "ES384", "es256", "", "Ed25519",
    ] {
        let verified = issuer.verify_header(json!({"alg": alg, "kid": "ES256"})).await;
        assert_eq!(verified, Err(TokenRefusal::Algorithm), "{alg}");
    }
    // Without a signature, as a library that knows `none` writes it.
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = format!("{}.{}.", part(json!({"alg": "none"})), part(claims(json!({}))));
    assert_eq!(issuer.verify_token(&unsigned).await, Err(TokenRefusal::Algorithm));
}

/// The attack on libraries that take the public key of RS256 for the secret of HS256.
#[tokio::test]
async fn a_public_key_is_not_the_secret_of_an_hmac() {
    let issuer = TestIssuer::start();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(json!({"alg": "HS256", "kid": "RS256"}));
    let signed = format!("{header}.{}", part(claims(json!({}))));
    let public = TestKey::rsa().jwk("RS256").to_string();
    for secret in [
        public.as_bytes(),
        issuer.keys[0].jwk("RS256")["n"].as_str().unwrap().as_bytes(),
    ] {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        let tag = ring::hmac::sign(&key, signed.as_bytes());
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()));
        assert_eq!(issuer.verify_token(&token).await, Err(TokenRefusal::Algorithm));
    }
}

#[tokio::test]
async fn the_kind_of_the_key_must_fit_the_algorithm() {
    let issuer = TestIssuer::start();
    for (alg, kid) in [
        ("RS256", "ES256"),
        ("EdDSA", "ES256"),
        ("ES256", "RS256"),
        ("ES256", "EdDSA"),
    ] {
        let verified = issuer.verify_header(json!({"alg": alg, "kid": kid})).await;
        assert_eq!(verified, Err(TokenRefusal::UnknownKey), "{alg} {kid}");
    }
}

#[tokio::test]
async fn the_kid_chooses_the_key() {
    let issuer = TestIssuer::start();
    let unknown = issuer
        .verify_header(json!({"alg": "ES256", "kid": "other"}))
        .await;
    assert_eq!(unknown, Err(TokenRefusal::UnknownKey));
    assert!(issuer.verify_header(json!({"alg": "ES256"})).await.is_ok());
    let keys = ["a", "b"].map(|kid| TestKey::p256().jwk(kid));
    issuer.write(&json!({"keys": [keys[0], keys[1], issuer.keys[1].jwk("ES256")]}).to_string());
    let read = async {
        while issuer.issuers.0.issuers[0].generation() != Some(2) {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(Duration::from_secs(10), read).await.unwrap();
    assert!(
        issuer
            .verify_header(json!({"alg": "ES256", "kid": "ES256"}))
            .await
            .is_ok()
    );
    let guessed = issuer.verify_header(json!({"alg": "ES256", "x": 1})).await;
    assert_eq!(guessed, Err(TokenRefusal::UnknownKey));
}

#[tokio::test]
async fn a_signature_of_another_key_and_a_changed_token_are_refused() {
    let issuer = TestIssuer::start();
    for key in [TestKey::p256(), TestKey::ed25519()] {
        let forged = key.token(key.algorithm(), &claims(json!({})));
        assert_eq!(issuer.verify_token(&forged).await, Err(TokenRefusal::Signature));
    }
    for key in &issuer.keys {
        let token = key.token(key.algorithm(), &claims(json!({})));
        let [header, _, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
        let other = URL_SAFE_NO_PAD.encode(claims(json!({"sub": "admin"})).to_string());
        let changed = format!("{header}.{other}.{signature}");
        assert_eq!(issuer.verify_token(&changed).await, Err(TokenRefusal::Signature));
        let cut = &token[..token.len() - 4];
        assert!(issuer.verify_token(cut).await.is_err());
        let unsigned = format!("{header}.{other}.");
        assert_eq!(issuer.verify_token(&unsigned).await, Err(TokenRefusal::Signature));
    }
}

#[tokio::test]
async fn a_critical_header_parameter_is_refused_and_a_key_in_the_header_is_ignored() {
    let issuer = TestIssuer::start();
    for crit in [json!(["b64"]), json!([]), json!(null), json!("exp")] {
        let header = json!({"alg": "ES256", "kid": "ES256", "crit": crit.clone(), "b64": false});
        assert_eq!(
            issuer.verify_header(header).await,
            Err(TokenRefusal::Critical),
            "{crit}"
        );
    }
    let stranger = TestKey::p256();
    let header = json!({
        "alg": "ES256",
        "kid": "ES256",
        "jku": "http://127.0.0.1:1/jwks",
        "x5u": "http://127.0.0.1:1/chain",
        "jwk": stranger.jwk("ES256"),
    });
    let forged = stranger.signed(&header, &claims(json!({})));
    assert_eq!(issuer.verify_token(&forged).await, Err(TokenRefusal::Signature));
}

#[tokio::test]
async fn texts_that_are_no_tokens_are_refused() {
    let issuer = TestIssuer::start();
    let token = issuer.keys[1].token("ES256", &claims(json!({})));
    let [header, payload, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
    let twice = URL_SAFE_NO_PAD.encode(format!("{{\"sub\":\"a\",{}", &claims(json!({})).to_string()[1..]));
    for wrong in [
        String::new(),
        "...".to_owned(),
        format!("{header}.{payload}"),
        format!("{token}.{signature}"),
        format!("{token}="),
        format!(" {token}"),
        format!("{header}.{payload}!.{signature}"),
        format!("{header}.{twice}.{signature}"),
        issuer.keys[1].token("ES256", &claims(json!({"x": "x".repeat(16 * 1024)}))),
    ] {
        let verified = issuer.verify_token(&wrong).await;
        assert_eq!(verified, Err(TokenRefusal::Malformed), "{wrong}");
    }
}

#[tokio::test]
async fn a_key_that_the_issuer_withdraws_no_longer_counts_even_for_a_known_token() {
    let issuer = TestIssuer::start();
    let token = issuer.keys[1].token("ES256", &claims(json!({})));
    assert!(issuer.verify_token(&token).await.is_ok());
    issuer.write(&key_set(&[TestKey::ed25519()]));
    let refused = async {
        while issuer.verify_token(&token).await != Err(TokenRefusal::UnknownKey) {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(Duration::from_secs(10), refused).await.unwrap();
}

#[tokio::test]
async fn the_log_has_no_claims_of_a_forged_token_and_one_line_of_many() {
    let issuer = TestIssuer::start();
    let (log, _captured) = TestLog::capture();
    let stranger = TestKey::p256();
    for kid in ["ES256", "unknown-kid"] {
        for _ in 0..100 {
            let forged = stranger.token(kid, &claims(json!({"sub": "forged-subject"})));
            assert!(issuer.verify_token(&forged).await.is_err());
        }
    }
    for _ in 0..100 {
        let other = issuer.verify(json!({"iss": "https://forged.example"})).await;
        assert_eq!(other, Err(TokenRefusal::UnknownIssuer));
        let late = issuer
            .verify(json!({"exp": in_seconds(-1), "sub": "signed-subject"}))
            .await;
        assert_eq!(late, Err(TokenRefusal::Expired));
    }
    let log = log.text();
    let refused = log.lines().filter(|line| line.contains("token refused"));
    assert_eq!(refused.count(), 4, "one line for each cause: {log}");
    for unproven in ["forged", "unknown-kid"] {
        assert!(!log.contains(unproven), "{log}");
    }
    assert!(log.contains("signed-subject") && log.contains(ISSUER), "{log}");
}

#[tokio::test]
async fn without_the_keys_of_the_issuer_no_token_counts() {
    let dir = TempDir::new().unwrap();
    let missing = issuers(&[&format!("{ISSUER}={AUDIENCE},jwks={}/none", dir.path().display())]);
    let task = tokio::spawn(missing.clone().keep_fresh());
    let token = TestKey::p256().token("ES256", &claims(json!({})));
    assert_eq!(missing.verify(&token).await, Err(TokenRefusal::KeysUnavailable));
    task.abort();
    assert_eq!(
        Issuers::default().verify(&token).await,
        Err(TokenRefusal::UnknownIssuer)
    );
}

#[test]
fn a_service_account_has_a_short_form_with_the_issuer_named_kubernetes() {
    let kubernetes = issuers(&[
        "https://k8s.example=vault,name=kubernetes",
        "https://other.example=vault",
    ]);
    let short = kubernetes.principal("system:serviceaccount:shop:web").unwrap();
    assert_eq!(
        short.to_string(),
        "jwt:https://k8s.example#system:serviceaccount:shop:web"
    );
    assert!(kubernetes.principal("dns:a").is_ok());
    for wrong in [
        "system:serviceaccount:",
        "system:serviceaccount:shop",
        "system:serviceaccount:shop:",
        "system:serviceaccount::web",
        "system:serviceaccount:shop:web:x",
        "system:serviceaccount:Shop:web",
        "system:serviceaccount:a.b:web",
    ] {
        let refused = kubernetes.principal(wrong);
        assert_eq!(refused, Err(SettingPrincipalError::ServiceAccount), "{wrong}");
    }
    let none = issuers(&["https://k8s.example=vault"]);
    assert_eq!(
        none.principal("system:serviceaccount:shop:web"),
        Err(SettingPrincipalError::NoKubernetes)
    );
    let user = kubernetes.principal("system:node:a");
    assert!(matches!(user, Err(SettingPrincipalError::Principal(_))));
}
