//! `aerostack workspace secret …`

use std::fs;

use proto::vault::v1::{
    DecryptRequest, DecryptedSecret, PutSecretRequest, decrypt_service_client::DecryptServiceClient,
    put_secret_request::Value, secret_service_client::SecretServiceClient,
};
use tokio::task::JoinSet;

use crate::{shell::TestServices, terminal::Terminal};

/// Puts the secrets `NAME_0`, `NAME_1` and so on from one client, because a process for each would take minutes.
pub(crate) async fn put_many(services: &TestServices, workspace: &str, count: usize) {
    let client = SecretServiceClient::new(services.dev.admin());
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

/// Decrypts a secret as the injector.
async fn decrypt(services: &TestServices, name: &str) -> DecryptedSecret {
    let request = DecryptRequest {
        workspace: "w".to_owned(),
        names: vec![name.to_owned()],
        server: "probe".to_owned(),
        ..Default::default()
    };
    let mut client = DecryptServiceClient::new(services.dev.injector());
    client
        .decrypt(request)
        .await
        .unwrap()
        .into_inner()
        .secrets
        .remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_stored_unchanged_except_for_one_final_newline() {
    let services = TestServices::with_workspace().await;
    let set = ["workspace", "secret", "set", "w", "A"];
    for (given, arrives) in [
        (b"plain\n".as_slice(), b"plain".as_slice()),
        (b"two\n\n", b"two\n"),
        (b" spaces \r\n", b" spaces "),
        (b"\xff\x00 no text\n", b"\xff\x00 no text"),
    ] {
        let output = services
            .aerostack_with_input(&[&set[..], &["-"]].concat(), given)
            .await;
        assert_eq!(output.code, 0, "{}", output.err);
        assert_eq!(decrypt(&services, "A").await.value, arrives);

        fs::write(services.home().join("value"), given).unwrap();
        services.ok(&[&set[..], &["--from-file", "value"]].concat()).await;
        assert_eq!(decrypt(&services, "A").await.value, arrives);
    }
    // An argument keeps its final newline.
    services.ok(&[&set[..], &["x\n"]].concat()).await;
    assert_eq!(decrypt(&services, "A").await.value, b"x\n");
    assert_eq!(decrypt(&services, "A").await.version, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_may_begin_with_a_hyphen() {
    let services = TestServices::with_workspace().await;
    let key = "-----BEGIN PRIVATE KEY-----\nMC4\n-----END PRIVATE KEY-----\n";
    let only_to = ["--only-to", "https://a.example"];
    let set = ["workspace", "secret", "set", "w", "KEY", key];
    services.ok(&[&set[..], &only_to].concat()).await;
    let decrypted = decrypt(&services, "KEY").await;
    assert_eq!(decrypted.value, key.as_bytes());
    assert_eq!(decrypted.upstream_origins, ["https://a.example"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_repeats_a_value() {
    let services = TestServices::with_workspace().await;
    let value = "hunter2-hunter2";
    let long = value.repeat(5000);
    let set = ["workspace", "secret", "set"];
    for (code, args) in [
        (0, vec!["w", "A", value]),
        (0, vec!["w", "A", value, "--output", "json"]),
        // Without quotes around the value, clap's own message would quote the word that it did not expect.
        (64, vec!["w", "A", "first", value]),
        (64, vec!["w", "A", "first", "--no-such-flag", value]),
        (64, vec!["w", "A", "--output", value, "x"]),
        (64, vec!["w", "!!!", value]),
        (64, vec!["w", "A", &long]),
        (66, vec!["nosuch", "A", value]),
        (64, vec!["w", "A", value, "--only-to", "ftp://x"]),
        (69, vec!["w", "A", value, "--vault", "127.0.0.1:1"]),
    ] {
        let output = services.aerostack(&[&set[..], &args].concat()).await;
        assert_eq!(output.code, code, "{}", output.err);
        for message in [&output.out, &output.err] {
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_its_value_is_refused_and_the_right_form_is_named() {
    let services = TestServices::with_workspace().await;
    let set = ["workspace", "secret", "set", "w"];
    for args in [
        &["GITHUB_TOKEN=hunter2", "-"][..],
        &["A=hunter2"],
        &["A=1", "B=hunter2"],
        &["A=1", "--from-file", "B=hunter2"],
    ] {
        let output = services
            .aerostack_with_input(&[&set[..], args].concat(), b"x")
            .await;
        assert_eq!((output.code, output.out.as_str()), (64, ""), "{args:?}");
        assert!(!output.err.contains("hunter2"), "{}", output.err);
        assert!(output.err.contains("set WORKSPACE NAME") && output.err.contains("--from-env-file"));
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
    let message = services
        .fails(64, &[&add[..], &["--secrets", "A=hunter2"]].concat())
        .await;
    assert!(!message.contains("hunter2"), "{message}");
    let listed = services.json(&["workspace", "secret", "list", "w"]).await;
    assert_eq!(listed["secrets"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_names_and_values_sets_many_secrets_or_none() {
    let services = TestServices::with_workspace().await;
    let set = ["workspace", "secret", "set", "w", "--from-env-file"];
    let text = "# tokens\nexport GITHUB_TOKEN=ghp_abc\nkey='two\nlines'\n";
    let only_to = ["--only-to", "https://a.example"];
    let args = [&set[..], &["-"], &only_to, &["--output", "json"]].concat();
    let output = services.aerostack_with_input(&args, text.as_bytes()).await;
    assert_eq!(output.code, 0, "{}", output.err);
    let shown: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(shown["secrets"][1]["secret"]["name"], "KEY");
    let github = decrypt(&services, "GITHUB_TOKEN").await;
    assert_eq!(
        (github.version, github.value.as_slice()),
        (1, b"ghp_abc".as_slice())
    );
    let key = decrypt(&services, "KEY").await;
    assert_eq!(key.value, b"two\nlines");
    assert_eq!(key.upstream_origins, ["https://a.example"]);

    // A reference to a variable is told, without the value.
    fs::write(
        services.home().join("env"),
        "LITERAL=x\nREFERENCE=${HOME}/hunter2\n",
    )
    .unwrap();
    let told = services.ok(&[&set[..], &["env"]].concat()).await.err;
    assert!(
        told.contains("REFERENCE in line 2: `$` in the value is stored as it is"),
        "{told}"
    );
    assert!(
        !told.contains("hunter2") && !told.contains("LITERAL in line"),
        "{told}"
    );

    // A file with an invalid line sets no secret.
    fs::write(services.home().join("env"), "GITHUB_TOKEN=2\nhunter2\n").unwrap();
    let message = services.fails(64, &[&set[..], &["env"]].concat()).await;
    assert!(
        message.contains("env: line 2") && !message.contains("hunter2"),
        "{message}"
    );
    assert_eq!(decrypt(&services, "GITHUB_TOKEN").await.version, 1);
    services
        .fails(64, &[&set[..], &["env", "--expected-version", "1"]].concat())
        .await;

    // The plan permits 10 secrets. The message names the secrets that were set before the limit was reached.
    put_many(&services, "w", 5).await;
    fs::write(
        services.home().join("env"),
        "GITHUB_TOKEN=3\nNEW=1\nNEWER=1\nKEY=2\n",
    )
    .unwrap();
    let message = services.fails(65, &[&set[..], &["env"]].concat()).await;
    assert!(
        message.contains("NEWER: ") && message.contains("set before: GITHUB_TOKEN, NEW"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_argument_is_named() {
    let services = TestServices::start().await;
    let message = services.fails(64, &["workspace", "secret", "set", "w"]).await;
    assert!(message.contains("<NAME>"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_secret_keeps_its_origins_unless_a_flag_changes_them() {
    let services = TestServices::with_workspace().await;
    let set = async |more: &[&str]| {
        let args = [&["workspace", "secret", "set", "w", "A", "1"], more].concat();
        let origins = services.json(&args).await["secret"]["upstream_origins"].clone();
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
    let services = TestServices::with_workspace().await;
    let message = services
        .fails(64, &["workspace", "secret", "set", "w", "A"])
        .await;
    assert!(message.contains("--from-file"), "{message}");
    let message = services
        .fails(64, &["workspace", "secret", "set", "w", "A", ""])
        .await;
    assert!(message.contains("empty"), "{message}");
    let message = services
        .fails(
            74,
            &["workspace", "secret", "set", "w", "A", "--from-file", "nosuch"],
        )
        .await;
    assert!(message.contains("nosuch"), "{message}");
    services
        .fails(66, &["workspace", "secret", "delete", "w", "A"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_plan_is_reported_with_a_hint() {
    let services = TestServices::with_workspace().await;
    put_many(&services, "w", 10).await;
    let message = services
        .fails(65, &["workspace", "secret", "set", "w", "A", "1"])
        .await;
    assert!(message.contains("--plan"), "{message}");
    services
        .ok(&["workspace", "secret", "set", "w", "name-3", "1"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_deleted_also_when_the_injector_cannot_be_asked() {
    let services = TestServices::with_workspace().await;
    for name in ["A", "B"] {
        services.ok(&["workspace", "secret", "set", "w", name, "1"]).await;
    }
    let url = ["--url", "http://127.0.0.1:1"];
    let add = ["workspace", "server", "add", "w"];
    services
        .ok(&[&add[..], &["uses", "--secrets", "a,b"], &url].concat())
        .await;
    services
        .ok(&[&add[..], &["does-not", "--secrets", "b"], &url].concat())
        .await;

    let deleted = services.json(&["workspace", "secret", "delete", "w", "a"]).await;
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
    let output = services.ok(&delete).await;
    assert_eq!(output.out, "B deleted\n");
    assert!(output.err.contains("not known"), "{}", output.err);
    services.fails(66, &delete).await;
    // The servers are unchanged.
    let server = services.json(&["workspace", "server", "show", "w", "uses"]).await;
    assert_eq!(server["inject_secrets"], serde_json::json!(["A", "B"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_is_shown_and_restored() {
    let services = TestServices::with_workspace().await;
    let secret = ["workspace", "secret"];
    for (value, more) in [
        ("1", &["--label", "team=a"][..]),
        ("2", &["--label", "team=b"]),
        ("3", &[]),
    ] {
        services
            .ok(&[&secret[..], &["set", "w", "A", value], more].concat())
            .await;
    }
    let listed = services
        .json(&[&secret[..], &["versions", "w", "a"]].concat())
        .await;
    let versions: Vec<_> = listed["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|version| (version["version"].as_u64(), version["labels"]["team"].as_str()))
        .collect();
    // The third version has the labels of the second.
    assert_eq!(
        versions,
        [(Some(3), Some("b")), (Some(2), Some("b")), (Some(1), Some("a"))]
    );
    let restore = [&secret[..], &["restore", "w", "a", "--version", "1"]].concat();
    services
        .fails(75, &[&restore[..], &["--expected-version", "2"]].concat())
        .await;
    let restored = services
        .json(&[&restore[..], &["--expected-version", "3"]].concat())
        .await;
    assert_eq!(restored["secret"]["version"], 4);
    let now = decrypt(&services, "A").await;
    assert_eq!((now.version, now.value.as_slice()), (4, b"1".as_slice()));
    assert_eq!(restored["warnings"], serde_json::json!([]));
    // Only the newest three versions are kept.
    let message = services.fails(66, &restore).await;
    assert!(message.contains("version 1"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_with_another_expected_version_is_refused() {
    let services = TestServices::with_workspace().await;
    let set = ["workspace", "secret", "set", "w", "A", "1", "--expected-version"];
    services.fails(75, &[&set[..], &["1"]].concat()).await;
    services.ok(&[&set[..], &["0"]].concat()).await;
    services.fails(75, &[&set[..], &["0"]].concat()).await;
    services.ok(&[&set[..], &["1"]].concat()).await;
    let delete = ["workspace", "secret", "delete", "w", "A", "--expected-version"];
    services.fails(75, &[&delete[..], &["1"]].concat()).await;
    services.ok(&[&delete[..], &["2"]].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_is_shown_and_removed_when_the_secret_is_set_without_one() {
    let services = TestServices::with_workspace().await;
    let set = ["workspace", "secret", "set", "w", "A", "1"];
    let put = services
        .json(&[&set[..], &["--expires-at", "2099-01-31T00:00:00Z"]].concat())
        .await;
    assert_eq!(put["secret"]["expires_at"], "2099-01-31T00:00:00Z");
    let put = services
        .json(&[&set[..], &["--expires-in", "90d"]].concat())
        .await;
    assert!(put["secret"]["expires_at"].is_string() && put["secret"]["expired"] == false);
    services
        .ok(&[&set[..], &["--expires-at", "2099-01-31T00:00:00Z"]].concat())
        .await;
    let table = services.ok(&["workspace", "secret", "list", "w"]).await.out;
    assert!(
        table.contains("EXPIRES") && table.contains("2099-01-31T00:00:00Z"),
        "{table}"
    );
    let output = services.ok(&set).await;
    assert!(output.err.contains("does not expire any more"), "{}", output.err);
    for (wrong, part) in [
        (
            ["--expires-in", "soon"],
            "--expires-in <DURATION>: write a number and its unit",
        ),
        (["--expires-in", "90"], "90d for 90 days"),
        (["--expires-at", "tomorrow"], "--expires-at <TIME>: write a date"),
        (["--expires-at", "2020-01-01T00:00:00Z"], "expired already"),
        (["--label", "team"], "--label <KEY=VALUE>: a label is KEY=VALUE"),
        (["--label", "-=x"], "unexpected argument"),
        (["--expected-version", "x"], "--expected-version <VERSION>"),
        (["--output", "yaml"], "--output <FORMAT>"),
    ] {
        let message = services.fails(64, &[&set[..], &wrong].concat()).await;
        assert!(message.contains(part), "{message}");
    }
    // The time of the last use and its server are shown, and are absent before the first use.
    let listed = services.json(&["workspace", "secret", "list", "w"]).await;
    assert!(listed["secrets"][0]["last_decrypt_time"].is_null());
    decrypt(&services, "A").await;
    let listed = services.json(&["workspace", "secret", "list", "w"]).await;
    assert_eq!(listed["secrets"][0]["decrypt_count"], 1);
    let table = services.ok(&["workspace", "secret", "list", "w"]).await.out;
    assert!(
        table.contains("LAST USED") && table.contains("by probe"),
        "{table}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_fits_no_header_is_reported_with_the_flags_that_help() {
    let services = TestServices::with_workspace().await;
    let set = ["workspace", "secret", "set", "w", "A", "-"];
    let file = b"{\n  \"key\": \"a b\"\n}\n";
    for (value, flags, stored) in [
        (b"token\n\n".as_slice(), "--trim", b"token".as_slice()),
        ("\u{feff}token \r\n".as_bytes(), "--trim", b"token"),
        (file, "--compact", b"{\"key\":\"a b\"}"),
    ] {
        let output = services.aerostack_with_input(&set, value).await;
        assert_eq!(output.code, 0, "{}", output.err);
        assert!(output.err.contains("warning: the value of A "), "{}", output.err);
        assert!(
            output.err.contains(&format!("set with {flags}")),
            "{}",
            output.err
        );
        let output = services
            .aerostack_with_input(&[&set[..], &[flags]].concat(), value)
            .await;
        assert!(
            output.code == 0 && !output.err.contains("warning"),
            "{}",
            output.err
        );
        assert_eq!(decrypt(&services, "A").await.value, stored);
    }
    let pem = b"-----BEGIN-----\nMC4=\n-----END-----\n";
    let json = [&set[..], &["--output", "json"]].concat();
    let output = services.aerostack_with_input(&json, pem).await;
    let shown: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(shown["warnings"][0]["kind"], "value_unfit");
    assert!(!output.err.contains("set with"), "{}", output.err);

    let add = [
        "workspace",
        "server",
        "add",
        "w",
        "s",
        "--url",
        "http://127.0.0.1:1",
    ];
    let output = services.ok(&[&add[..], &["--secrets", "A"]].concat()).await;
    assert!(output.err.contains("several lines"), "{}", output.err);
    let explained = services.aerostack(&["explain", "w", "s"]).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_confirmed_at_a_terminal_only() {
    let services = TestServices::with_workspace().await;
    let secrets = async || services.ok(&["workspace", "secret", "list", "w"]).await.out;
    for name in ["A", "B", "C"] {
        services.ok(&["workspace", "secret", "set", "w", name, "x"]).await;
    }
    for (answer, code) in [("", 1), ("n", 1), ("y", 0)] {
        let mut question = Terminal::run(&services, "aerostack workspace secret delete w A");
        question.read_until("Delete A of w with all its versions? [y/N] ");
        assert!(secrets().await.contains("\nA "));
        let (ended_with, printed) = question.answer(answer);
        assert_eq!(ended_with, code, "{printed}");
        assert!(printed.contains("No server gets it."), "{printed}");
    }
    assert!(!secrets().await.contains("\nA "));
    let mut told = Terminal::run(&services, "aerostack workspace secret delete w B --yes");
    told.read_until("B deleted");
    assert_eq!(told.answer("").0, 0);
    // Scripts rely on a deletion without a question.
    services.ok(&["workspace", "secret", "delete", "w", "C"]).await;
    assert!(!secrets().await.contains("\nB ") && !secrets().await.contains("\nC "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_names_the_servers_that_get_the_secret_as_a_client_certificate() {
    let services = TestServices::with_workspace().await;
    services
        .ok(&["workspace", "secret", "set", "w", "CERT", "x"])
        .await;
    let url = ["--url", "https://a.example", "--tls-client-cert-secret", "CERT"];
    services
        .ok(&[&["workspace", "server", "add", "w", "api"][..], &url].concat())
        .await;
    let deleted = services.ok(&["workspace", "secret", "delete", "w", "CERT"]).await;
    assert!(deleted.err.contains("no longer get it: api"), "{}", deleted.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_wants_to_read_a_value_learns_that_nothing_does() {
    let services = TestServices::with_workspace().await;
    let message = services
        .fails(64, &["workspace", "secret", "get", "w", "A"])
        .await;
    assert!(
        message.contains("no command reads the value") && message.contains("secret versions w A"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_too_long_is_refused_with_the_limit() {
    let services = TestServices::with_workspace().await;
    let set = ["workspace", "secret", "set", "w", "A", "-"];
    let output = services.aerostack_with_input(&set, &[b'x'; 70_000]).await;
    assert_eq!(output.code, 64, "{}", output.err);
    assert!(
        output.err.contains("the value of A has more than 65536 bytes"),
        "{}",
        output.err
    );
    let output = services.aerostack_with_input(&set, &[b'x'; 65_536]).await;
    assert_eq!(output.code, 0, "{}", output.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pasted_token_is_no_name_of_a_secret() {
    let services = TestServices::with_workspace().await;
    let token = "ghp_aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5";
    let url = "https://api.example.com";
    for command in [
        &["workspace", "secret", "set", "w", token, "x"][..],
        &[
            "workspace",
            "server",
            "add",
            "w",
            "api",
            "--url",
            url,
            "--secrets",
            token,
        ],
    ] {
        let output = services.aerostack(command).await;
        assert_eq!(output.code, 64, "{}", output.err);
        assert!(output.err.contains("looks like a credential"), "{}", output.err);
        for text in [token, &token.to_uppercase()] {
            assert!(
                !output.err.contains(text) && !output.out.contains(text),
                "{}",
                output.err
            );
        }
    }
}
