//! `aerostack workspace …`

use crate::{shell::TestServices, terminal::Terminal};

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_is_made_shown_changed_and_deleted() {
    let services = TestServices::start().await;
    let made = services
        .json(&["workspace", "create", "w", "--plan", "pro"])
        .await;
    assert_eq!((&made["name"], &made["plan"]), (&"w".into(), &"pro".into()));
    assert_eq!(
        services.json(&["workspace", "show", "w"]).await["uid"],
        made["uid"]
    );
    let changed = services
        .json(&["workspace", "update", "w", "--plan", "business"])
        .await;
    assert_eq!(
        (&changed["plan"], &changed["kept_versions"]),
        (&"business".into(), &3.into())
    );
    let changed = services
        .json(&["workspace", "update", "w", "--kept-versions", "7"])
        .await;
    assert_eq!(
        (&changed["plan"], &changed["kept_versions"]),
        (&"business".into(), &7.into())
    );
    services.fails(64, &["workspace", "update", "w"]).await;
    services
        .fails(64, &["workspace", "update", "w", "--kept-versions", "0"])
        .await;
    let listed = services.json(&["workspace", "list"]).await;
    assert_eq!(listed["workspaces"][0]["plan"], "business");
    services.ok(&["workspace", "delete", "w", "--yes"]).await;
    services.fails(66, &["workspace", "show", "w"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_members_of_a_workspace_in_json_are_those_that_are_documented() {
    let services = TestServices::with_workspace().await;
    let shown = services.json(&["workspace", "show", "w"]).await;
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
async fn a_workspace_without_a_plan_gets_the_default_plan_of_the_vault() {
    let services = TestServices::start().await;
    let made = services.json(&["workspace", "create", "w"]).await;
    assert_eq!(made["plan"], "free");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_workspace_is_not_made_again() {
    let services = TestServices::with_workspace().await;
    let message = services.fails(73, &["workspace", "create", "w"]).await;
    assert!(message.starts_with("error: "), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_a_dns_label_is_refused() {
    let services = TestServices::start().await;
    services.fails(64, &["workspace", "create", "My Workspace"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_a_workspace_is_deleted_only_with_yes() {
    let services = TestServices::with_workspace().await;
    services.ok(&["workspace", "secret", "set", "w", "A", "1"]).await;
    let output = services
        .aerostack_with_input(&["workspace", "delete", "w"], b"yes\n")
        .await;
    assert_eq!(output.code, 64, "{}", output.err);
    assert!(output.err.contains("--yes"));
    services.ok(&["workspace", "show", "w"]).await;
    let message = services.ok(&["workspace", "delete", "w", "--yes"]).await.out;
    assert_eq!(message, "w deleted, with 1 secret and its keys\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn before_a_workspace_is_deleted_its_secrets_and_servers_are_named() {
    let services = TestServices::with_workspace().await;
    services.ok(&["workspace", "secret", "set", "w", "A", "1"]).await;
    for name in ["api", "mail"] {
        let url = "https://a.example";
        let add = [
            "workspace",
            "server",
            "add",
            "w",
            name,
            "--url",
            url,
            "--auth-type",
            "bearer",
            "--secrets",
            "A",
        ];
        services.ok(&add).await;
    }
    let mut question = Terminal::run(&services, "aerostack workspace delete w");
    question.read_until("[y/N] ");
    let (code, printed) = question.answer("n");
    assert_eq!(code, 1, "{printed}");
    assert!(
        printed.contains("Calls to these servers fail from then on: api, mail.")
            && printed.contains("Delete workspace w with 1 secret?"),
        "{printed}"
    );
    services.ok(&["workspace", "show", "w"]).await;

    let line = "aerostack --injector 127.0.0.1:1 --injector-id dns:x workspace delete w";
    let mut question = Terminal::run(&services, line);
    question.read_until("[y/N] ");
    let (code, printed) = question.answer("y");
    assert_eq!(code, 0, "{printed}");
    assert!(
        printed.contains("The servers that belong to it are not known: "),
        "{printed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_several_pages_is_complete() {
    let services = TestServices::start().await;
    services
        .ok(&["workspace", "create", "w", "--plan", "enterprise"])
        .await;
    let names = 1002;
    crate::secrets::put_many(&services, "w", names).await;
    let listed = services.json(&["workspace", "secret", "list", "w"]).await;
    let listed: std::collections::BTreeSet<String> = listed["secrets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|secret| secret["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(listed.len(), names);
}
