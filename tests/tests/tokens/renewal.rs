//! Tokens that expire and are renewed while calls run.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

/// Life of the tokens of these tests, which are renewed after half of it. Kubernetes renews after 80 %, which is minutes before the end.
const LIFE: Duration = Duration::from_secs(8);

/// The vault stops to decrypt for a stream when its token expires, although the stream was opened before.
#[tokio::test]
async fn a_stream_decrypts_only_until_its_token_expires() {
    let scene = Scene::start().await;
    scene.vault.workspace("shop").await;
    scene.vault.put("shop", "TOKEN", "v").await;
    let (messages, outbound) = mpsc::channel(1);
    let mut client = DecryptServiceClient::new(scene.channel());
    let opening = with_token(
        ReceiverStream::new(outbound),
        &scene.issuer.token(INJECTOR, Duration::from_secs(3)),
    );
    let mut stream = client.decrypt_stream(opening).await.unwrap().into_inner();
    let mut outcome = async || {
        messages.send(decrypt("shop", "TOKEN")).await.unwrap();
        let answered = time::timeout(e2e::PATIENCE, stream.message()).await.unwrap();
        answered.unwrap().unwrap().answers.remove(0).outcome.unwrap()
    };
    assert!(matches!(outcome().await, Outcome::Response(_)));
    eventually("the token has expired", async || match outcome().await {
        Outcome::Response(_) => false,
        Outcome::Error(error) => {
            assert_eq!(error.reason().name(), "UNAUTHENTICATED");
            true
        }
    })
    .await;
}

/// The vault stops to decrypt for an open stream when the issuer withdraws the key of the stream's token, also when the issuer has
/// no other key.
#[tokio::test]
async fn a_stream_decrypts_only_while_the_key_of_its_token_is_published() {
    let (pki, dir) = (Pki::new(), TempDir::new().unwrap());
    let issuer = TokenIssuer::start(&pki).await;
    let ((kid, key), file) = (issuer.signing_key(), dir.path().join("keys.json"));
    let published = json!({"keys": [key.jwk(&kid)]}).to_string();
    let second = TestKey::p256();
    let both = json!({"keys": [second.jwk("second"), key.jwk(&kid)]}).to_string();
    let without = json!({"keys": [second.jwk("second")]}).to_string();
    replace_file(&file, &published);
    let vault = Vault::start_with(pki.clone(), |settings| {
        settings.jwt.jwt_issuer = vec![format!("{}={AUDIENCE},jwks={}", issuer.url(), file.display())];
        settings
            .injector
            .push(format!("jwt:{}#{INJECTOR}=shop", issuer.url()));
    })
    .await;
    vault.workspace("shop").await;
    vault.put("shop", "TOKEN", "v").await;
    for withdrawn in [without.as_str(), "{\"keys\":[]}"] {
        let (messages, outbound) = mpsc::channel(1);
        let client = DecryptServiceClient::new(anonymous(&pki, vault.address, pki::VAULT));
        let known = async |token: &str| {
            let opening = with_token(tokio_stream::empty::<DecryptStreamRequest>(), token);
            client.clone().decrypt_stream(opening).await.is_ok()
        };
        replace_file(&file, &published);
        let token = issuer.token(INJECTOR, HOUR);
        eventually("the key is known", async || known(&token).await).await;
        let opening = with_token(ReceiverStream::new(outbound), &token);
        let mut stream = client.clone().decrypt_stream(opening).await.unwrap().into_inner();
        let mut outcome = async || {
            messages.send(decrypt("shop", "TOKEN")).await.unwrap();
            let answered = time::timeout(e2e::PATIENCE, stream.message()).await.unwrap();
            answered.unwrap().unwrap().answers.remove(0).outcome.unwrap()
        };
        assert!(matches!(outcome().await, Outcome::Response(_)));
        // A second key beside it changes nothing.
        replace_file(&file, &both);
        let with_second = second.token("second", &issuer.claims(INJECTOR, HOUR));
        eventually("the second key is known", async || known(&with_second).await).await;
        assert!(matches!(outcome().await, Outcome::Response(_)));
        replace_file(&file, withdrawn);
        eventually("the key has been withdrawn", async || match outcome().await {
            Outcome::Response(_) => false,
            Outcome::Error(error) => {
                assert_eq!(error.reason().name(), "UNAUTHENTICATED");
                assert!(error.message.contains("does not publish"), "{}", error.message);
                true
            }
        })
        .await;
    }
}

#[tokio::test]
async fn an_injector_renews_its_token_and_no_call_fails() {
    let scene = Scene::start().await;
    let upstream = Upstream::start().await;
    let injector = scene.injector(&scene.issuer.token(INJECTOR, LIFE)).await;
    scene.fill(&injector, &upstream).await;
    let (stop, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let calling = async || {
        while !stop.load(Ordering::Relaxed) {
            let answer = injector.get("/shop/api/x").await;
            assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.body());
            calls.fetch_add(1, Ordering::Relaxed);
        }
    };
    let renewing = async {
        // Three lives, with a new key of the issuer in the second. A life is up to a second shorter than `LIFE`, because `exp` has
        // whole seconds.
        for round in 0..6 {
            time::sleep(LIFE / 2).await;
            if round == 2 {
                scene.issuer.add_key("second");
            }
            scene.token_file(&scene.issuer.token(INJECTOR, LIFE));
            let readyz = get(&format!("http://{}/readyz", injector.metrics)).await;
            assert_eq!(readyz.status(), StatusCode::OK, "{:?}", readyz.body());
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(calling(), calling(), calling(), renewing);
    assert!(calls.load(Ordering::Relaxed) > 100);
    let page = get(&format!("http://{}/metrics", injector.metrics)).await;
    let page = String::from_utf8(page.body().to_vec()).unwrap();
    let expiry = page.lines().find_map(|line| {
        line.strip_prefix("aerostack_token_expiration_timestamp_seconds{token=\"vault-token-file\"} ")
    });
    // The injector may not have read the last token yet, but it has the one before.
    let exp = scene.issuer.claims(INJECTOR, LIFE / 2)["exp"].as_f64().unwrap();
    let expiry: f64 = expiry.unwrap().parse().unwrap();
    assert!(expiry >= exp - 1.0, "{expiry} and {exp}");
}

#[tokio::test]
async fn an_injector_without_a_valid_token_is_not_ready_and_says_why() {
    let scene = Scene::start().await;
    let upstream = Upstream::start().await;
    let injector = scene.injector("opaque").await;
    let readyz = async || {
        let answer = get(&format!("http://{}/readyz", injector.metrics)).await;
        String::from_utf8(answer.body().to_vec()).unwrap()
    };
    let says = async |text: &str| {
        eventually(text, async || readyz().await.contains(text)).await;
        let answer = readyz().await;
        assert!(answer.contains("--vault-token-file"), "{answer}");
        assert!(!answer.contains(scene.dir.path().to_str().unwrap()), "{answer}");
    };
    says("does not hold a JSON Web Token").await;
    scene.token_file(&scene.issuer.token(INJECTOR, Duration::ZERO));
    says("expired at").await;
    let mut claims = scene.issuer.claims(INJECTOR, HOUR);
    claims["aud"] = json!("another");
    scene.token_file(&scene.issuer.sign(&claims));
    says("meant for another audience").await;
    scene.token_file(&scene.token(INJECTOR));
    scene.fill(&injector, &upstream).await;
    assert_eq!(injector.get("/shop/api/x").await.status(), StatusCode::OK);
    // A token that nobody renews: the calls are refused, and the injector is not ready.
    scene.token_file(&scene.issuer.token(INJECTOR, Duration::from_secs(3)));
    says("expired at").await;
    assert_ne!(injector.get("/shop/api/x").await.status(), StatusCode::OK);
}

/// The vault refuses the renewed token, so the present one stays in use.
#[tokio::test]
async fn a_renewed_token_that_the_vault_refuses_costs_no_call() {
    let scene = Scene::start().await;
    let upstream = Upstream::start().await;
    let injector = scene.injector(&scene.token(INJECTOR)).await;
    scene.fill(&injector, &upstream).await;
    let mut claims = scene.issuer.claims(INJECTOR, HOUR);
    claims["aud"] = json!("another");
    scene.token_file(&scene.issuer.sign(&claims));
    let until = time::Instant::now() + Duration::from_secs(3);
    while time::Instant::now() < until {
        let answer = injector.get("/shop/api/x").await;
        assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.body());
    }
    injector.ready().await;
}
