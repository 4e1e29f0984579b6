//! `aerostack key …`

use crate::shell::TestServices;

#[tokio::test(flavor = "multi_thread")]
async fn a_workspaces_key_is_shown_and_rotated() {
    let services = TestServices::with_workspace().await;
    services.ok(&["workspace", "secret", "set", "w", "A", "1"]).await;
    let before = services.json(&["key", "show", "w"]).await;
    let old = &before["keys"][0];
    assert_eq!(
        (&old["state"], &old["record_count"]),
        (&"active".into(), &1.into())
    );
    // A rotation that has ended leaves its old key to be erased, so nothing is pending only before.
    let status = services.json(&["key", "status"]).await;
    assert_eq!(status["pending_erasure"]["workspace_count"], 0);
    let message = services.ok(&["key", "rotate", "w"]).await;
    assert!(message.out.starts_with("w has the new key "), "{}", message.out);
    let after = services.json(&["key", "show", "w"]).await;
    assert_ne!(after["keys"][0]["id"], old["id"]);
    assert!(message.out.contains(after["keys"][0]["id"].as_str().unwrap()));
    let status = services.json(&["key", "status"]).await;
    let root = &status["root_keys"][0];
    assert_eq!(
        (&root["provider"], &root["workspace_count"]),
        (&"file".into(), &1.into())
    );
    assert_eq!(status["sealed"], false);
    services.ok(&["workspace", "secret", "delete", "w", "A"]).await;
    let status = services.json(&["key", "status"]).await;
    assert_eq!(status["pending_erasure"]["workspace_count"], 1);
    assert!(status["pending_erasure"]["oldest_delete_time"].is_string());
    let message = services.ok(&["key", "status"]).await;
    let says =
        "Deleted data, and keys that a rotation replaced, are not erased from the store's files yet: since ";
    let (_, since) = message.out.split_once(says).unwrap();
    // Whole seconds: `2026-11-30T12:00:00Z`.
    assert_eq!(since.find("Z, in 1 workspace(s).\n"), Some(19), "{since}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_rotated_is_refused_with_the_reason() {
    let services = TestServices::start().await;
    services.fails(66, &["key", "rotate", "gone"]).await;
    services.fails(64, &["key", "rotate"]).await;
    services.fails(64, &["key", "rotate", "w", "--root"]).await;
    let root = services.aerostack(&["key", "rotate", "--root"]).await;
    assert_ne!(root.code, 0);
    assert!(root.err.contains("comes from a file"), "{}", root.err);
}
