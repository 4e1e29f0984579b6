//! The pages of secrets.

use http::StatusCode;

use crate::browser::{Answer, Browser, Console, between};

async fn with_workspace(console: &Console) -> Browser {
    let mut browser = console.signed_in().await;
    browser
        .change("/workspaces", &[("name", "w"), ("plan", "pro")])
        .await;
    browser
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_added_replaced_restored_and_deleted_by_forms() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let page = browser
        .change(
            "/w/w/secrets",
            &[
                ("name", "github-token"),
                ("value", "one"),
                ("origins", "https://api.github.com\r\n"),
                ("labels", "team=payments\r\ntier=1"),
                ("expiry", "90d"),
            ],
        )
        .await;
    assert!(
        page.has("<code>GITHUB_TOKEN</code> was created."),
        "{}",
        page.text
    );
    for text in [
        "<code>github-token</code> is written",
        "https://api.github.com",
        "team=payments",
        "tier=1",
    ] {
        assert!(page.has(text), "{text}");
    }

    let form = browser.get("/w/w/secrets/GITHUB_TOKEN/replace").await;
    assert!(form.has("https://api.github.com</textarea>") && form.has("name=\"version\" value=\"1\""));
    assert!(form.has(", as now</option>"), "the present expiry is proposed");
    let replaced = [
        ("version", "1"),
        ("value", "two"),
        ("origins", "https://api.github.com"),
    ];
    let page = browser
        .change("/w/w/secrets/GITHUB_TOKEN/replace", &replaced)
        .await;
    assert!(page.has("has a new value: version 2"));
    let again = browser.post("/w/w/secrets/GITHUB_TOKEN/replace", &replaced).await;
    assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(again.has("The secret was changed meanwhile"), "{}", again.text);
    assert!(!again.has("read it again and decide again"), "{}", again.text);

    let confirm = browser
        .get("/w/w/secrets/GITHUB_TOKEN/restore?version=1&present=2")
        .await;
    assert!(
        confirm.has("Restore version 1 of")
            && confirm.has("the earliest one of version 1 and of every later version")
            && !confirm.has("is deleted by this"),
        "{}",
        confirm.text
    );
    for stale in [
        "version=1&present=1",
        "version=2&present=2",
        "version=7&present=2",
    ] {
        let page = browser
            .get(&format!("/w/w/secrets/GITHUB_TOKEN/restore?{stale}"))
            .await;
        assert!(
            page.has("The secret was changed meanwhile."),
            "{stale}: {}",
            page.text
        );
    }
    let restored = [("version", "1"), ("present", "2")];
    let page = browser
        .change("/w/w/secrets/GITHUB_TOKEN/restore", &restored)
        .await;
    assert!(
        page.has("is the present one again, as version 3. It expires on ")
            && page.has(", is sent only to <code>https://api.github.com</code>, and has the labels <code>team=payments</code>, <code>tier=1</code>.")
            && page.has("href=\"/w/w/add-server?secret=GITHUB_TOKEN\""),
        "{}",
        page.text
    );
    // The workspace keeps three versions.
    let confirm = browser
        .get("/w/w/secrets/GITHUB_TOKEN/restore?version=2&present=3")
        .await;
    assert!(
        confirm.has("the oldest one, version 1, is deleted by this"),
        "{}",
        confirm.text
    );

    assert!(
        browser
            .get("/w/w/secrets/GITHUB_TOKEN/delete")
            .await
            .has("No server gets it.")
    );
    assert!(
        page.has(" UTC</small>"),
        "exact times are readable without a pointer"
    );
    let stale = browser
        .post("/w/w/secrets/GITHUB_TOKEN/delete", &[("version", "1")])
        .await;
    assert_eq!(stale.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(stale.has("Open the secret again"), "{}", stale.text);
    let page = browser
        .change("/w/w/secrets/GITHUB_TOKEN/delete", &[("version", "3")])
        .await;
    assert!(page.has("was deleted") && page.has("Add the first secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_replacement_does_not_undo_what_somebody_else_changed() {
    const PATH: &str = "/w/w/secrets/A/replace";
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let secret = [("name", "A"), ("value", "1"), ("origins", "https://a.example")];
    browser.change("/w/w/secrets", &secret).await;

    // Nobody else changed the secret: the form keeps what was entered.
    let mistake = [
        ("version", "1"),
        ("value", "2"),
        ("origins", "https://mine.example"),
        ("labels", "no label"),
    ];
    let answer = browser.post(PATH, &mistake).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        answer.has("https://mine.example</textarea>") && answer.has("no label</textarea>"),
        "{}",
        answer.text
    );

    let form = browser.get(PATH).await;
    let shown = |name: &str| between(&form.text, &format!("name=\"{name}\" value=\""), "\"");
    let shown = [
        ("shown_origins", shown("shown_origins")),
        ("shown_labels", shown("shown_labels")),
        ("shown_expiry", shown("shown_expiry")),
    ];
    // A colleague binds the secret to another origin, and labels it.
    let colleague = [
        ("version", "1"),
        ("value", "3"),
        ("origins", "https://colleague.example"),
        ("labels", "team=theirs"),
    ];
    browser.change(PATH, &colleague).await;

    // The person left the origins, and chose an expiry.
    let left = [
        ("version", "1"),
        ("value", "2"),
        ("origins", "https://a.example"),
        ("labels", ""),
        ("expiry", "90d"),
        ("trim", "yes"),
    ];
    let answer = browser.post(PATH, &[&shown[..], &left].concat()).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    for text in [
        "The secret was changed meanwhile",
        // The next send has the new version together with the metadata of that version.
        "name=\"version\" value=\"2\"",
        "https://colleague.example</textarea>",
        "team=theirs</textarea>",
        "<option value=\"90d\" selected>",
        "value=\"yes\" checked",
    ] {
        assert!(answer.has(text), "{text}: {}", answer.text);
    }
    assert!(!answer.has("would replace"), "{}", answer.text);

    // The person changed what the colleague changed, too.
    let conflict = [
        ("version", "1"),
        ("value", "2"),
        ("origins", "https://mine.example"),
    ];
    for outdated in [conflict.as_slice(), mistake.as_slice()] {
        let answer = browser.post(PATH, &[&shown[..], outdated].concat()).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        for text in [
            "The secret was changed meanwhile",
            "name=\"version\" value=\"2\"",
            "https://mine.example</textarea>",
            "“Send only to” is <code>https://colleague.example</code> now, and your entry would replace this",
        ] {
            assert!(answer.has(text), "{text}: {}", answer.text);
        }
    }
}

/// Asserts that a refused form asks for the value, and has the rest of what was entered. The value has the focus, unless another
/// field has.
fn assert_kept(answer: &Answer, has_focus: bool) {
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.text);
    for text in [
        "https://a.example</textarea>",
        "team=x</textarea>",
        "<option value=\"90d\" selected>",
        "name=\"trim\" value=\"yes\" checked",
        "Enter the value again",
    ] {
        assert!(answer.has(text), "{text}: {}", answer.text);
    }
    assert!(!answer.has("s3cret"), "{}", answer.text);
    let value = between(&answer.text, " id=\"value\"", "</textarea>");
    assert_eq!(value.contains(" autofocus"), has_focus, "{value}");
    assert!(value.ends_with('>'), "{value}");
    assert_eq!(answer.text.matches(" autofocus").count(), 1, "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_secret_keeps_everything_but_its_value() {
    let console = Console::start().await;
    let mut browser = console.signed_in().await;
    browser
        .change("/workspaces", &[("name", "w"), ("plan", "free")])
        .await;
    for number in 0..10 {
        let name = format!("KEY_{number}");
        browser
            .post("/w/w/secrets", &[("name", &name), ("value", "x")])
            .await
            .leads_to();
    }
    let long = format!("s3cret{}", "x".repeat(64 * 1024));
    for (name, value, message, field) in [
        ("!!!", "s3cret", "A secret's name needs", "name"),
        ("key_1", "s3cret", "KEY_1 exists already.", "name"),
        ("MORE", long.as_str(), "value has 1 to", "value"),
        ("MORE", "s3cret", "Change the plan", ""),
    ] {
        let fields = [
            ("name", name),
            ("value", value),
            ("origins", "https://a.example"),
            ("labels", "team=x"),
            ("expiry", "90d"),
            ("trim", "yes"),
        ];
        let answer = browser.post("/w/w/secrets", &fields).await;
        assert_kept(&answer, field != "name");
        assert!(answer.has(&format!("value=\"{name}\"")), "{}", answer.text);
        assert_eq!(
            answer.has("role=\"alert\""),
            field.is_empty(),
            "{name}: {}",
            answer.text
        );
        assert!(answer.has(message), "{message}: {}", answer.text);
    }
    let fields = [
        ("version", "1"),
        ("value", long.as_str()),
        ("origins", "https://a.example"),
        ("labels", "team=x"),
        ("expiry", "90d"),
        ("trim", "yes"),
    ];
    assert_kept(&browser.post("/w/w/secrets/KEY_1/replace", &fields).await, true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_for_administrators_is_explained_with_its_command_line() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let secret = [("name", "A"), ("value", "1"), ("origins", "https://a.example")];
    browser.change("/w/w/secrets", &secret).await;
    let replaced = [("version", "1"), ("value", "2"), ("origins", "https://b.example")];
    browser.change("/w/w/secrets/A/replace", &replaced).await;
    let answer = browser
        .post("/w/w/secrets/A/restore", &[("version", "1"), ("present", "2")])
        .await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        answer.has("<code>aerostack workspace secret restore w A --version 1 --allow-wider-origins</code>"),
        "{}",
        answer.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_exists_is_not_replaced_by_the_form_for_a_new_secret() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    browser
        .change("/w/w/secrets", &[("name", "A"), ("value", "1")])
        .await;
    let answer = browser
        .post("/w/w/secrets", &[("name", "a"), ("value", "2")])
        .await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        answer.has("A exists already.") && answer.has("href=\"/w/w/secrets/A/replace\""),
        "{}",
        answer.text
    );
    assert!(
        browser
            .get("/w/w/secrets/lookup?name=a")
            .await
            .has("\"version\":1")
    );
    assert!(
        browser
            .get("/w/w/secrets/lookup?name=b")
            .await
            .has("\"name\":\"B\",\"problem\":null,\"version\":null")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_filtered_and_paged_without_scripts() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    for number in 0..102 {
        let name = format!("KEY_{number:03}");
        browser
            .post("/w/w/secrets", &[("name", &name), ("value", "x")])
            .await
            .leads_to();
    }
    // Shows the notices on the puts, which name secrets.
    browser.get("/").await;
    let first = browser.get("/w/w/secrets").await;
    assert!(first.has("KEY_099") && !first.has("KEY_100") && first.has("1–100 of 102 secrets"));
    let second = browser.get("/w/w/secrets?page=2").await;
    assert!(second.has("KEY_101") && !second.has("KEY_099"));
    let filtered = browser.get("/w/w/secrets?q=key-05").await;
    assert!(filtered.has("KEY_050") && !filtered.has("KEY_060") && filtered.has("value=\"key-05\""));
    assert!(browser.get("/w/w/secrets?q=%3Cb%3E").await.has("“&lt;b&gt;”"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_plan_is_refused_with_a_link_to_its_settings() {
    let console = Console::start().await;
    let mut browser = console.signed_in().await;
    browser
        .change("/workspaces", &[("name", "w"), ("plan", "free")])
        .await;
    for number in 0..10 {
        let name = format!("KEY_{number}");
        browser
            .post("/w/w/secrets", &[("name", &name), ("value", "x")])
            .await
            .leads_to();
    }
    let answer = browser
        .post("/w/w/secrets", &[("name", "MORE"), ("value", "x")])
        .await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.has("href=\"/w/w/settings\""), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_may_not_change_secrets_gets_no_form_by_its_address() {
    let console = Console::start_as("injector").await;
    let mut browser = console.signed_in().await;
    for form in ["new", "A/replace", "A/delete"] {
        let page = browser.get(&format!("/w/w/secrets/{form}")).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN, "{form}");
        assert!(
            page.has("identity may look at the secrets of this workspace, and not change them"),
            "{form}: {}",
            page.text
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pasted_token_is_no_name_and_is_not_shown_again() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    let token = "ghp_aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5";
    let answer = browser
        .post("/w/w/secrets", &[("name", token), ("value", "x")])
        .await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    let name = between(&answer.text, " id=\"name\"", ">");
    assert!(
        name.contains("aria-invalid=\"true\"") && answer.has("This looks like a credential"),
        "{}",
        answer.text
    );
    assert!(!answer.has(token), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_something_that_is_gone_links_to_the_list() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console).await;
    for (path, list) in [
        ("/w/w/secrets/GONE", "/w/w/secrets"),
        ("/w/w/servers/gone", "/w/w/servers"),
        ("/w/gone/secrets", "/"),
    ] {
        let page = browser.get(path).await;
        assert_eq!(page.status, StatusCode::NOT_FOUND, "{path}");
        let alert = between(&page.text, "role=\"alert\"", "</div>");
        assert!(alert.contains(&format!("href=\"{list}\"")), "{path}: {alert}");
    }
}
