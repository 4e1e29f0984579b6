//! `aerostack key …`

use crate::shell::Pair;

#[tokio::test(flavor = "multi_thread")]
async fn a_workspaces_key_is_shown_and_rotated() {
    let pair = Pair::with_workspace().await;
    pair.ok(&["workspace", "secret", "set", "w", "A", "1"]).await;
    let before = pair.json(&["key", "show", "w"]).await;
    let old = &before["keys"][0];
    assert_eq!(
        (&old["state"], &old["record_count"]),
        (&"active".into(), &1.into())
    );
    let said = pair.ok(&["key", "rotate", "w"]).await;
    assert!(said.out.starts_with("w has the new key "), "{}", said.out);
    let after = pair.json(&["key", "show", "w"]).await;
    assert_ne!(after["keys"][0]["id"], old["id"]);
    assert!(said.out.contains(after["keys"][0]["id"].as_str().unwrap()));
    let status = pair.json(&["key", "status"]).await;
    let root = &status["root_keys"][0];
    assert_eq!(
        (&root["provider"], &root["workspace_count"]),
        (&"file".into(), &1.into())
    );
    assert_eq!(status["sealed"], false);
    assert_eq!(status["pending_erasure"]["workspace_count"], 0);
    pair.ok(&["workspace", "secret", "delete", "w", "A"]).await;
    let status = pair.json(&["key", "status"]).await;
    assert_eq!(status["pending_erasure"]["workspace_count"], 1);
    assert!(status["pending_erasure"]["oldest_delete_time"].is_string());
    let said = pair.ok(&["key", "status"]).await;
    assert!(
        said.out.contains("is not erased from the store's files yet"),
        "{}",
        said.out
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_rotated_is_refused_with_the_reason() {
    let pair = Pair::start().await;
    pair.fails(66, &["key", "rotate", "gone"]).await;
    pair.fails(64, &["key", "rotate"]).await;
    pair.fails(64, &["key", "rotate", "w", "--root"]).await;
    let root = pair.aerostack(&["key", "rotate", "--root"]).await;
    assert_ne!(root.code, 0);
    assert!(root.err.contains("comes from a file"), "{}", root.err);
}
