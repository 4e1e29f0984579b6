//! The keys of issuers: rotation, unknown keys, an issuer that does not answer, and the ways to a key set.

use super::*;

#[tokio::test]
async fn a_new_key_of_the_issuer_counts_at_once() {
    let scene = Scene::start().await;
    let old = scene.token(ADMIN);
    assert!(scene.list(&old).await.is_ok());
    // The vault reads the key set again at the first token with the new key, but not within ten seconds of the last read.
    scene.issuer.add_key("second");
    let new = scene.token(ADMIN);
    eventually("the new key is known", async || scene.list(&new).await.is_ok()).await;
    assert!(scene.list(&old).await.is_ok());
    assert!(scene.issuer.reads() <= 3, "{} reads", scene.issuer.reads());
}

#[tokio::test]
async fn a_flood_of_unknown_keys_causes_few_reads_of_the_key_set() {
    let scene = Scene::start().await;
    let good = scene.token(ADMIN);
    assert!(scene.list(&good).await.is_ok());
    let began = time::Instant::now();
    let flood = async |first: u32| {
        let channel = scene.channel();
        for number in 0..100 {
            let kid = format!("unknown-{}", first + number);
            let token = TestKey::ed25519().token(&kid, &scene.issuer.claims(ADMIN, HOUR));
            unauthenticated(list(channel.clone(), &token).await);
            assert!(list(channel.clone(), &good).await.is_ok());
        }
    };
    tokio::join!(flood(0), flood(1_000), flood(2_000));
    // The first read is that of the start.
    let most = 2 + began.elapsed().as_secs() / 10;
    assert!(
        scene.issuer.reads() as u64 <= most,
        "{} reads",
        scene.issuer.reads()
    );
}

#[tokio::test]
async fn the_last_keys_count_while_the_issuer_is_down_and_without_any_no_token_counts() {
    let pki = Pki::new();
    let issuer = TokenIssuer::start(&pki).await;
    issuer.set_down(true);
    let (setting, account) = (issuer.setting(), ADMIN.to_owned());
    let vault = Vault::start_with(pki.clone(), |settings| {
        settings.jwt.jwt_issuer = vec![setting];
        settings.roles.admin.push(account);
    })
    .await;
    let list = async || {
        list(
            anonymous(&pki, vault.address, pki::VAULT),
            &issuer.token(ADMIN, HOUR),
        )
        .await
    };
    let message = refused(list().await, Code::Unavailable, "TOKEN_KEYS_UNAVAILABLE");
    assert!(message.contains("not available now"), "{message}");
    // Administrators with certificates are not concerned.
    let request = ListWorkspacesRequest::default();
    let listed = vault.workspaces().list_workspaces(request).await;
    assert!(listed.is_ok());
    issuer.set_down(false);
    eventually("the keys are read", async || list().await.is_ok()).await;
    issuer.set_down(true);
    assert!(list().await.is_ok());
}

#[tokio::test]
async fn the_document_of_another_issuer_is_not_believed() {
    let pki = Pki::new();
    let issuer = TokenIssuer::start(&pki).await;
    issuer.set_name("https://another.example");
    let vault = Vault::start_with(pki.clone(), |settings| {
        settings.jwt.jwt_issuer = vec![issuer.setting()];
    })
    .await;
    let listed = list(
        anonymous(&pki, vault.address, pki::VAULT),
        &issuer.token(ADMIN, HOUR),
    )
    .await;
    refused(listed, Code::Unavailable, "TOKEN_KEYS_UNAVAILABLE");
    assert_eq!(issuer.reads(), 0);
}

/// A key set in a file, one at a URL, and one whose readers need a token and another CA than the system's.
#[tokio::test]
async fn a_key_set_comes_from_a_file_from_a_url_or_with_a_token() {
    let (pki, dir) = (Pki::new(), TempDir::new().unwrap());
    let issuer = TokenIssuer::start(&pki).await;
    issuer.require("reader-token");
    let (reader, keys) = (dir.path().join("reader"), dir.path().join("keys.json"));
    replace_file(&reader, "reader-token\n");
    let (kid, key) = issuer.signing_key();
    replace_file(&keys, &json!({"keys": [key.jwk(&kid)]}).to_string());
    let (url, ca) = (issuer.url(), pki.ca_file());
    let (ca, reader) = (ca.display(), reader.display());
    for (setting, works) in [
        (format!("{url}={AUDIENCE},jwks={}", keys.display()), true),
        (format!("{url}={AUDIENCE},ca={ca},token={reader}"), true),
        (
            format!("{url}={AUDIENCE},jwks={url}/keys,ca={ca},token={reader}"),
            true,
        ),
        (format!("{url}={AUDIENCE},ca={ca}"), false),
        (format!("{url}={AUDIENCE},token={reader}"), false),
    ] {
        let vault = Vault::start_with(pki.clone(), |settings| {
            settings.jwt.jwt_issuer = vec![setting.clone()];
            settings.roles.admin.push(format!("jwt:{url}#{ADMIN}"));
        })
        .await;
        let listed = list(
            anonymous(&pki, vault.address, pki::VAULT),
            &issuer.token(ADMIN, HOUR),
        )
        .await;
        assert_eq!(listed.is_ok(), works, "{setting}: {listed:?}");
        vault.stop().await;
    }
}

#[tokio::test]
async fn tokens_and_key_sets_are_counted() {
    let scene = Scene::start().await;
    assert!(scene.list(&scene.token(ADMIN)).await.is_ok());
    unauthenticated(scene.list("opaque").await);
    let page = get(&format!("http://{}/metrics", scene.vault.metrics)).await;
    let page = String::from_utf8(page.body().to_vec()).unwrap();
    for line in [
        "aerostack_jwt_verifications_total{outcome=\"ok\"} 1\n",
        "aerostack_jwt_verifications_total{outcome=\"malformed\"} 1\n",
        "aerostack_jwt_key_set_failures_total{issuer=\"kubernetes\"} 0\n",
        "aerostack_jwt_key_set_timestamp_seconds{issuer=\"kubernetes\"} 1",
    ] {
        assert!(
            page.contains(line) || page.contains(&line.replace("} 1\n", "} 1.0\n")),
            "{line} in {page}"
        );
    }
}
