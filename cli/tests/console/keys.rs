//! The page of the keys, and their rotation.

use std::time::Instant;

use http::StatusCode;
use proto::vault::v1::{
    KeyState, ListWorkspaceKeysRequest, WorkspaceKey, key_service_client::KeyServiceClient,
};

use crate::{
    browser::{Answer, Browser, Console, between},
    support::dev::PATIENCE,
};

async fn with_secret(console: &Console) -> Browser {
    let mut browser = console.signed_in().await;
    put_secret(&mut browser).await;
    browser
}

async fn put_secret(browser: &mut Browser) {
    browser.change("/workspaces", &[("name", "w")]).await;
    browser
        .change("/w/w/secrets", &[("name", "A"), ("value", "1")])
        .await;
}

/// Returns the keys of the workspace, as the vault lists them.
async fn keys(console: &Console) -> Vec<WorkspaceKey> {
    let request = ListWorkspaceKeysRequest {
        workspace: "w".to_owned(),
    };
    let mut client = KeyServiceClient::new(console.dev.admin());
    client
        .list_workspace_keys(request)
        .await
        .unwrap()
        .into_inner()
        .keys
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_the_keys_of_every_level() {
    let console = Console::start().await;
    let mut browser = console.signed_in().await;
    let page = browser.get("/keys").await;
    assert!(
        page.has("href=\"/keys\" aria-current=\"page\"") && page.has("href=\"/backup\""),
        "{}",
        page.text
    );
    assert!(page.has("There is no workspace yet"), "{}", page.text);
    put_secret(&mut browser).await;
    let page = browser.get("/keys").await;
    for text in [
        "Root key",
        "Store key",
        "Workspace keys",
        "Keys of versions",
        "a key file",
        "1 secret, each",
    ] {
        assert!(page.has(text), "{text}: {}", page.text);
    }
    assert!(page.has(&keys(&console).await[0].id), "{}", page.text);
    // A root key from a file is rotated by the operator of the vault.
    assert!(
        !page.has("/keys/root-key/rotate") && page.has("vault-service keygen"),
        "{}",
        page.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspaces_key_is_rotated_and_the_page_shows_the_end() {
    const ROTATE: &str = "/keys/workspaces/w/rotate";
    let console = Console::start().await;
    let mut browser = with_secret(&console).await;
    let before = keys(&console).await;
    let page = browser.get("/keys").await;
    assert!(page.has(&format!("href=\"{ROTATE}\"")), "{}", page.text);
    // To look at the question changes nothing.
    assert!(browser.get(ROTATE).await.has("Rotate the key of"));
    let forged = browser.post_exactly(ROTATE, &[("csrf", "x")]).await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN);
    assert_eq!(keys(&console).await[0].id, before[0].id);

    let answer = browser.post(ROTATE, &[]).await;
    assert_eq!(answer.leads_to(), "/keys?rotated=w");
    let page = browser.get("/keys?rotated=w").await;
    let new = &keys(&console).await[0];
    assert_ne!(new.id, before[0].id);
    assert_eq!(new.state(), KeyState::Active);
    assert!(page.has("has the new key") && page.has(&new.id), "{}", page.text);
    assert!(page.has("data-live=\"/keys/live?watch=w\""), "{}", page.text);
    let started = Instant::now();
    loop {
        let live = browser.get("/keys/live?watch=w").await;
        if live.has("nothing needs the old one any more") {
            break;
        }
        assert!(live.has("<progress"), "{}", live.text);
        assert!(started.elapsed() < PATIENCE, "{}", live.text);
    }
    assert_eq!(keys(&console).await.len(), 1);
    // Whoever has rotated nothing is not told that something was rotated.
    browser.change("/workspaces", &[("name", "other")]).await;
    let live = browser.get("/keys/live?watch=other,nosuch").await;
    assert!(!live.has("was rotated"), "{}", live.text);
    assert_eq!(live.text.matches("no rotation is under way").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_key_is_rotated_and_the_page_shows_the_new_one() {
    const ROTATE: &str = "/keys/root-key/rotate";
    let id_of = |page: &Answer| {
        let (_, root) = page.text.split_once("Root key</h2>").unwrap();
        between(root, "<code class=\"key-id\">", "<").to_owned()
    };
    let console = Console::start_with_passphrase().await;
    let mut browser = with_secret(&console).await;
    let page = browser.get("/keys").await;
    assert!(
        page.has("a passphrase") && page.has(&format!("href=\"{ROTATE}\"")),
        "{}",
        page.text
    );
    let old = id_of(&page);
    // To look at the question changes nothing.
    let question = browser.get(ROTATE).await;
    assert!(
        question.has("Rotate the root key?") && question.has(&format!("action=\"{ROTATE}\"")),
        "{}",
        question.text
    );
    let forged = browser.post_exactly(ROTATE, &[("csrf", "x")]).await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN);
    assert_eq!(id_of(&browser.get("/keys").await), old);

    let page = browser.change(ROTATE, &[]).await;
    let new = id_of(&page);
    assert_ne!(new, old);
    assert!(
        page.has(&format!("The vault has the new root key <code>{new}</code>")),
        "{}",
        page.text
    );
    assert!(!page.has(&old), "{}", page.text);
    // The secrets are under the new key.
    let replaced = [("value", "2"), ("version", "1")];
    browser.change("/w/w/secrets/A/replace", &replaced).await;
    assert_eq!(browser.get("/w/w/secrets/A").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_the_vault_refuses_is_explained() {
    let console = Console::start().await;
    let mut browser = console.signed_in().await;
    let answer = browser.post("/keys/workspaces/gone/rotate", &[]).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert!(answer.has("There is no workspace"), "{}", answer.text);
    let answer = browser.post("/keys/root-key/rotate", &[]).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.has("comes from a file"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_without_the_right_is_offered_no_rotation_and_no_backup() {
    let console = Console::start_as("injector").await;
    let mut browser = console.signed_in().await;
    for path in ["/status", "/keys", "/workspaces/new"] {
        let page = browser.get(path).await;
        assert!(page.has("href=\"/status\""), "{}", page.text);
        for hidden in ["href=\"/keys\"", "href=\"/backup\""] {
            assert!(!page.has(hidden), "{path}: {}", page.text);
        }
    }
    let page = browser.get("/keys").await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    assert!(
        page.has("only administrators") || page.has("Only administrators"),
        "{}",
        page.text
    );
    assert!(page.has("Root key") && !page.has("/rotate"), "{}", page.text);
    let page = browser.get("/backup").await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    assert!(
        !page.has("/backup/make") && !page.has("/backup/restore"),
        "{}",
        page.text
    );
    let answer = browser.post("/keys/workspaces/w/rotate", &[]).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let answer = browser.post("/backup/make", &[]).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}
