//! `aerostack workspace …`

use crate::shell::Pair;

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_is_made_shown_changed_and_deleted() {
    let pair = Pair::start().await;
    let made = pair.json(&["workspace", "create", "w", "--plan", "pro"]).await;
    assert_eq!((&made["name"], &made["plan"]), (&"w".into(), &"pro".into()));
    assert_eq!(pair.json(&["workspace", "show", "w"]).await["uid"], made["uid"]);
    let changed = pair
        .json(&["workspace", "update", "w", "--plan", "business"])
        .await;
    assert_eq!(
        (&changed["plan"], &changed["kept_versions"]),
        (&"business".into(), &3.into())
    );
    let changed = pair
        .json(&["workspace", "update", "w", "--kept-versions", "7"])
        .await;
    assert_eq!(
        (&changed["plan"], &changed["kept_versions"]),
        (&"business".into(), &7.into())
    );
    pair.fails(64, &["workspace", "update", "w"]).await;
    pair.fails(64, &["workspace", "update", "w", "--kept-versions", "0"])
        .await;
    let listed = pair.json(&["workspace", "list"]).await;
    assert_eq!(listed["workspaces"][0]["plan"], "business");
    pair.ok(&["workspace", "delete", "w", "--yes"]).await;
    pair.fails(66, &["workspace", "show", "w"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_members_of_a_workspace_in_json_are_those_that_are_documented() {
    let pair = Pair::with_workspace().await;
    let shown = pair.json(&["workspace", "show", "w"]).await;
    let members: Vec<&str> = shown.as_object().unwrap().keys().map(String::as_str).collect();
    let mut documented = [
        "name",
        "uid",
        "revision",
        "create_time",
        "update_time",
        "plan",
        "secret_count",
        "kept_versions",
    ];
    documented.sort_unstable();
    assert_eq!(members, documented);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_exists_is_not_made_again() {
    let pair = Pair::with_workspace().await;
    let said = pair.fails(73, &["workspace", "create", "w"]).await;
    assert!(said.starts_with("error: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_no_label_is_refused() {
    let pair = Pair::start().await;
    pair.fails(64, &["workspace", "create", "My Workspace"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_deleting_has_to_be_agreed_to_beforehand() {
    let pair = Pair::with_workspace().await;
    pair.ok(&["workspace", "secret", "set", "w", "A", "1"]).await;
    let ended = pair
        .aerostack_reading(&["workspace", "delete", "w"], b"yes\n")
        .await;
    assert_eq!(ended.code, 64, "{}", ended.err);
    assert!(ended.err.contains("--yes"));
    pair.ok(&["workspace", "show", "w"]).await;
    let said = pair.ok(&["workspace", "delete", "w", "--yes"]).await.out;
    assert_eq!(said, "w deleted, with 1 secret and its keys\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_page_is_listed_whole() {
    let pair = Pair::start().await;
    pair.ok(&["workspace", "create", "w", "--plan", "enterprise"])
        .await;
    let names = 1002;
    // A thousand processes would take minutes: these come from one client.
    crate::secrets::put_many(&pair, "w", names).await;
    let listed = pair.json(&["workspace", "secret", "list", "w"]).await;
    let listed: std::collections::BTreeSet<String> = listed["secrets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|secret| secret["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(listed.len(), names);
}
