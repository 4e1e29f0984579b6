//! Callers that identify themselves by a JSON Web Token, such as that of a service account.

use std::time::Duration;

use e2e::{
    Injector, Pair, Pki, TokenIssuer, Upstream, Vault, eventually,
    issuer::{AUDIENCE, TestKey},
    pair::server,
};
use http::Request;
use serde_json::json;
use tokio::{net::TcpListener, time::Instant};

use super::{CI, Tokens, get_with, outcome};

const WEB: &str = "system:serviceaccount:shop:web";
const OTHER: &str = "system:serviceaccount:shop:other";
const LIFE: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_service_account_reaches_its_servers_while_its_token_is_valid() {
    let (pki, upstream, tokens) = (Pki::new(), Upstream::start().await, Tokens::new());
    let issuer = TokenIssuer::start(&pki).await;
    let vault = Vault::start_with(pki.clone(), |_| {}).await;
    vault.workspace("shop").await;
    vault.put("shop", "TOKEN", "tok-1").await;
    let injector = Injector::start_with(pki, vault.address, |settings| {
        tokens.configure(settings);
        settings.jwt.jwt_issuer = vec![issuer.setting()];
        settings.callers.caller.push(format!("{WEB}=shop/api"));
    })
    .await;
    injector.ready().await;
    for name in ["api", "other"] {
        injector
            .add(server("shop", name, &upstream.url(), &["TOKEN"]))
            .await;
    }
    let address = injector.data_plane;
    let token = issuer.token(WEB, LIFE);
    eventually("the key set was read", async || {
        get_with(address, "/shop/api/", Some(&token)).await.status() == 200
    })
    .await;
    assert_eq!(upstream.last().header("x-aerostack-token"), None);
    let mut other_audience = issuer.claims(WEB, LIFE);
    other_audience["aud"] = "another".into();
    let forged = format!("{}x", &token[..token.len() - 1]);
    for (path, token, expected) in [
        ("/shop/other/", token.as_str(), (403, "PERMISSION_DENIED")),
        ("/shop/none/", &token, (403, "PERMISSION_DENIED")),
        (
            "/shop/api/",
            &issuer.token(OTHER, LIFE),
            (403, "PERMISSION_DENIED"),
        ),
        (
            "/shop/api/",
            &issuer.sign(&other_audience),
            (401, "UNAUTHENTICATED"),
        ),
        ("/shop/api/", &forged, (401, "UNAUTHENTICATED")),
        ("/shop/api/", "neither.a.token", (401, "UNAUTHENTICATED")),
        // A static token counts beside those of issuers.
        ("/dev/api/", CI, (404, "SERVER_NOT_FOUND")),
    ] {
        let answer = get_with(address, path, Some(token)).await;
        assert_eq!(outcome(&answer), expected, "{path} {token}");
    }
    // An expired token is refused, also when it was accepted before. Issuers and services may differ by a minute.
    let mut expired = issuer.claims(WEB, LIFE);
    expired["exp"] = (expired["iat"].as_u64().unwrap() - 120).into();
    let answer = get_with(address, "/shop/api/", Some(&issuer.sign(&expired))).await;
    assert_eq!(outcome(&answer), (401, "UNAUTHENTICATED"));
    let problem = String::from_utf8(answer.body().to_vec()).unwrap();
    assert!(
        problem.contains("the token has expired") && !problem.contains(AUDIENCE),
        "{problem}"
    );
    Pair { vault, injector }.stop().await;
}

/// The issuer accepts connections and says nothing, so the key of a token is awaited.
#[tokio::test]
async fn a_call_waits_for_the_key_of_its_token_only_until_its_deadline() {
    let (pki, silent) = (Pki::new(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let keys = format!("http://{}/keys", silent.local_addr().unwrap());
    let claims =
        json!({"iss": "https://silent.example", "sub": "web", "aud": AUDIENCE, "exp": 4_000_000_000_u64});
    let token = TestKey::p256().token("first", &claims);
    let vault = Vault::start_with(pki.clone(), |_| {}).await;
    let injector = Injector::start_with(pki, vault.address, |settings| {
        settings.jwt.jwt_issuer = vec![format!("https://silent.example={AUDIENCE},jwks={keys}")];
        settings
            .callers
            .caller
            .push("jwt:https://silent.example#web=*".to_owned());
    })
    .await;
    let began = Instant::now();
    let request = Request::post("/shop/api/x")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "300m")
        .header("x-aerostack-token", &token);
    let answer = injector.send(request, "").await;
    assert_eq!(answer.headers()["grpc-status"], "4", "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    Pair { vault, injector }.stop().await;
}
