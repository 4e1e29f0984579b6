//! Service accounts of Kubernetes as administrators, viewers and injectors.

use std::fs;

use super::*;

#[tokio::test]
async fn a_service_account_administers_and_reads_without_a_certificate() {
    let log = TempDir::new().unwrap();
    let path = log.path().join("audit.log");
    let scene = Scene::start_with(|settings| {
        // Tokens alone: no CA issues client certificates.
        settings.tls.client_ca = None;
        settings.roles.admin = vec![ADMIN.to_owned()];
        settings.injector = vec![format!("{INJECTOR}=shop")];
        settings.audit.audit_log = Some(path.clone());
    })
    .await;
    assert_eq!(scene.list(&scene.token(ADMIN)).await.unwrap(), 0);
    let put = PutSecretRequest {
        workspace: "shop".to_owned(),
        name: "TOKEN".to_owned(),
        value: Some(Value::Text("v".to_owned())),
        ..Default::default()
    };
    let mut secrets = SecretServiceClient::new(scene.channel());
    let viewer = secrets.put_secret(with_token(put, &scene.token(VIEWER))).await;
    refused(viewer, Code::PermissionDenied, "PERMISSION_DENIED");
    unauthenticated(secrets.list_secrets(Request::new(Default::default())).await);
    let forged = scene.list(&TestKey::p256().token("first", &json!({}))).await;
    unauthenticated(forged);

    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<Json> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let calls: Vec<_> = lines.iter().filter(|line| line["event"] == "call").collect();
    let of = |number: usize, field: &str| calls[number][field].as_str().unwrap_or_default().to_owned();
    assert_eq!(of(0, "principal"), scene.principal(ADMIN));
    assert_eq!(
        (of(0, "outcome"), of(1, "outcome")),
        ("ok".to_owned(), "refused".to_owned())
    );
    assert_eq!(of(1, "principal"), scene.principal(VIEWER));
    assert_eq!(of(1, "reason"), "PERMISSION_DENIED");
    assert!(calls[2..].iter().all(|line| line["reason"] == "UNAUTHENTICATED"));
    assert!(!text.contains("eyJ"), "a token is in the audit log: {text}");
}

#[tokio::test]
async fn a_service_account_is_an_injector_without_a_certificate() {
    let scene = Scene::start().await;
    let upstream = Upstream::start().await;
    let injector = scene.injector(&scene.token(INJECTOR)).await;
    scene.fill(&injector, &upstream).await;
    assert_eq!(injector.get("/shop/api/x").await.status(), StatusCode::OK);
    assert_eq!(upstream.last().header("x-mcp-secret-token"), Some("value-1"));
    // The account decrypts in its own workspace only.
    scene.vault.workspace("other").await;
    let refused = injector
        .try_add(server("other", "api", &upstream.url(), &["TOKEN"]))
        .await
        .unwrap_err();
    assert!(refused.message().contains("--injector"), "{refused:?}");
}

/// A connection counts for its principal once a token on it was verified, and no longer among the few of clients without a role.
#[tokio::test]
async fn strangers_do_not_push_out_the_connection_of_a_client_with_a_token() {
    let scene = Scene::start().await;
    scene.vault.workspace("shop").await;
    let (messages, outbound) = mpsc::channel(1);
    let mut client = DecryptServiceClient::new(scene.channel());
    let opening = with_token(ReceiverStream::new(outbound), &scene.token(INJECTOR));
    let mut stream = client.decrypt_stream(opening).await.unwrap().into_inner();
    let mut strangers = Vec::new();
    for _ in 0..300 {
        let channel = scene.channel();
        let checked = HealthClient::new(channel.clone())
            .check(HealthCheckRequest::default())
            .await;
        assert!(checked.is_ok());
        strangers.push(channel);
    }
    messages.send(decrypt("shop", "TOKEN")).await.unwrap();
    let answered = time::timeout(e2e::PATIENCE, stream.message()).await.unwrap();
    let answers = answered.unwrap().unwrap().answers;
    assert!(
        matches!(answers[0].outcome, Some(Outcome::Response(_))),
        "{answers:?}"
    );
}

#[tokio::test]
async fn the_command_line_administers_with_a_token_file() {
    let scene = Scene::start().await;
    scene.vault.workspace("shop").await;
    let args = ConnectArgs {
        vault: Some(scene.vault.address.to_string()),
        injector: Some("127.0.0.1:1".to_owned()),
        data_plane: Some("127.0.0.1:1".to_owned()),
        ca: Some(scene.pki.ca_file()),
        vault_id: Some(pki::VAULT.to_owned()),
        token_file: Some(scene.token_file(&format!("{}\n", scene.token(ADMIN)))),
        ..Default::default()
    };
    let connection = Connection::find(&args, |_| None).unwrap();
    let vault = connection.vault().unwrap();
    let list = async || {
        let mut client = WorkspaceServiceClient::new(vault.channel.clone());
        let listed = client.list_workspaces(ListWorkspacesRequest::default()).await;
        listed.map(|listed| listed.into_inner().workspaces.len())
    };
    assert_eq!(list().await.unwrap(), 1);
    // A long-lived program, such as the console, uses a renewed token at once.
    scene.token_file(&scene.token(STRANGER));
    refused(list().await, Code::PermissionDenied, "PERMISSION_DENIED");
    scene.token_file("");
    assert_eq!(list().await.unwrap_err().code(), Code::Unauthenticated);
    let failure = connection.vault().unwrap_err();
    assert!(failure.message.contains("token"), "{failure:?}");
}

#[tokio::test]
async fn the_short_form_of_an_account_needs_an_issuer_with_that_name() {
    let (pki, dir) = (Pki::new(), Arc::new(TempDir::new().unwrap()));
    let report = |issuers: Vec<String>| {
        let mut settings = vault_settings(&pki, &dir);
        settings.jwt.jwt_issuer = issuers;
        settings.roles.admin = vec![ADMIN.to_owned()];
        settings.check().err().unwrap().to_string()
    };
    let without = report(vec![format!("https://issuer.example={AUDIENCE}")]);
    assert!(
        without.contains("--admin") && without.contains("name=kubernetes"),
        "{without}"
    );
    let wrong = report(vec!["http://issuer.example=aud".to_owned(), "nothing".to_owned()]);
    assert!(wrong.matches("--jwt-issuer").count() >= 2, "{wrong}");
}

#[tokio::test]
async fn a_token_channel_reads_its_file_for_each_request() {
    let scene = Scene::start().await;
    let path = scene.token_file(&scene.token(ADMIN));
    let channel = ServiceChannel::new(scene.channel(), Some(path));
    let list = async || {
        let mut client = WorkspaceServiceClient::new(channel.clone());
        client.list_workspaces(ListWorkspacesRequest::default()).await
    };
    assert!(list().await.is_ok());
    scene.token_file(&scene.issuer.token(ADMIN, Duration::ZERO));
    unauthenticated(list().await);
    scene.token_file(&scene.token(ADMIN));
    assert!(list().await.is_ok());
}

#[tokio::test]
async fn an_injector_that_may_not_decrypt_names_the_role_that_its_service_account_needs() {
    let scene = Scene::start().await;
    scene.vault.workspace("dev").await;
    // The one has no role at all, and the other one has none in the workspace of its server.
    for (account, server, workspace) in [
        (STRANGER, "", "WORKSPACES"),
        (INJECTOR, "server dev/api: ", "dev"),
    ] {
        let path = scene.token_file(&scene.token(account));
        let injector = Injector::start_with(scene.pki.clone(), scene.vault.address, |settings| {
            (settings.vault_cert, settings.vault_key) = (None, None);
            settings.vault_token_file = Some(path);
            let entry =
                "{workspace: dev, name: api, url: 'https://api.example', injections: [{secret: TOKEN}]}";
            fs::write(
                settings.servers.as_ref().unwrap(),
                format!("version: 1\nservers: [{entry}]\n"),
            )
            .unwrap();
        })
        .await;
        let advice = format!("add {account}={workspace} to roles.injectors");
        eventually(&advice, async || {
            let answer = get(&format!("http://{}/startupz", injector.metrics)).await;
            let text = String::from_utf8(answer.body().to_vec()).unwrap();
            text.contains(server) && text.contains(&advice)
        })
        .await;
        injector.stop().await;
    }
}
