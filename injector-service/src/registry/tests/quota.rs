use super::*;
use crate::registry::{error::QuotaError, servers_file};

const FEW: WorkspaceQuota = WorkspaceQuota {
    servers: 3,
    bytes: 2000,
};

async fn registry(quota: WorkspaceQuota, text: &str) -> (TempDir, Registry) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("servers.yaml");
    fs::write(&path, text).unwrap();
    let registry = Registry::open(path, OwnListeners::default(), quota)
        .await
        .unwrap();
    (dir, registry)
}

fn described(length: usize) -> Spec {
    Spec {
        description: "x".repeat(length),
        ..Spec::of_url("https://a.example")
    }
}

async fn add(registry: &Registry, workspace: &str, name: &str, length: usize) -> Result<(), RegistryError> {
    let (permit, name) = (admin(workspace), label(name));
    let added = registry
        .add(&permit, &name, Uid::generate(), described(length))
        .await;
    added.map(drop)
}

async fn update(registry: &Registry, name: &str, length: usize) -> Result<(), RegistryError> {
    let revision = registry.find("w", name).unwrap().server.revision;
    let changed = registry
        .update(&admin("w"), &label(name), revision, described(length))
        .await;
    changed.map(drop)
}

fn quota(answer: Result<(), RegistryError>) -> Option<QuotaError> {
    match answer {
        Ok(()) => None,
        Err(RegistryError::Quota(error)) => Some(error),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_workspace_at_its_number_of_servers_does_not_affect_other_workspaces() {
    let (_dir, registry) = registry(FEW, EMPTY).await;
    for name in ["a", "b", "c"] {
        assert_eq!(quota(add(&registry, "w", name, 0).await), None);
    }
    assert_eq!(
        quota(add(&registry, "w", "d", 0).await),
        Some(QuotaError::Servers(3))
    );
    assert_eq!(registry.status().servers, 3);
    assert_eq!(quota(add(&registry, "other", "d", 0).await), None);
    // A workspace at its quota may change a server, and may replace one server by another.
    assert_eq!(quota(update(&registry, "a", 10).await), None);
    registry.remove(&admin("w"), &label("b"), 0).await.unwrap();
    assert_eq!(quota(add(&registry, "w", "d", 0).await), None);
}

#[tokio::test]
async fn a_workspace_is_limited_in_bytes_of_the_file() {
    let (_dir, registry) = registry(FEW, EMPTY).await;
    assert_eq!(quota(add(&registry, "w", "a", 1000).await), None);
    assert_eq!(
        quota(add(&registry, "w", "b", 1000).await),
        Some(QuotaError::Bytes(2000))
    );
    assert_eq!(quota(add(&registry, "w", "b", 0).await), None);
    assert_eq!(
        quota(update(&registry, "b", 1000).await),
        Some(QuotaError::Bytes(2000))
    );
    assert_eq!(quota(add(&registry, "other", "b", 1000).await), None);
    let servers = registry
        .list(&Scope::Only([admin("w").workspace().clone()].into()), &page())
        .entries;
    assert!(servers_file::size(servers.iter().map(|entry| &entry.server)).unwrap() <= FEW.bytes);
}

#[tokio::test]
async fn an_operator_may_exceed_the_quota_and_the_api_may_then_only_shrink_the_workspace() {
    let more = "  description: ".to_owned() + &"x".repeat(1000) + "\n";
    let rest = ["a", "b", "c", "d"].map(|name| (name, more.as_str()));
    let (_dir, registry) = registry(FEW, &super::file(&rest)).await;
    assert_eq!(registry.status().servers, 4);
    assert_eq!(
        quota(update(&registry, "a", 1020).await),
        Some(QuotaError::Bytes(2000))
    );
    assert_eq!(quota(update(&registry, "a", 500).await), None);
    registry.remove(&admin("w"), &label("b"), 0).await.unwrap();
    registry.remove(&admin("w"), &label("c"), 0).await.unwrap();
    assert_eq!(
        quota(add(&registry, "w", "b", 1000).await),
        Some(QuotaError::Bytes(2000))
    );
}

fn page() -> Page {
    Page::parse(1000, "", "").unwrap()
}
