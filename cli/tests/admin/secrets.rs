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
        server: "probe".to_owned(),
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
async fn a_name_with_its_value_is_refused_and_the_right_form_is_named() {
    let pair = Pair::with_workspace().await;
    let set = ["workspace", "secret", "set", "w"];
    for args in [
        &["GITHUB_TOKEN=hunter2", "-"][..],
        &["A=hunter2"],
        &["A=1", "B=hunter2"],
        &["A=1", "--from-file", "B=hunter2"],
    ] {
        let ended = pair.aerostack_reading(&[&set[..], args].concat(), b"x").await;
        assert_eq!((ended.code, ended.out.as_str()), (64, ""), "{args:?}");
        assert!(!ended.err.contains("hunter2"), "{}", ended.err);
        assert!(ended.err.contains("set WORKSPACE NAME") && ended.err.contains("--from-env-file"));
    }
    let add = [
        "workspace",
        "server",
        "add",
        "w",
        "s",
        "--url",
        "https://a.example",
    ];
    let said = pair
        .fails(64, &[&add[..], &["--secrets", "A=hunter2"]].concat())
        .await;
    assert!(!said.contains("hunter2"), "{said}");
    let listed = pair.json(&["workspace", "secret", "list", "w"]).await;
    assert_eq!(listed["secrets"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_names_and_values_sets_many_secrets_or_none() {
    let pair = Pair::with_workspace().await;
    let set = ["workspace", "secret", "set", "w", "--from-env-file"];
    let text = "# tokens\nexport GITHUB_TOKEN=ghp_abc\nkey='two\nlines'\n";
    let only_to = ["--only-to", "https://a.example"];
    let args = [&set[..], &["-"], &only_to, &["--output", "json"]].concat();
    let ended = pair.aerostack_reading(&args, text.as_bytes()).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    let shown: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(shown["secrets"][1]["secret"]["name"], "KEY");
    let github = decrypted(&pair, "GITHUB_TOKEN").await;
    assert_eq!(
        (github.version, github.value.as_slice()),
        (1, b"ghp_abc".as_slice())
    );
    let key = decrypted(&pair, "KEY").await;
    assert_eq!(key.value, b"two\nlines");
    assert_eq!(key.upstream_origins, ["https://a.example"]);

    // One line that is not understood, and nothing is set.
    fs::write(pair.home().join("env"), "GITHUB_TOKEN=2\nhunter2\n").unwrap();
    let said = pair.fails(64, &[&set[..], &["env"]].concat()).await;
    assert!(
        said.contains("env: line 2") && !said.contains("hunter2"),
        "{said}"
    );
    assert_eq!(decrypted(&pair, "GITHUB_TOKEN").await.version, 1);
    pair.fails(64, &[&set[..], &["env", "--expected-version", "1"]].concat())
        .await;

    // The plan holds 10: what was set before is named.
    put_many(&pair, "w", 7).await;
    fs::write(pair.home().join("env"), "GITHUB_TOKEN=3\nNEW=1\nNEWER=1\nKEY=2\n").unwrap();
    let said = pair.fails(65, &[&set[..], &["env"]].concat()).await;
    assert!(
        said.contains("NEWER: ") && said.contains("set before: GITHUB_TOKEN, NEW"),
        "{said}"
    );
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

#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_is_shown_and_restored() {
    let pair = Pair::with_workspace().await;
    let secret = ["workspace", "secret"];
    for (value, more) in [
        ("1", &["--label", "team=a"][..]),
        ("2", &["--label", "team=b"]),
        ("3", &[]),
    ] {
        pair.ok(&[&secret[..], &["set", "w", "A", value], more].concat())
            .await;
    }
    let listed = pair.json(&[&secret[..], &["versions", "w", "a"]].concat()).await;
    let versions: Vec<_> = listed["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|version| (version["version"].as_u64(), version["labels"]["team"].as_str()))
        .collect();
    // The third kept the labels of the second.
    assert_eq!(
        versions,
        [(Some(3), Some("b")), (Some(2), Some("b")), (Some(1), Some("a"))]
    );
    let restore = [&secret[..], &["restore", "w", "a", "--version", "1"]].concat();
    pair.fails(75, &[&restore[..], &["--expected-version", "2"]].concat())
        .await;
    let restored = pair
        .json(&[&restore[..], &["--expected-version", "3"]].concat())
        .await;
    assert_eq!(restored["secret"]["version"], 4);
    let now = decrypted(&pair, "A").await;
    assert_eq!((now.version, now.value.as_slice()), (4, b"1".as_slice()));
    // It was kept out by the newest three.
    let said = pair.fails(66, &restore).await;
    assert!(said.contains("version 1"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expected_version_stops_what_is_based_on_another() {
    let pair = Pair::with_workspace().await;
    let set = ["workspace", "secret", "set", "w", "A", "1", "--expected-version"];
    pair.fails(75, &[&set[..], &["1"]].concat()).await;
    pair.ok(&[&set[..], &["0"]].concat()).await;
    pair.fails(75, &[&set[..], &["0"]].concat()).await;
    pair.ok(&[&set[..], &["1"]].concat()).await;
    let delete = ["workspace", "secret", "delete", "w", "A", "--expected-version"];
    pair.fails(75, &[&delete[..], &["1"]].concat()).await;
    pair.ok(&[&delete[..], &["2"]].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_set_with_an_end_shows_it_and_loses_it_when_it_is_set_without() {
    let pair = Pair::with_workspace().await;
    let set = ["workspace", "secret", "set", "w", "A", "1"];
    let put = pair
        .json(&[&set[..], &["--expires-at", "2099-01-31T00:00:00Z"]].concat())
        .await;
    assert_eq!(put["secret"]["expires_at"], "2099-01-31T00:00:00Z");
    let put = pair.json(&[&set[..], &["--expires-in", "90d"]].concat()).await;
    assert!(put["secret"]["expires_at"].is_string() && put["secret"]["expired"] == false);
    pair.ok(&[&set[..], &["--expires-at", "2099-01-31T00:00:00Z"]].concat())
        .await;
    let table = pair.ok(&["workspace", "secret", "list", "w"]).await.out;
    assert!(
        table.contains("EXPIRES") && table.contains("2099-01-31T00:00:00Z"),
        "{table}"
    );
    let ended = pair.ok(&set).await;
    assert!(ended.err.contains("does not expire any more"), "{}", ended.err);
    for (wrong, part) in [
        (
            ["--expires-in", "soon"],
            "--expires-in <DURATION>: a duration is a number and its unit",
        ),
        (["--expires-in", "90"], "90d for 90 days"),
        (["--expires-at", "tomorrow"], "--expires-at <TIME>: a time is"),
        (["--expires-at", "2020-01-01T00:00:00Z"], "expired already"),
        (["--label", "team"], "--label <KEY=VALUE>: a label is KEY=VALUE"),
        (["--label", "-=x"], "unexpected argument"),
        (["--expected-version", "x"], "--expected-version <VERSION>"),
        (["--output", "yaml"], "--output <FORMAT>"),
    ] {
        let said = pair.fails(64, &[&set[..], &wrong].concat()).await;
        assert!(said.contains(part), "{said}");
    }
    // By which server it was used last, and when, is shown, and that it never was.
    let listed = pair.json(&["workspace", "secret", "list", "w"]).await;
    assert!(listed["secrets"][0]["last_decrypt_time"].is_null());
    decrypted(&pair, "A").await;
    let listed = pair.json(&["workspace", "secret", "list", "w"]).await;
    assert_eq!(listed["secrets"][0]["decrypt_count"], 1);
    let table = pair.ok(&["workspace", "secret", "list", "w"]).await.out;
    assert!(
        table.contains("LAST USED") && table.contains("by probe"),
        "{table}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_fits_no_header_is_said_with_what_helps() {
    let pair = Pair::with_workspace().await;
    let set = ["workspace", "secret", "set", "w", "A", "-"];
    let file = b"{\n  \"key\": \"a b\"\n}\n";
    for (value, flags, stored) in [
        (b"token\n\n".as_slice(), "--trim", b"token".as_slice()),
        ("\u{feff}token \r\n".as_bytes(), "--trim", b"token"),
        (file, "--compact", b"{\"key\":\"a b\"}"),
    ] {
        let ended = pair.aerostack_reading(&set, value).await;
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert!(ended.err.contains("warning: the value of A "), "{}", ended.err);
        assert!(ended.err.contains(&format!("set with {flags}")), "{}", ended.err);
        let ended = pair
            .aerostack_reading(&[&set[..], &[flags]].concat(), value)
            .await;
        assert!(ended.code == 0 && !ended.err.contains("warning"), "{}", ended.err);
        assert_eq!(decrypted(&pair, "A").await.value, stored);
    }
    let pem = b"-----BEGIN-----\nMC4=\n-----END-----\n";
    let json = [&set[..], &["--output", "json"]].concat();
    let ended = pair.aerostack_reading(&json, pem).await;
    let shown: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(shown["warnings"][0]["kind"], "value_unfit");
    assert!(!ended.err.contains("set with"), "{}", ended.err);

    let add = [
        "workspace",
        "server",
        "add",
        "w",
        "s",
        "--url",
        "http://127.0.0.1:1",
    ];
    let ended = pair.ok(&[&add[..], &["--secrets", "A"]].concat()).await;
    assert!(ended.err.contains("several lines"), "{}", ended.err);
    let explained = pair.aerostack(&["explain", "w", "s"]).await;
    assert_eq!(explained.code, 1);
    assert!(
        explained.out.contains("A: the value has several lines"),
        "{}",
        explained.out
    );
    assert!(
        explained.out.contains("A call would be refused."),
        "{}",
        explained.out
    );
}
