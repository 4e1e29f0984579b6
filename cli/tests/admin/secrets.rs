//! `aerostack workspace secret …`

use std::fs;

use proto::vault::v1::{
    DecryptRequest, DecryptedSecret, PutSecretRequest, decrypt_service_client::DecryptServiceClient,
    put_secret_request::Value, secret_service_client::SecretServiceClient,
};
use tokio::task::JoinSet;

use crate::shell::Pair;

/// Puts `NAME_0` and so on, from one client.
pub(crate) async fn put_many(pair: &Pair, workspace: &str, count: usize) {
    let client = SecretServiceClient::new(pair.dev.admin());
    let mut puts = JoinSet::new();
    for number in 0..count {
        let mut client = client.clone();
        let request = PutSecretRequest {
            workspace: workspace.to_owned(),
            name: format!("NAME_{number}"),
            value: Some(Value::Text("x".to_owned())),
            ..Default::default()
        };
        puts.spawn(async move { client.put_secret(request).await });
    }
    while let Some(put) = puts.join_next().await {
        put.unwrap().unwrap();
    }
}

/// What the vault gives an injector.
async fn decrypted(pair: &Pair, name: &str) -> DecryptedSecret {
    let request = DecryptRequest {
        workspace: "w".to_owned(),
        names: vec![name.to_owned()],
        ..Default::default()
    };
    let mut client = DecryptServiceClient::new(pair.dev.injector());
    client
        .decrypt(request)
        .await
        .unwrap()
        .into_inner()
        .secrets
        .remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_arrives_as_it_is_but_for_one_final_newline() {
    let pair = Pair::with_workspace().await;
    let set = ["workspace", "secret", "set", "w", "A"];
    for (given, arrives) in [
        (b"plain\n".as_slice(), b"plain".as_slice()),
        (b"two\n\n", b"two\n"),
        (b" spaces \r\n", b" spaces "),
        (b"\xff\x00 no text\n", b"\xff\x00 no text"),
    ] {
        let ended = pair.aerostack_reading(&[&set[..], &["-"]].concat(), given).await;
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert_eq!(decrypted(&pair, "A").await.value, arrives);

        fs::write(pair.home().join("value"), given).unwrap();
        pair.ok(&[&set[..], &["--from-file", "value"]].concat()).await;
        assert_eq!(decrypted(&pair, "A").await.value, arrives);
    }
    // Of an argument nothing is dropped.
    pair.ok(&[&set[..], &["x\n"]].concat()).await;
    assert_eq!(decrypted(&pair, "A").await.value, b"x\n");
    assert_eq!(decrypted(&pair, "A").await.version, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_may_begin_with_a_hyphen() {
    let pair = Pair::with_workspace().await;
    let key = "-----BEGIN PRIVATE KEY-----\nMC4\n-----END PRIVATE KEY-----\n";
    let only_to = ["--only-to", "https://a.example"];
    let set = ["workspace", "secret", "set", "w", "KEY", key];
    pair.ok(&[&set[..], &only_to].concat()).await;
    let decrypted = decrypted(&pair, "KEY").await;
    assert_eq!(decrypted.value, key.as_bytes());
    assert_eq!(decrypted.upstream_origins, ["https://a.example"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_repeats_a_value() {
    let pair = Pair::with_workspace().await;
    let value = "hunter2-hunter2";
    let long = value.repeat(5000);
    let set = ["workspace", "secret", "set"];
    for (code, args) in [
        (0, vec!["w", "A", value]),
        (0, vec!["w", "A", value, "--output", "json"]),
        // Quotes were forgotten: clap would say which word it did not expect.
        (64, vec!["w", "A", "first", value]),
        (64, vec!["w", "A", "first", "--no-such-flag", value]),
        (64, vec!["w", "A", "--output", value, "x"]),
        (64, vec!["w", "!!!", value]),
        (64, vec!["w", "A", &long]),
        (66, vec!["nosuch", "A", value]),
        (64, vec!["w", "A", value, "--only-to", "ftp://x"]),
        (69, vec!["w", "A", value, "--vault", "127.0.0.1:1"]),
    ] {
        let ended = pair.aerostack(&[&set[..], &args].concat()).await;
        assert_eq!(ended.code, code, "{}", ended.err);
        for said in [&ended.out, &ended.err] {
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_on_the_command_line_is_still_named() {
    let pair = Pair::start().await;
    let said = pair.fails(64, &["workspace", "secret", "set", "w"]).await;
    assert!(said.contains("<NAME>"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_replaced_stays_bound_unless_it_is_set_free() {
    let pair = Pair::with_workspace().await;
    let set = async |more: &[&str]| {
        let args = [&["workspace", "secret", "set", "w", "A", "1"], more].concat();
        let origins = pair.json(&args).await["secret"]["upstream_origins"].clone();
        origins.as_array().unwrap().len()
    };
    assert_eq!(
        set(&["--only-to", "https://a.example,https://b.example"]).await,
        2
    );
    assert_eq!(set(&[]).await, 2);
    assert_eq!(set(&["--only-to", "https://c.example"]).await, 1);
    assert_eq!(set(&["--anywhere"]).await, 0);
    assert_eq!(set(&[]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_value_and_without_a_terminal_nothing_is_set() {
    let pair = Pair::with_workspace().await;
    let said = pair.fails(64, &["workspace", "secret", "set", "w", "A"]).await;
    assert!(said.contains("--from-file"), "{said}");
    let said = pair
        .fails(64, &["workspace", "secret", "set", "w", "A", ""])
        .await;
    assert!(said.contains("empty"), "{said}");
    let said = pair
        .fails(
            74,
            &["workspace", "secret", "set", "w", "A", "--from-file", "nosuch"],
        )
        .await;
    assert!(said.contains("nosuch"), "{said}");
    pair.fails(66, &["workspace", "secret", "delete", "w", "A"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_used_up_is_told_from_other_refusals() {
    let pair = Pair::with_workspace().await;
    put_many(&pair, "w", 10).await;
    let said = pair
        .fails(65, &["workspace", "secret", "set", "w", "A", "1"])
        .await;
    assert!(said.contains("--plan"), "{said}");
    pair.ok(&["workspace", "secret", "set", "w", "name-3", "1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_deleted_also_when_nobody_knows_who_uses_it() {
    let pair = Pair::with_workspace().await;
    for name in ["A", "B"] {
        pair.ok(&["workspace", "secret", "set", "w", name, "1"]).await;
    }
    let url = ["--url", "http://127.0.0.1:1"];
    let add = ["workspace", "server", "add", "w"];
    pair.ok(&[&add[..], &["uses", "--secrets", "a,b"], &url].concat())
        .await;
    pair.ok(&[&add[..], &["does-not", "--secrets", "b"], &url].concat())
        .await;

    let deleted = pair.json(&["workspace", "secret", "delete", "w", "a"]).await;
    assert_eq!(
        deleted,
        serde_json::json!({"workspace": "w", "name": "A", "used_by": ["uses"]})
    );
    let delete = [
        "workspace",
        "secret",
        "delete",
        "w",
        "b",
        "--injector",
        "127.0.0.1:1",
    ];
    let ended = pair.ok(&delete).await;
    assert_eq!(ended.out, "B deleted\n");
    assert!(ended.err.contains("not known"), "{}", ended.err);
    pair.fails(66, &delete).await;
    // The servers are as they were.
    let server = pair.json(&["workspace", "server", "show", "w", "uses"]).await;
    assert_eq!(server["inject_secrets"], serde_json::json!(["A", "B"]));
}
