//! Tests of the names of workspaces and secrets.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn names_of_workspaces_must_be_lower_case_dns_labels() {
    let vault = Vault::start().await;
    let long = "x".repeat(64);
    let huge = "x".repeat(60 * 1024);
    let names = [
        "",
        "A",
        "My-Workspace",
        "-a",
        "a-",
        "a_b",
        "a.b",
        ".",
        "..",
        "/",
        "a/b",
        "a\0",
        "a\0b",
        "a\r\nb",
        "%2e",
        "%2e%2e",
        "a\u{202e}b",
        "caf\u{e9}",
        "cafe\u{301}",
        "🔑",
        " a",
        "a ",
        "a b",
        "*",
        &long,
        &huge,
    ];
    for name in names {
        let (mut workspaces, mut secrets, mut decrypts) =
            (vault.workspaces(), vault.secrets(), vault.decrypts());
        let owned = || name.to_owned();
        let plan = Workspace {
            name: owned(),
            plan: Plan::Free.into(),
            ..Default::default()
        };
        let answers = [
            workspaces
                .create_workspace(create(name, Plan::Free))
                .await
                .map(drop),
            workspaces
                .get_workspace(GetWorkspaceRequest { name: owned() })
                .await
                .map(drop),
            workspaces
                .update_workspace(update(plan, &["plan"]))
                .await
                .map(drop),
            workspaces.delete_workspace(delete(name, true)).await.map(drop),
            secrets.put_secret(named(name, "NAME")).await.map(drop),
            secrets
                .list_secrets(ListSecretsRequest {
                    workspace: owned(),
                    ..Default::default()
                })
                .await
                .map(drop),
            secrets
                .get_secret_metadata(GetSecretMetadataRequest {
                    workspace: owned(),
                    name: "NAME".into(),
                })
                .await
                .map(drop),
            secrets
                .delete_secret(DeleteSecretRequest {
                    workspace: owned(),
                    name: "NAME".into(),
                    ..Default::default()
                })
                .await
                .map(drop),
            decrypts.decrypt(ask(name, ["NAME"])).await.map(drop),
        ];
        for answer in answers {
            let status = refused(answer, Code::InvalidArgument, "WORKSPACE_NAME_INVALID");
            assert!(
                status.message().len() < 400,
                "the name is echoed: {} bytes",
                status.message().len()
            );
        }
    }
    let request = ListWorkspacesRequest::default();
    assert!(
        vault
            .workspaces()
            .list_workspaces(request)
            .await
            .unwrap()
            .into_inner()
            .workspaces
            .is_empty()
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_spelling_of_a_secrets_name_is_the_same_secret() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    for (spellings, name) in [
        (["github-token", "GitHub.Token", "GITHUB_TOKEN"], "GITHUB_TOKEN"),
        (["my.api.key", "my api key", "MY/API/KEY"], "MY_API_KEY"),
        (["SlackWebhook", "slackwebhook", "SLACKWEBHOOK"], "SLACKWEBHOOK"),
        (["../a", "..\\A", "___a"], "___A"),
        (["%2e", "_2E", "\u{202e}2e"], "_2E"),
        (["a\0b", "a\nb", "A🔑B"], "A_B"),
        (["a\r\nb", "a\u{65e5}\u{672c}b", "A__B"], "A__B"),
    ] {
        let put_as = |version| format!("{name} {version}");
        for (version, spelling) in spellings.iter().enumerate() {
            let answer = try_put(&vault, put("w", spelling, put_as(version)))
                .await
                .unwrap();
            let secret = answer.secret.unwrap();
            assert_eq!(
                (secret.name.as_str(), secret.version),
                (name, version as u64 + 1),
                "{spelling:?}"
            );
            assert_eq!(answer.created, version == 0, "{spelling:?}");
        }
        for spelling in spellings {
            let request = GetSecretMetadataRequest {
                workspace: "w".into(),
                name: spelling.to_owned(),
            };
            let secret = vault
                .secrets()
                .get_secret_metadata(request)
                .await
                .unwrap()
                .into_inner()
                .secret
                .unwrap();
            assert_eq!((secret.name.as_str(), secret.version), (name, 3), "{spelling:?}");
            let secret = decrypt_one(&vault, "w", spelling).await;
            assert_eq!(
                (secret.name.as_str(), secret.value),
                (name, put_as(2).into_bytes()),
                "{spelling:?}"
            );
        }
        vault.delete("w", spellings[0]).await;
        assert_eq!(
            decrypt_one(&vault, "w", spellings[1]).await.status(),
            DecryptStatus::NotFound
        );
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn composed_and_decomposed_letters_are_different_names() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    vault.put("w", "caf\u{e9}", "composed").await;
    vault.put("w", "cafe\u{301}", "decomposed").await;
    let answer = decrypt(&vault, ask("w", ["caf\u{e9}", "cafe\u{301}"]))
        .await
        .unwrap();
    let found: Vec<_> = answer
        .secrets
        .iter()
        .map(|secret| (secret.name.as_str(), secret.value.as_slice()))
        .collect();
    assert_eq!(
        found,
        [
            ("CAF_", b"composed".as_slice()),
            ("CAFE_", b"decomposed".as_slice())
        ]
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_names_that_are_empty_or_too_long_are_refused() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    let long = "x".repeat(129);
    let wide = "\u{e9}x".repeat(65);
    let huge = "x".repeat(60 * 1024);
    for name in [
        "",
        "..",
        "/",
        "___",
        "-",
        "\0",
        "\r\n",
        "🔑",
        "\u{202e}",
        "\u{e9}",
        &long,
        &wide,
        &huge,
        // A name with a `=` probably contains a value, which lists would show.
        "GITHUB_TOKEN=ghp_abc",
        "GITHUB_TOKEN=",
    ] {
        let (mut secrets, mut decrypts) = (vault.secrets(), vault.decrypts());
        let (workspace, name) = ("w".to_owned(), name.to_owned());
        let answers = [
            secrets.put_secret(named("w", &name)).await.map(drop),
            decrypts.decrypt(ask("w", ["FINE", &name])).await.map(drop),
            secrets
                .get_secret_metadata(GetSecretMetadataRequest {
                    workspace: workspace.clone(),
                    name: name.clone(),
                })
                .await
                .map(drop),
            secrets
                .delete_secret(DeleteSecretRequest {
                    workspace,
                    name,
                    ..Default::default()
                })
                .await
                .map(drop),
        ];
        for answer in answers {
            let refused = refused(answer, Code::InvalidArgument, "SECRET_NAME_INVALID");
            assert!(!refused.message().contains("ghp_abc"), "{refused}");
        }
    }
    assert_eq!(vault.put("w", &"x".repeat(128), "v").await.name, "X".repeat(128));
    assert_eq!(
        vault.put("w", &"\u{e9}x".repeat(64), "v").await.name,
        "_X".repeat(64)
    );
    assert_eq!(list(&vault, "w", 0, "").await.unwrap().secrets.len(), 2);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_is_refused_and_other_requests_are_served() {
    let vault = Vault::start().await;
    vault.workspace("w").await;
    let huge = "x".repeat(MIB);
    let answers = [
        vault
            .workspaces()
            .create_workspace(create(&huge, Plan::Free))
            .await
            .map(drop),
        vault.secrets().put_secret(named("w", &huge)).await.map(drop),
        vault
            .secrets()
            .put_secret(put("w", "NAME", huge.as_bytes()))
            .await
            .map(drop),
        vault.decrypts().decrypt(ask("w", [&huge])).await.map(drop),
    ];
    for answer in answers {
        let status = refused(answer, Code::ResourceExhausted, "LIMIT_EXCEEDED");
        assert!(!status.message().contains("xxx"), "{}", status.message());
    }
    vault.put("w", "NAME", "v").await;
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_decode_is_refused_as_malformed() {
    let vault = Vault::start().await;
    let channel = vault.channel(pki::ADMIN);
    let whole = put("w", "NAME", "canary").encode_to_vec();
    // Field 3 is a string, and its bytes are not UTF-8.
    let not_text = b"\x0a\x01w\x12\x01N\x1a\x07canary\xff";
    for bytes in [
        &whole[..whole.len() - 3],
        &not_text[..],
        &[0xff; 40],
        &[0x0b; 4096],
    ] {
        let answer = wire::open(
            &channel,
            "/vault.v1.SecretService/PutSecret",
            Bytes::copy_from_slice(bytes),
        )
        .await;
        let status = refused(answer.map(drop), Code::InvalidArgument, "REQUEST_MALFORMED");
        assert!(!format!("{status:?}").contains("canary"), "{status:?}");
    }
    vault.workspace("w").await;
    vault.stop().await;
}
