//! Tests of a stop and a restart of the vault.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything() {
    let vault = Vault::start().await;
    let workspace = vault.workspace("w").await;
    vault.workspace("gone").await;
    vault.put("gone", "NAME", "gone").await;
    vault
        .put_for("w", "BOUND", "bound", &["https://api.github.com"])
        .await;
    vault.put("w", "NAME", "1").await;
    vault.put("w", "NAME", "2").await;
    vault.put("w", "DELETED", "1").await;
    vault.delete("w", "DELETED").await;
    vault
        .workspaces()
        .delete_workspace(delete("gone", true))
        .await
        .unwrap();
    // The decrypts come first, because the list shows them.
    let decrypted = decrypt(&vault, ask("w", ["NAME", "BOUND", "DELETED"]))
        .await
        .unwrap();
    let before = (list(&vault, "w", 0, "").await.unwrap(), decrypted);
    let (pki, dir) = (vault.pki.clone(), vault.dir.clone());
    vault.stop().await;

    let vault = Vault::open(pki, dir, |_| {}).await;
    let after = (
        list(&vault, "w", 0, "").await.unwrap(),
        decrypt(&vault, ask("w", ["NAME", "BOUND", "DELETED"]))
            .await
            .unwrap(),
    );
    assert_eq!(before, after);
    assert_eq!(before.1.secrets[0].value, b"2");
    let shown = vault
        .workspaces()
        .get_workspace(GetWorkspaceRequest { name: "w".into() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        shown.workspace.unwrap(),
        Workspace {
            secret_count: 2,
            ..workspace
        }
    );
    refused(
        decrypt(&vault, ask("gone", ["NAME"])).await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );
    assert_eq!(vault.put("w", "NAME", "3").await.version, 3);
    assert_eq!(vault.put("w", "DELETED", "2").await.version, 2);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_does_not_open_with_another_root_key_and_stays_unchanged() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "NAME", "v").await;
    let (pki, dir) = (vault.pki.clone(), vault.dir.clone());
    vault.stop().await;

    let other = dir.path().join("other.key");
    vault_service::crypto::root_key_file::write_new(&other).unwrap();
    let mut settings = e2e::pair::vault_settings(&pki, &dir);
    settings.root.root_key_file = vec![other];
    let config = settings.check().unwrap();
    let listeners = vault_service::Listeners::bind(&config).await.unwrap();
    let stopped = timeout(
        e2e::PATIENCE,
        vault_service::run(config, listeners, Default::default()),
    )
    .await;
    let error = stopped.expect("it served").unwrap_err().to_string();
    assert!(error.contains("root key"), "{error}");

    let vault = Vault::open(pki, dir, |_| {}).await;
    assert_eq!(decrypt_one(&vault, "w", "NAME").await.value, b"v");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_finishes_calls_under_way_and_ends_streams() {
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.process.shutdown_grace = "15s".to_owned()
    })
    .await;
    vault.workspace("w").await;
    let (pki, dir, address, metrics) = (vault.pki.clone(), vault.dir.clone(), vault.address, vault.metrics);
    let mut stream = Conversation::open(&vault, pki::INJECTOR).await;

    // The body of the put is still missing. A complete call after it on the same connection shows that the put has begun.
    let channel = vault.channel(pki::ADMIN);
    let (body, messages) = mpsc::channel(1);
    let mut put_late = Box::pin(wire::open_with(
        &channel,
        "/vault.v1.SecretService/PutSecret",
        ReceiverStream::new(messages),
    ));
    assert!(futures_util::poll!(&mut put_late).is_pending());
    wire::open(
        &channel,
        "/vault.v1.WorkspaceService/ListWorkspaces",
        Bytes::new(),
    )
    .await
    .unwrap();

    let stopped = tokio::spawn(vault.stop());
    let ready = format!("http://{metrics}/readyz");
    eventually("the probes say that it is not ready", async || {
        e2e::pair::get(&ready).await.status() == 503
    })
    .await;
    refused(stream.hear().await, Code::Unavailable, "SHUTTING_DOWN");
    assert!(!stopped.is_finished(), "it did not wait for the call under way");
    body.send(put("w", "LATE", "late").encode_to_vec().into())
        .await
        .unwrap();
    drop(body);
    let answer = timeout(e2e::PATIENCE, put_late)
        .await
        .expect("no answer")
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap();
    assert!(PutSecretResponse::decode(answer.unwrap()).unwrap().created);
    drop(channel);
    timeout(Duration::from_secs(10), stopped)
        .await
        .expect("it did not stop")
        .unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());

    let vault = Vault::open(pki, dir, |_| {}).await;
    assert_eq!(decrypt_one(&vault, "w", "LATE").await.value, b"late");
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_waits_only_for_the_grace_period_and_acknowledges_nothing_afterwards() {
    let vault = Vault::start_with(Pki::new(), |settings| {
        settings.process.shutdown_grace = "50ms".to_owned()
    })
    .await;
    vault.workspace("w").await;
    let channel = vault.channel(pki::ADMIN);
    let (body, messages) = mpsc::channel(1);
    let mut late = Box::pin(wire::open_with(
        &channel,
        "/vault.v1.SecretService/PutSecret",
        ReceiverStream::new(messages),
    ));
    assert!(futures_util::poll!(&mut late).is_pending());
    wire::open(
        &channel,
        "/vault.v1.WorkspaceService/ListWorkspaces",
        Bytes::new(),
    )
    .await
    .unwrap();
    timeout(Duration::from_secs(10), vault.stop())
        .await
        .expect("it waits for a call that never ends");
    // The shutdown cut the connection together with the call.
    let _ = body.send(put("w", "LATE", "late").encode_to_vec().into()).await;
    drop(body);
    let status = timeout(e2e::PATIENCE, late)
        .await
        .expect("no answer")
        .unwrap_err();
    // The status is the client's own for a closed connection, and not from the vault.
    assert_eq!(status.code(), Code::Unknown, "{status:?}");
    assert!(
        status.metadata().is_empty() && status.details().is_empty(),
        "{status:?}"
    );
}
