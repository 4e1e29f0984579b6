//! The pages of workspaces.

use http::StatusCode;

use crate::browser::{Console, between};

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_is_made_changed_and_deleted_by_forms() {
    let console = Console::start().await;
    let mut browser = console.signed_in().await;
    assert!(browser.get("/").await.has("Make the first workspace"));

    let page = browser
        .change(
            "/workspaces",
            &[("name", "prod"), ("plan", "starter"), ("kept_versions", "5")],
        )
        .await;
    assert!(page.has("The workspace <code>prod</code> was created.") && page.has("Add the first secret"));
    assert!(
        !browser.get("/").await.has("was created"),
        "a notice is shown once"
    );
    assert!(browser.get("/").await.has("0 of 50"));

    let settings = browser.get("/w/prod/settings").await.text;
    let revision = between(&settings, "name=\"revision\" value=\"", "\"").to_owned();
    let change = [
        ("plan", "pro"),
        ("kept_versions", "2"),
        ("revision", revision.as_str()),
    ];
    let page = browser.change("/w/prod/settings", &change).await;
    assert!(
        page.has("<code>prod</code> has the plan pro and keeps 2 versions of each secret now."),
        "{}",
        page.text
    );
    assert!(browser.get("/").await.has("0 of 200"));
    // The same form again is from an older state.
    let stale = browser.post("/w/prod/settings", &change).await;
    assert_eq!(stale.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        stale.has("It has the plan pro and keeps 2 versions of each secret now"),
        "{}",
        stale.text
    );

    let refused = browser.post("/w/prod/delete", &[("confirm", "production")]).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.has("aria-invalid=\"true\"") && refused.has("Type the name of the workspace"));
    let page = browser.change("/w/prod/delete", &[("confirm", "prod")]).await;
    assert!(
        page.has("was deleted") && page.has("Make the first workspace"),
        "{}",
        page.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_is_refused_is_shown_with_the_error_at_its_field() {
    let console = Console::start().await;
    let mut browser = console.signed_in().await;
    browser.change("/workspaces", &[("name", "prod")]).await;
    for name in ["prod", "Not a name", "\"><script>"] {
        let answer = browser
            .post("/workspaces", &[("name", name), ("plan", "pro")])
            .await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        let name = between(&answer.text, " id=\"name\"", ">");
        assert!(
            name.contains("aria-invalid=\"true\"") && name.contains(" autofocus"),
            "{}",
            answer.text
        );
        assert!(!answer.has("role=\"alert\""), "{}", answer.text);
        assert_eq!(answer.text.matches("class=\"error\"").count(), 1);
        assert!(
            answer.has("value=\"pro\" checked"),
            "the form keeps what was entered"
        );
        assert!(!answer.has("<script>"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_does_not_exist_is_not_found() {
    let console = Console::start().await;
    let mut browser = console.signed_in().await;
    for path in [
        "/w/x/secrets",
        "/w/x/settings",
        "/w/x/secrets/A",
        "/w/x/secrets/A/delete",
    ] {
        assert_eq!(browser.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_are_refused_keep_what_was_entered() {
    let console = Console::start().await;
    let mut browser = console.signed_in().await;
    browser.change("/workspaces", &[("name", "w")]).await;
    let form = browser.get("/w/w/settings").await;
    let revision = between(&form.text, "name=\"revision\" value=\"", "\"").to_owned();
    let mine = [
        ("plan", "pro"),
        ("kept_versions", "7"),
        ("revision", revision.as_str()),
    ];
    // The vault keeps at most 100 versions.
    let too_many = [
        ("plan", "pro"),
        ("kept_versions", "700"),
        ("revision", revision.as_str()),
    ];
    let answer = browser.post("/w/w/settings", &too_many).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        answer.has("value=\"700\"") && answer.has("value=\"pro\" checked"),
        "{}",
        answer.text
    );
    let help = between(&answer.text, "id=\"kept_versions-help\"", "</div>");
    assert!(help.contains("Enter a number from 1 to 100."), "{}", answer.text);
    assert!(!answer.has("role=\"alert\""), "{}", answer.text);
    let colleague = [
        ("plan", "starter"),
        ("kept_versions", "4"),
        ("revision", &revision),
    ];
    browser.change("/w/w/settings", &colleague).await;
    let answer = browser.post("/w/w/settings", &mine).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    for text in [
        "value=\"pro\" checked",
        "value=\"7\"",
        "It has the plan starter and keeps 4 versions of each secret now",
    ] {
        assert!(answer.has(text), "{text}: {}", answer.text);
    }
    let new_revision = between(&answer.text, "name=\"revision\" value=\"", "\"");
    assert_ne!(new_revision, revision);
}
