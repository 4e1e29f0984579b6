//! `aerostack workspace secret import`

use std::{fs, process::Stdio};

use proto::vault::v1::{DecryptRequest, DecryptedSecret, decrypt_service_client::DecryptServiceClient};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::{
    secrets::put_many,
    shell::{TestServices, clean_command},
    support::text,
};

const IMPORT: [&str; 4] = ["workspace", "secret", "import", "w"];

/// Decrypts secrets as the injector.
async fn decrypt(services: &TestServices, names: &[&str]) -> Vec<DecryptedSecret> {
    let request = DecryptRequest {
        workspace: "w".to_owned(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    let mut client = DecryptServiceClient::new(services.dev.injector());
    client.decrypt(request).await.unwrap().into_inner().secrets
}

fn write(services: &TestServices, text: impl AsRef<[u8]>) {
    fs::write(services.home().join("file"), text).unwrap();
}

async fn stored(services: &TestServices) -> usize {
    let listed = services.json(&["workspace", "secret", "list", "w"]).await;
    listed["secrets"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_import_says_what_it_has_set() {
    let services = TestServices::start().await;
    services
        .ok(&["workspace", "create", "w", "--plan", "enterprise"])
        .await;
    let count = 5000;
    write(
        &services,
        (0..count)
            .map(|number| format!("N{number}=x\n"))
            .collect::<String>(),
    );
    let mut import = clean_command(env!("CARGO_BIN_EXE_aerostack"), services.home());
    import.args(IMPORT).args(["file", "--yes"]).stderr(Stdio::piped());
    let import = import.spawn().unwrap();
    while stored(&services).await == 0 {}
    kill_process(Pid::from_child(&import), Signal::INT).unwrap();
    let ended = tokio::task::spawn_blocking(move || import.wait_with_output()).await;
    let ended = ended.unwrap().unwrap();
    let message = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(130), "{message}");
    let set = stored(&services).await;
    assert!((1..count).contains(&set), "{set}");
    let expected = format!("error: interrupted: {set} set, {} not tried", count - set);
    assert!(message.contains(&expected), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_set_until_a_person_agrees() {
    let services = TestServices::with_workspace().await;
    services
        .ok(&["workspace", "secret", "set", "w", "B", "old"])
        .await;
    write(
        &services,
        "github-token=hunter2\nB=${hunter2}\nx-y=hunter2\nX_Y=hunter2\n",
    );
    let import = [&IMPORT[..], &["file"]].concat();

    let listed = services.aerostack(&[&import[..], &["--dry-run"]].concat()).await;
    // An entry would be left out.
    assert_eq!(listed.code, 1, "{}", listed.err);
    let rows: Vec<&str> = listed.out.lines().collect();
    assert!(
        rows[1].contains("x-y") && rows[1].contains("leave out") && rows[1].contains("lines 3 and 4"),
        "{rows:?}"
    );
    assert!(
        rows[3].contains("GITHUB_TOKEN")
            && rows[3].contains("create")
            && rows[3].contains("written github-token")
    );
    assert!(
        rows[4].contains("replace version 1") && rows[4].contains("`$` in the value is stored as it is"),
        "{rows:?}"
    );
    let unasked = services.aerostack(&import).await;
    assert_eq!(unasked.code, 64, "{}", unasked.err);
    assert!(
        unasked.err.contains("give --yes") && unasked.err.contains("leave out"),
        "{}",
        unasked.err
    );
    assert_eq!(stored(&services).await, 1);

    let set = services.aerostack(&[&import[..], &["--yes"]].concat()).await;
    assert_eq!(set.code, 1, "{}", set.err);
    assert!(
        set.out.contains("line 3: x-y left out")
            && set.out.contains("GITHUB_TOKEN created (version 1)")
            && set.out.contains("B replaced (version 2)"),
        "{}",
        set.out
    );
    assert!(set.err.contains("2 of 4 entries"), "{}", set.err);
    assert_eq!(stored(&services).await, 2);
    for output in [listed, unasked, set] {
        assert!(!output.out.contains("hunter2") && !output.err.contains("hunter2"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_read_from_a_file_or_standard_input() {
    let services = TestServices::with_workspace().await;
    services
        .ok(&[
            "workspace",
            "secret",
            "set",
            "w",
            "A",
            "old",
            "--only-to",
            "https://a.example",
        ])
        .await;
    let yes = [&IMPORT[..], &["-", "--yes", "--output", "json"]].concat();
    let manifest = b"apiVersion: v1\nkind: Secret\ndata: {a: /wA=}\nstringData:\n  b: |\n    text\n---\napiVersion: v1\nkind: ConfigMap\n";
    let output = services
        .aerostack_with_input(&[&yes[..], &["--trim"]].concat(), manifest)
        .await;
    assert_eq!(output.code, 0, "{}", output.err);
    let shown: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(
        shown,
        json!({
            "workspace": "w",
            "secrets": [
                {"line": 3, "name": "A", "outcome": "replaced", "version": 2, "problem": null},
                {"line": 6, "name": "B", "outcome": "created", "version": 1, "problem": null},
            ],
            "left_out": [],
            "notes": ["Line 8: this is no Secret, and is left out"],
        })
    );
    let json = b"{\"c\": \"1\", \"d\": \"2\"}";
    let labels = [
        "--label",
        "team=a",
        "--only-to",
        "https://c.example",
        "--expires-in",
        "90d",
    ];
    let output = services
        .aerostack_with_input(&[&yes[..], &labels].concat(), json)
        .await;
    assert_eq!(output.code, 0, "{}", output.err);
    let found = decrypt(&services, &["A", "B", "C", "D"]).await;
    let values: Vec<_> = found.iter().map(|secret| secret.value.as_slice()).collect();
    assert_eq!(values, [b"\xff\x00".as_slice(), b"text", b"1", b"2"]);
    assert_eq!(
        found[0].upstream_origins,
        ["https://a.example"],
        "origins are kept"
    );
    assert_eq!(found[2].upstream_origins, ["https://c.example"]);
    let listed = services.json(&["workspace", "secret", "list", "w"]).await;
    assert_eq!(listed["secrets"][3]["labels"], json!({"team": "a"}));
    assert!(listed["secrets"][3]["expires_at"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_sets_nothing() {
    let services = TestServices::with_workspace().await;
    let import = [&IMPORT[..], &["file", "--yes"]].concat();
    for (text, problem) in [
        ("A=1\nhunter2\nB=hunter2 # x\n", "line 2: it is not NAME=VALUE"),
        (
            "A=aHVudGVyMiBodW50ZXIyIGh1\nbnRlcjI=\n",
            "line 2: this looks like the last line",
        ),
        ("A=1\nB='hunter2", "line 2: the quote"),
        ("{\"A\": \"1\",\n\"B\": hunter2}", "line 2: it is not JSON"),
        ("", "there is nothing in it"),
        ("hunter2", "neither NAME=VALUE lines"),
        ("A=1\nkind: hunter2", "--format dotenv"),
    ] {
        write(&services, text);
        let message = services.fails(64, &import).await;
        assert!(
            message.contains(problem) && !message.contains("hunter2"),
            "{message}"
        );
    }
    write(&services, "A=''\nb-c=1\nB_C=2\n");
    let message = services.fails(64, &import).await;
    assert!(
        message.contains("none of its entries") && message.contains("there is no value"),
        "{message}"
    );
    write(&services, b"A=\xff");
    services.fails(64, &import).await;
    services.fails(74, &[&IMPORT[..], &["missing"]].concat()).await;
    assert_eq!(stored(&services).await, 0);
    write(&services, "A=1\nkind='\nkind: x'\n");
    services
        .ok(&[&import[..], &["--format", "dotenv"]].concat())
        .await;
    services
        .fails(
            66,
            &[
                "workspace",
                "secret",
                "import",
                "nosuch",
                "file",
                "--format",
                "dotenv",
                "--yes",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_were_not_set_are_named_with_the_reason() {
    let services = TestServices::with_workspace().await;
    put_many(&services, "w", 9).await;
    write(&services, "NEW=1\nNEWER=1\nNAME_0=1\n");
    let planned = services
        .aerostack(&[&IMPORT[..], &["file", "--dry-run"]].concat())
        .await;
    assert!(
        planned.out.contains("only 1 of the 2 new secrets fit")
            && planned.out.contains("workspace update w --plan"),
        "{}",
        planned.out
    );
    let output = services
        .aerostack(&[&IMPORT[..], &["file", "--yes"]].concat())
        .await;
    assert_eq!(output.code, 1, "{}", output.err);
    let lines: Vec<&str> = output.out.lines().collect();
    assert_eq!(lines[0], "NEW created (version 1)");
    assert!(
        lines[1].starts_with("NEWER not set: ") && lines[1].contains("plan"),
        "{lines:?}"
    );
    assert_eq!(lines[2], "NAME_0 replaced (version 2)");
    assert!(output.err.contains("2 of 3 entries"), "{}", output.err);

    let down = [&IMPORT[..], &["file", "--yes", "--vault", "127.0.0.1:1"]].concat();
    services.fails(69, &down).await;
}
