//! Tokens that are not accepted. A refused token is never replaced by the client's certificate.

use tokio::net::TcpListener;

use super::*;

/// Returns each token that must be refused, with a part of the message.
fn bad_tokens(issuer: &TokenIssuer) -> Vec<(&'static str, String)> {
    let claims = issuer.claims(ADMIN, HOUR);
    let with = |name: &str, value: Json| {
        let mut claims = claims.clone();
        claims[name] = value;
        issuer.sign(&claims)
    };
    let (kid, key) = issuer.signing_key();
    let headed = |header: Json| key.signed(&header, &claims);
    let now = issuer.claims(ADMIN, Duration::ZERO)["exp"].as_u64().unwrap();
    let good = issuer.sign(&claims);
    let unsigned = good.rsplit_once('.').unwrap().0;
    vec![
        ("has expired", with("exp", json!(now - 1))),
        ("not valid yet", with("nbf", json!(now + 600))),
        ("another audience", with("aud", json!("another"))),
        (
            "issuer is not known",
            with("iss", json!("https://another.example")),
        ),
        ("algorithm is none of", headed(json!({"alg": "none"}))),
        (
            "algorithm is none of",
            hs256_with_the_public_key(&key, &kid, &claims),
        ),
        (
            "key that its issuer does not publish",
            headed(json!({"alg": "RS256", "kid": "unknown"})),
        ),
        (
            "key that its issuer does not publish",
            headed(json!({"alg": "ES256", "kid": kid})),
        ),
        (
            "critical header",
            headed(json!({"alg": "RS256", "kid": kid, "crit": ["b64"]})),
        ),
        ("signature is wrong", format!("{unsigned}.{}", "A".repeat(342))),
        (
            "signature is wrong",
            TestKey::p256().signed(&json!({"alg": "RS256", "kid": kid}), &claims),
        ),
        ("not a JSON Web Token", "opaque".to_owned()),
        ("not a JSON Web Token", format!("{good}.x")),
    ]
}

/// Signs a token with the published text of the public key as the secret.
fn hs256_with_the_public_key(key: &TestKey, kid: &str, claims: &Json) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
    let header = BASE64.encode(json!({"alg": "HS256", "kid": kid}).to_string());
    let signed = format!("{header}.{}", BASE64.encode(claims.to_string()));
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.jwk(kid).to_string().as_bytes());
    let tag = ring::hmac::sign(&secret, signed.as_bytes());
    format!("{signed}.{}", BASE64.encode(tag.as_ref()))
}

#[tokio::test]
async fn a_bad_token_is_refused_although_the_certificate_is_that_of_an_administrator() {
    let scene = Scene::start().await;
    let administrator = scene.vault.channel(pki::ADMIN);
    assert_eq!(list(administrator.clone(), &scene.token(ADMIN)).await.unwrap(), 0);
    for (says, token) in bad_tokens(&scene.issuer) {
        let message = unauthenticated(list(administrator.clone(), &token).await);
        assert!(message.contains(says), "{says}: {message}");
        assert!(!message.contains(&token[..token.len().min(10)]), "{message}");
        unauthenticated(scene.list(&token).await);
    }
    // Without a token the certificate counts.
    let request = ListWorkspacesRequest::default();
    let listed = WorkspaceServiceClient::new(administrator)
        .list_workspaces(request)
        .await;
    assert!(listed.is_ok());
}

#[tokio::test]
async fn the_injector_refuses_the_same_tokens() {
    let pki = Pki::new();
    let issuer = TokenIssuer::start(&pki).await;
    let vault = Vault::start_with(pki.clone(), |_| {}).await;
    let injector = Injector::start_with(pki.clone(), vault.address, |settings| {
        settings.jwt.jwt_issuer = vec![issuer.setting()];
        settings.roles.admin.push(ADMIN.to_owned());
    })
    .await;
    let list = async |token: &str| {
        let request = with_token(ListServersRequest::default(), token);
        let channel = anonymous(&pki, injector.address, pki::INJECTOR);
        ServerServiceClient::new(channel).list_servers(request).await
    };
    assert!(list(&issuer.token(ADMIN, HOUR)).await.is_ok());
    for (says, token) in bad_tokens(&issuer) {
        let message = unauthenticated(list(&token).await);
        assert!(message.contains(says), "{says}: {message}");
    }
}

#[tokio::test]
async fn only_the_token_counts_when_there_is_one() {
    let scene = Scene::start().await;
    let administrator = scene.vault.channel(pki::ADMIN);
    let stranger = list(administrator.clone(), &scene.token(STRANGER)).await;
    let message = refused(stranger, Code::PermissionDenied, "PERMISSION_DENIED");
    assert!(message.contains(&scene.principal(STRANGER)), "{message}");
    for wrong in ["Basic dTpw", "Bearer", "bearer"] {
        let mut request = Request::new(ListWorkspacesRequest::default());
        request
            .metadata_mut()
            .insert("authorization", wrong.parse().unwrap());
        let mut client = WorkspaceServiceClient::new(administrator.clone());
        unauthenticated(client.list_workspaces(request).await);
    }
    let mut twice = with_token(ListWorkspacesRequest::default(), &scene.token(ADMIN));
    let same = twice.metadata().get("authorization").unwrap().clone();
    twice.metadata_mut().append("authorization", same);
    let mut client = WorkspaceServiceClient::new(administrator);
    unauthenticated(client.list_workspaces(twice).await);
}

#[tokio::test]
async fn a_service_without_issuers_refuses_every_token() {
    let vault = Vault::start().await;
    let token = TestKey::p256().token("a", &json!({"sub": ADMIN}));
    let message = unauthenticated(list(vault.channel(pki::ADMIN), &token).await);
    assert!(message.contains("accepts no tokens"), "{message}");
}

#[tokio::test]
async fn health_checks_are_for_anyone_whatever_the_token_is() {
    let scene = Scene::start().await;
    for token in ["opaque".to_owned(), scene.issuer.token(ADMIN, Duration::ZERO)] {
        let request = with_token(HealthCheckRequest::default(), &token);
        let checked = HealthClient::new(scene.channel()).check(request).await;
        assert!(checked.is_ok(), "{checked:?}");
    }
}

/// The issuer accepts connections and says nothing, so that other calls wait for the key of their token.
#[tokio::test]
async fn a_health_check_does_not_wait_for_the_key_of_a_token() {
    let (pki, silent) = (Pki::new(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let keys = format!("http://{}/keys", silent.local_addr().unwrap());
    let vault = Vault::start_with(pki.clone(), |settings| {
        settings.jwt.jwt_issuer = vec![format!("https://silent.example={AUDIENCE},jwks={keys}")];
    })
    .await;
    let claims =
        json!({"iss": "https://silent.example", "sub": "a", "aud": AUDIENCE, "exp": 4_000_000_000_u64});
    let token = TestKey::p256().token("first", &claims);
    let mut client = HealthClient::new(anonymous(&pki, vault.address, pki::VAULT));
    // The connection is made before the time is measured.
    assert!(client.check(HealthCheckRequest::default()).await.is_ok());
    let checking = client.check(with_token(HealthCheckRequest::default(), &token));
    let checked = time::timeout(Duration::from_secs(3), checking).await;
    assert!(checked.unwrap().is_ok());
}
