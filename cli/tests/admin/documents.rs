//! `aerostack export` and `aerostack apply`

use serde_json::{Value, json};

use crate::{
    shell::{CommandOutput, TestServices},
    terminal::Terminal,
};

/// A value that no output may repeat.
const PLANTED: &str = "ghp_planted_value_1234567890";

/// Makes the workspace `w` with a secret and with servers of several kinds.
async fn with_servers() -> TestServices {
    let services = TestServices::start().await;
    let add = ["workspace", "server", "add", "w"];
    let bearer = ["api", "--url", "https://api.github.com", "--auth-type", "bearer"];
    let custom = [
        "bot",
        "--url",
        "https://bot.example/bot${BOT_TOKEN}?v=1",
        "--inject",
        "header:x-key=k ${API_KEY}",
        "--required",
        "API_KEY",
        "--oauth",
        "pass",
        "--description",
        "no",
    ];
    for args in [
        &[
            "workspace",
            "create",
            "w",
            "--plan",
            "starter",
            "--kept-versions",
            "5",
        ][..],
        &[
            "workspace",
            "secret",
            "set",
            "w",
            "GITHUB_TOKEN",
            PLANTED,
            "--only-to",
            "https://api.github.com",
            "--label",
            "team=a",
            "--expires-at",
            "2090-01-01T00:00:00Z",
        ],
        &[&add[..], &bearer, &["--secrets", "GITHUB_TOKEN"]].concat(),
        &[&add[..], &custom].concat(),
    ] {
        services.ok(args).await;
    }
    services
}

async fn export(services: &TestServices, workspace: &str) -> String {
    services.ok(&["export", workspace]).await.out
}

async fn apply(services: &TestServices, document: &str, args: &[&str]) -> CommandOutput {
    let args = [&["apply", "-f", "-"], args].concat();
    services.aerostack_with_input(&args, document.as_bytes()).await
}

async fn apply_json(services: &TestServices, document: &str, args: &[&str]) -> Value {
    let output = apply(services, document, &[args, &["-o", "json"]].concat()).await;
    serde_json::from_str(&output.out).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_goes_through_a_document_without_values() {
    let services = with_servers().await;
    let document = export(&services, "w").await;
    assert!(!document.contains(PLANTED), "{document}");
    assert_eq!(export(&services, "w").await, document);
    let same = apply(&services, &document, &[]).await;
    let place = format!(
        "w (vault {}, injector {})",
        services.address("vault"),
        services.address("injector")
    );
    let nothing = format!("Nothing to change in {place}.\n");
    assert_eq!((same.code, same.out), (0, nothing));
    let same = apply(&services, &document, &["--dry-run"]).await;
    assert_eq!(same.code, 0, "{}", same.err);

    // The same workspace under another name.
    let copy = document.replace("\nname: w\n", "\nname: v\n");
    let planned = apply(&services, &copy, &["--dry-run"]).await;
    assert_eq!(planned.code, 1, "{}", planned.err);
    assert!(
        planned.out.contains("+ workspace v\n    plan: starter\n"),
        "{}",
        planned.out
    );
    assert!(
        planned
            .err
            .contains("The injector checks a server when it is added or changed"),
        "{}",
        planned.err
    );
    services.fails(66, &["workspace", "show", "v"]).await;
    let made = apply(&services, &copy, &[]).await;
    assert_eq!(made.code, 0, "{}", made.err);
    assert!(
        made.out.contains("3 changes applied to v (vault 127.0.0.1:"),
        "{}",
        made.out
    );
    let put = "aerostack workspace secret set v GITHUB_TOKEN --only-to https://api.github.com --label team=a --expires-at \
               2090-01-01T00:00:00Z";
    assert!(made.out.contains(put), "{}", made.out);
    let again = apply(&services, &copy, &[]).await;
    assert!(again.out.contains("Nothing to change in v ("), "{}", again.out);

    // With the value that the output asked for, nothing differs any more.
    services.sh(&put.replace("GITHUB_TOKEN", "GITHUB_TOKEN x")).await;
    let again = apply_json(&services, &copy, &[]).await;
    assert_eq!(again["is_as_described"], true, "{again}");
    assert_eq!(export(&services, "v").await, copy);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_differs_is_changed() {
    let services = with_servers().await;
    let document = export(&services, "w").await;
    let before = services.json(&["workspace", "server", "list", "w"]).await;
    let changed = document.replace("plan: starter", "plan: pro").replace(
        "https://api.github.com\n  auth",
        "https://api.github.com/v3\n  auth",
    );
    let result = apply_json(&services, &changed, &[]).await;
    assert_eq!(
        result["changes"],
        json!([
            {"action": "update", "kind": "workspace", "name": "w",
             "fields": [{"field": "plan", "before": "starter", "after": "pro"}]},
            {"action": "update", "kind": "server", "name": "api",
             "fields": [{"field": "url", "before": "https://api.github.com", "after": "https://api.github.com/v3"}]},
        ])
    );
    let after = services.json(&["workspace", "server", "list", "w"]).await;
    let (api, bot) = (&after["servers"][0], &after["servers"][1]);
    assert_eq!(api["url"], "https://api.github.com/v3");
    assert_eq!(api["uid"], before["servers"][0]["uid"]);
    assert_eq!(bot, &before["servers"][1]);
    assert_eq!(export(&services, "w").await, changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_changes_between_a_short_form_and_places_of_its_own() {
    let services = with_servers().await;
    let document = export(&services, "w").await;
    let (first, _) = document.split_once("servers:\n").unwrap();
    let swapped = format!(
        "{first}servers:\n- name: api\n  url: https://api.github.com\n  injections:\n  - query: {{name: k, value: '${{K}}'}}\n- name: \
         bot\n  url: https://bot.example\n  injections: [{{secret: A, required: true}}, {{secret: B}}]\n"
    );
    let swap = apply(&services, &swapped, &[]).await;
    assert_eq!(swap.code, 0, "{}", swap.err);
    let again = apply(&services, &swapped, &[]).await;
    assert!(again.out.contains("Nothing to change in w ("), "{}", again.out);
    let back = apply(&services, &document, &[]).await;
    assert_eq!(back.code, 0, "{}", back.err);
    assert_eq!(export(&services, "w").await, document);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_removed_only_by_a_prune_that_was_confirmed() {
    let services = with_servers().await;
    let document = export(&services, "w").await;
    let (without_bot, _) = document.split_once("- name: bot").unwrap();
    let kept = apply(&services, without_bot, &[]).await;
    assert!(
        kept.out.contains("stay (--prune removes them): bot"),
        "{}",
        kept.out
    );
    let asked = apply(&services, without_bot, &["--prune"]).await;
    assert_eq!(asked.code, 64);
    assert!(
        asked.err.contains("bot") && asked.err.contains("--yes"),
        "{}",
        asked.err
    );
    assert_eq!(export(&services, "w").await, document);
    let pruned = apply(&services, without_bot, &["--prune", "--yes"]).await;
    assert!(pruned.out.contains("- server bot"), "{}", pruned.out);
    assert_eq!(export(&services, "w").await, without_bot);

    // A document that says nothing about servers does not say which ones to keep.
    let (nothing, _) = document.split_once("servers:\n").unwrap();
    let refused = apply(&services, nothing, &["--prune", "--yes"]).await;
    assert_eq!(refused.code, 64, "{}", refused.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_follows_the_document_and_other_metadata_is_only_shown() {
    let services = with_servers().await;
    let document = export(&services, "w").await;
    let earlier = document.replace("2090-", "2080-");
    let applied = apply(&services, &earlier, &[]).await;
    assert!(applied.out.contains("~ secret GITHUB_TOKEN"), "{}", applied.out);
    let secrets = services.json(&["workspace", "secret", "list", "w"]).await;
    let secret = &secrets["secrets"][0];
    assert_eq!(secret["expires_at"], "2080-01-01T00:00:00Z");
    assert_eq!(secret["version"], 2);
    assert_eq!(secret["labels"], json!({"team": "a"}));
    assert_eq!(secret["upstream_origins"], json!(["https://api.github.com"]));

    let later = apply(&services, &document, &[]).await;
    assert!(later.out.contains("--allow-later-expiry"), "{}", later.out);
    assert_eq!(export(&services, "w").await, earlier);
    let later = apply(&services, &document, &["--allow-later-expiry"]).await;
    assert_eq!(later.code, 0, "{}", later.err);
    assert_eq!(export(&services, "w").await, document);

    let labelled = document.replace("team: a", "team: b");
    let planned = apply(&services, &labelled, &["--dry-run"]).await;
    assert_eq!(planned.code, 1);
    assert!(
        planned.out.contains("! secret GITHUB_TOKEN differs"),
        "{}",
        planned.out
    );
    assert_eq!(apply(&services, &labelled, &[]).await.code, 0);
    assert_eq!(export(&services, "w").await, document);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_half_way_says_what_was_applied_and_what_was_not() {
    let services = TestServices::with_workspace().await;
    // Only the injector knows its own addresses, which no server may have.
    let own = services.address("data_plane");
    let document = format!(
        "apiVersion: aerostack/v1\nkind: Workspace\nname: w\nkept_versions: 9\nservers:\n- {{name: a, url: 'https://a.example'}}\n\
         - {{name: b, url: 'http://{own}'}}\n- {{name: c, url: 'https://c.example'}}\n"
    );
    let stopped = apply(&services, &document, &[]).await;
    assert_eq!(stopped.out, "");
    assert_ne!(stopped.code, 0);
    let says =
        "applied before: update workspace w, create server a; not applied: create server b, create server c";
    assert!(stopped.err.contains(says), "{}", stopped.err);
    let servers = services.json(&["workspace", "server", "list", "w"]).await;
    assert_eq!(servers["servers"].as_array().unwrap().len(), 1);
    let mended = document.replace(&format!("http://{own}"), "https://b.example");
    let rest = apply_json(&services, &mended, &[]).await;
    assert_eq!(rest["changes"].as_array().unwrap().len(), 2, "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_a_document_is_named_before_anything_is_changed() {
    let services = TestServices::with_workspace().await;
    let document = format!(
        "apiVersion: aerostack/v1\nkind: Workspace\nname: w\nkept_versions: 9\nsecrets:\n- name: A\n  value: {PLANTED}\n"
    );
    let refused = apply(&services, &document, &[]).await;
    assert_eq!(refused.code, 64);
    let says = "standard input: line 7, column 3: field value is not one of the fields";
    assert!(refused.err.contains(says), "{}", refused.err);
    assert!(!refused.err.contains(PLANTED));
    assert_eq!(
        services.json(&["workspace", "show", "w"]).await["kept_versions"],
        3
    );
    services.fails(74, &["apply", "-f", "nosuch.yaml"]).await;
    let message = services.fails(66, &["export", "nosuch"]).await;
    assert!(message.contains("workspace list"), "{message}");
    services.fails(64, &["export", "No_Such"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_says_which_installation_was_changed() {
    let services = TestServices::with_workspace().await;
    services
        .ok(&["context", "add", "here", "--dir", ".aerostack"])
        .await;
    let document = export(&services, "w").await.replace("plan: free", "plan: pro");
    let context = ["--context", "here"];
    let applied = apply(&services, &document, &context).await;
    assert!(
        applied.out.contains("1 change applied to w (context here)."),
        "{}",
        applied.out
    );
    let applied = apply_json(&services, &document, &context).await;
    assert_eq!(applied["context"], "here");
    assert_eq!(applied["vault"], services.address("vault"));
    assert_eq!(applied["injector"], services.address("injector"));
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_a_deleted_workspace_are_added_again_for_the_present_one() {
    let services = with_servers().await;
    let document = export(&services, "w").await;
    services.ok(&["workspace", "delete", "w", "--yes"]).await;
    let made = apply(&services, &document, &[]).await;
    assert_eq!(made.code, 0, "{}", made.err);
    assert!(
        made.out.contains("- server api\n    workspace_uid: "),
        "{}",
        made.out
    );
    let workspace = services.json(&["workspace", "show", "w"]).await;
    let servers = services.json(&["workspace", "server", "list", "w"]).await;
    for server in servers["servers"].as_array().unwrap() {
        assert_eq!(server["workspace_uid"], workspace["uid"]);
    }
    let again = apply(&services, &document, &[]).await;
    assert!(again.out.contains("Nothing to change in w ("), "{}", again.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_that_displaces_an_old_version_has_to_be_confirmed() {
    let services = with_servers().await;
    let document = export(&services, "w")
        .await
        .replace("kept_versions: 5", "kept_versions: 1");
    let earlier = document.replace("2090-", "2080-");
    let asked = apply(&services, &earlier, &[]).await;
    assert_eq!(asked.code, 64, "{}", asked.out);
    assert!(
        asked.err.contains("secret GITHUB_TOKEN version 1") && asked.err.contains("--yes"),
        "{}",
        asked.err
    );
    let applied = apply(&services, &earlier, &["--yes"]).await;
    assert!(
        applied.out.contains("    lost_versions: [1]\n"),
        "{}",
        applied.out
    );
    let versions = services
        .json(&["workspace", "secret", "versions", "w", "GITHUB_TOKEN"])
        .await;
    assert_eq!(versions["versions"].as_array().unwrap().len(), 1);
    assert_eq!(versions["versions"][0]["version"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_between_is_not_overwritten() {
    let services = with_servers().await;
    let document = export(&services, "w").await;
    let (without_bot, _) = document.split_once("- name: bot").unwrap();
    std::fs::write(
        services.home().join("w.yaml"),
        without_bot.replace(
            "https://api.github.com\n  auth",
            "https://api.github.com/v3\n  auth",
        ),
    )
    .unwrap();
    // The command has read the state when it asks.
    let mut question = Terminal::run(&services, "aerostack apply -f w.yaml --prune");
    question.read_until("[y/N] ");
    let elsewhere = ["--url", "https://api.github.com/v2"];
    services
        .ok(&[&["workspace", "server", "update", "w", "api"][..], &elsewhere].concat())
        .await;
    let (code, printed) = question.answer("y");
    assert_eq!(code, 75, "{printed}");
    let servers = services.json(&["workspace", "server", "list", "w"]).await;
    assert_eq!(servers["servers"][0]["url"], "https://api.github.com/v2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_that_the_question_has_shown_is_not_printed_again() {
    let services = with_servers().await;
    let document = export(&services, "w").await;
    let (without_bot, _) = document.split_once("- name: bot").unwrap();
    let url = "https://api.github.com/v3";
    let changed = without_bot.replace("https://api.github.com\n  auth", &format!("{url}\n  auth"));
    std::fs::write(services.home().join("w.yaml"), changed).unwrap();
    let mut question = Terminal::run(&services, "aerostack apply -f w.yaml --prune");
    question.read_until("[y/N] ");
    let (code, printed) = question.answer("y");
    assert_eq!(code, 0, "{printed}");
    assert!(printed.contains("changes applied to"), "{printed}");
    assert_eq!(printed.matches(url).count(), 1, "{printed}");
}
