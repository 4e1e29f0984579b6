//! Tests of the origins of restored versions.

use super::*;

impl Fixture {
    /// Puts a value bound to `origins`, and returns its version.
    async fn bound(&self, value: &[u8], origins: &[&str]) -> u64 {
        let new = NewSecret {
            upstream_origins: origins
                .iter()
                .map(|origin| OriginPattern::parse(origin).unwrap())
                .collect(),
            ..new("T", value)
        };
        self.put_new(new).await.unwrap().secret.version
    }

    /// Restores a version, and returns the origins of the new version.
    async fn rebound(&self, version: u64) -> Result<Vec<String>, VaultError> {
        self.restored(version, RestoreOverrides::default()).await
    }

    async fn restored(&self, version: u64, overrides: RestoreOverrides) -> Result<Vec<String>, VaultError> {
        let restore = VersionRestore {
            name: secret("T"),
            version,
            expiry: RestoredExpiry::Kept,
            overrides,
            expected_version: None,
            request_id: None,
        };
        let restored = self.writer.restore_version(&admin("w"), restore).await?.secret;
        let decrypted = self.decrypt("T").await.unwrap();
        let DecryptOutcome::Value { origins, version, .. } = decrypted else {
            panic!("{decrypted:?}")
        };
        // Lists show the same origins that the record authenticates with the value.
        let shown: Vec<_> = origins.iter().map(|origin| origin.as_str().to_owned()).collect();
        assert_eq!((restored.version, &restored.upstream_origins), (version, &shown));
        Ok(shown)
    }

    async fn keeping_many(self) -> Self {
        self.change(SettingsChange {
            kept_versions: Some(KeptVersions::parse(100).unwrap()),
            ..SettingsChange::default()
        })
        .await;
        self
    }
}

const A: &str = "https://a.example.com";
const B: &str = "https://b.example.com";
const ANY: &str = "https://*.example.com";

#[tokio::test]
async fn a_restored_version_has_the_origins_of_later_versions() {
    let vault = Fixture::with_workspace(Plan::Free).await.keeping_many().await;
    let unbound = vault.bound(b"old", &[]).await;
    let bound = vault.bound(b"new", &[A]).await;
    assert_eq!(vault.rebound(unbound).await.unwrap(), [A]);
    assert_eq!(value(vault.decrypt("T").await.unwrap()).1, b"old");
    // A restore of a restored version and a put without origins do not lift the limit.
    assert_eq!(vault.rebound(3).await.unwrap(), [A]);
    vault.bound(b"anything", &[]).await;
    assert_eq!(vault.rebound(unbound).await.unwrap(), [A]);
    assert_eq!(vault.rebound(bound).await.unwrap(), [A]);
    // The limit does not apply to a value that was put later, not even when that value is restored.
    let free = vault.bound(b"free", &[]).await;
    assert!(vault.rebound(free).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_restored_version_has_the_origins_that_it_and_all_later_versions_allow() {
    let vault = Fixture::with_workspace(Plan::Free).await.keeping_many().await;
    let wide = vault.bound(b"1", &[ANY, "https://other.test"]).await;
    let both = vault.bound(b"2", &[A, B]).await;
    assert_eq!(vault.rebound(wide).await.unwrap(), [A, B]);
    vault.bound(b"3", &[B]).await;
    vault.bound(b"4", &[ANY]).await;
    assert_eq!(vault.rebound(both).await.unwrap(), [B]);
    assert_eq!(vault.rebound(wide).await.unwrap(), [B]);
}

#[tokio::test]
async fn a_version_without_common_origins_is_restored_only_with_an_override() {
    let vault = Fixture::with_workspace(Plan::Free).await.keeping_many().await;
    let old = vault.bound(b"1", &[A]).await;
    let new = vault.bound(b"2", &[B]).await;
    let refused = vault.rebound(old).await;
    assert!(
        matches!(refused, Err(VaultError::RestoreWidensOrigins)),
        "{refused:?}"
    );
    assert_eq!(vault.shown("T").await.unwrap().version, new);
    let wider = RestoreOverrides {
        wider_origins: true,
        ..RestoreOverrides::default()
    };
    assert_eq!(vault.restored(old, wider).await.unwrap(), [A]);
    // An override of an administrator applies to one restore only.
    let refused = vault.rebound(old).await;
    assert!(
        matches!(refused, Err(VaultError::RestoreWidensOrigins)),
        "{refused:?}"
    );
}
