use std::{
    os::unix::fs::{PermissionsExt as _, symlink},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::*;
use crate::registry::FileError;

#[tokio::test]
async fn an_invalid_file_leaves_the_servers_unchanged() {
    let fixture = Fixture::with(&file(&[("a", "")])).await;
    let before = fixture.find("a");
    for wrong in [
        "",
        "version: 1\n",
        "version: 2\nservers: []\n",
        "version: 1\nservers: [{}]\n",
        "\u{0}",
    ] {
        assert!(invalid(fixture.edit_and_refresh(wrong).await), "{wrong:?}");
        assert!(invalid(fixture.registry.refresh().await), "and stays so");
        assert!(Arc::ptr_eq(&before, &fixture.find("a")), "{wrong:?}");
        assert!(fixture.registry.status().problem.is_some());
    }
    fixture
        .edit_and_refresh(&file(&[("a", ""), ("b", "")]))
        .await
        .unwrap();
    assert!(fixture.registry.status().problem.is_none());
    assert!(
        Arc::ptr_eq(&before, &fixture.find("a")),
        "an entry that did not change is the same"
    );
    assert_eq!(fixture.names(), ["w/a", "w/b"]);
}

/// Makes a directory as a kubelet does for a ConfigMap: `servers.yaml` leads through the link `..data` to a folder, and an
/// update replaces that link.
struct ConfigMapVolume {
    dir: TempDir,
    folders: usize,
}

impl ConfigMapVolume {
    fn with(text: &str) -> Self {
        let mut volume = Self {
            dir: TempDir::new().unwrap(),
            folders: 0,
        };
        volume.update(text);
        symlink("..data/servers.yaml", volume.path()).unwrap();
        volume
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("servers.yaml")
    }

    fn update(&mut self, text: &str) {
        let at = |name: &str| self.dir.path().join(name);
        let (old, new) = (format!("..{}", self.folders), format!("..{}", self.folders + 1));
        fs::create_dir(at(&new)).unwrap();
        fs::write(at(&new).join("servers.yaml"), text).unwrap();
        symlink(&new, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        let _ = fs::remove_dir_all(at(&old));
        self.folders += 1;
    }
}

#[tokio::test]
async fn a_config_map_is_used_whole_or_not_at_all_and_each_invalid_content_counts_once() {
    let (first, second) = (file(&[("a", "")]), file(&[("a", ""), ("b", "")]));
    let mut volume = ConfigMapVolume::with(&first);
    let registry = open(&volume.path()).await.unwrap();
    let status = registry.status();
    assert_eq!((status.servers, status.revision.as_str().len()), (1, 16));
    volume.update(&second);
    registry.refresh().await.unwrap();
    assert_eq!(names(&registry), ["w/a", "w/b"]);
    let revision = registry.status().revision;
    assert_ne!(revision, status.revision);
    // The second entry is wrong, so the first one is not used either.
    let wrong = file(&[("c", ""), ("d", "  surprise: 1\n")]);
    for _ in 0..3 {
        volume.update(&wrong);
        assert!(invalid(registry.refresh().await));
        assert!(invalid(registry.refresh().await));
        assert_eq!(names(&registry), ["w/a", "w/b"]);
        assert_eq!(
            (registry.status().rejections, registry.status().revision),
            (1, revision.clone())
        );
    }
    let problem = registry.status().problem.unwrap().to_string();
    assert!(
        problem.contains("line 9") && problem.contains("surprise"),
        "{problem}"
    );
    volume.update(&format!("{wrong}# another content\n"));
    assert!(invalid(registry.refresh().await));
    assert_eq!(registry.status().rejections, 2);
    volume.update(&first);
    registry.refresh().await.unwrap();
    assert_eq!(names(&registry), ["w/a"]);
    assert_eq!(registry.status().revision, status.revision);
}

#[tokio::test]
async fn a_revision_names_the_content_and_follows_changes_through_the_api() {
    let fixture = Fixture::with(EMPTY).await;
    let other = Fixture::with(EMPTY).await;
    let revision = |fixture: &Fixture| fixture.registry.status().revision;
    assert_eq!(revision(&fixture), revision(&other));
    fixture.add("b").await.unwrap();
    let written = revision(&fixture);
    assert_ne!(written, revision(&other));
    other.edit_and_refresh(&fixture.text()).await.unwrap();
    assert_eq!(revision(&other), written);
    // A comment changes no server, and is another content.
    other
        .edit_and_refresh(&format!("{}# a comment\n", other.text()))
        .await
        .unwrap();
    assert_ne!(revision(&other), written);
}

#[tokio::test]
async fn a_deleted_file_leaves_the_servers_unchanged() {
    let fixture = Fixture::with(&file(&[("a", "")])).await;
    let text = fixture.text();
    fs::remove_file(fixture.path()).unwrap();
    assert!(invalid(fixture.registry.refresh().await));
    assert!(matches!(
        fixture.registry.status().problem.as_deref(),
        Some(FileError::Gone)
    ));
    assert_eq!(fixture.names(), ["w/a"]);
    assert!(
        invalid(fixture.add("b").await),
        "what is written now would be all there is"
    );
    fixture.edit_and_refresh(&text).await.unwrap();
    assert!(fixture.registry.status().problem.is_none());
    fixture.edit_and_refresh(EMPTY).await.unwrap();
    fs::remove_file(fixture.path()).unwrap();
    fixture.registry.refresh().await.unwrap();
    fixture.add("b").await.unwrap();
}

#[tokio::test]
async fn a_problem_is_reported_until_the_previous_file_comes_back() {
    let fixture = Fixture::with(&file(&[("a", "")])).await;
    let text = fixture.text();
    fs::remove_file(fixture.path()).unwrap();
    fs::create_dir(fixture.path()).unwrap();
    assert!(invalid(fixture.registry.refresh().await));
    let problem = fixture.registry.status().problem.unwrap();
    assert!(invalid(fixture.registry.refresh().await));
    assert!(Arc::ptr_eq(&problem, &fixture.registry.status().problem.unwrap()));
    fs::remove_dir(fixture.path()).unwrap();
    fixture.edit_and_refresh(&text).await.unwrap();
    assert!(fixture.registry.status().problem.is_none());
}

#[tokio::test]
async fn a_server_keeps_its_uid_over_reloads() {
    let fixture = Fixture::with(&file(&[("a", "")])).await;
    let before = fixture.find("a").server.clone();
    fixture
        .edit_and_refresh(&file(&[("b", ""), ("a", "  description: changed\n")]))
        .await
        .unwrap();
    let after = fixture.find("a").server.clone();
    assert_eq!((after.uid, after.create_time), (before.uid, before.create_time));
    assert_ne!(after.uid, fixture.find("b").server.uid);
}

#[tokio::test]
async fn changed_content_is_a_new_revision_whatever_the_file_says() {
    let fixture = Fixture::with(&file(&[("a", "")])).await;
    let revision = || fixture.find("a").server.revision;
    assert_eq!(revision(), 1);
    for (rest, expected) in [
        ("  description: one\n", 2),
        ("  description: one\n  # only a comment\n", 2),
        ("  description: two\n  revision: 1\n", 3),
        ("  description: two\n  revision: 9\n", 9),
        ("  description: three\n  revision: 9\n", 10),
        ("  description: three\n", 10),
        ("  description: three\n  revision: 4\n", 10),
        (
            "  description: three\n  workspace_uid: 67e55044-10b1-426f-9247-bb680e5fe0c8\n",
            11,
        ),
        ("", 12),
    ] {
        fixture.edit_and_refresh(&file(&[("a", rest)])).await.unwrap();
        assert_eq!(revision(), expected, "{rest}");
    }
}

#[tokio::test]
async fn a_renamed_server_gets_a_new_revision() {
    let uid = Uid::generate();
    let stated = format!("  uid: {uid}\n  revision: 3\n");
    let fixture = Fixture::with(&file(&[("a", &stated)])).await;
    // Pooled connections of this uid and revision lead to a.example, so b.example needs another revision.
    fixture
        .edit_and_refresh(&file(&[("b", &stated), ("a", "")]))
        .await
        .unwrap();
    let (renamed, anew) = (fixture.find("b").server.clone(), fixture.find("a").server.clone());
    assert_eq!((renamed.uid, renamed.revision), (uid, 4));
    assert_ne!(anew.uid, uid);
    let moved =
        format!("version: 1\nservers: [{{workspace: v, name: b, url: 'https://b.example', uid: {uid}}}]\n");
    fixture.edit_and_refresh(&moved).await.unwrap();
    assert_eq!(fixture.registry.find("v", "b").unwrap().server.revision, 5);
}

#[tokio::test]
async fn two_servers_with_one_uid_are_refused() {
    let stated = format!("  uid: {}\n", Uid::generate());
    let fixture = Fixture::with(&file(&[("a", &stated)])).await;
    let copied = fixture
        .edit_and_refresh(&file(&[("a", &stated), ("b", &stated)]))
        .await;
    let Err(RegistryError::Invalid { source, .. }) = copied else {
        panic!("{copied:?}")
    };
    assert!(matches!(*source, FileError::SameUid { line: 7 }), "{source}");
    // The same holds for a uid that the registry generated.
    let given = format!("  uid: {}\n", fixture.find("a").server.uid);
    fixture.edit_and_refresh(&file(&[("a", "")])).await.unwrap();
    fixture
        .edit_and_refresh(&file(&[("a", ""), ("b", &given)]))
        .await
        .unwrap();
    assert_ne!(fixture.find("a").server.uid, fixture.find("b").server.uid);
}

#[tokio::test]
async fn an_edit_of_the_same_size_and_time_is_seen() {
    let fixture = Fixture::with(&file(&[("a", "")])).await;
    let modified = fs::metadata(fixture.path()).unwrap().modified().unwrap();
    fixture.edit(&file(&[("b", "")]));
    fs::File::options()
        .write(true)
        .open(fixture.path())
        .unwrap()
        .set_modified(modified)
        .unwrap();
    fixture.registry.refresh().await.unwrap();
    assert_eq!(fixture.names(), ["w/b"]);
}

#[tokio::test]
async fn an_edit_that_restores_the_modification_time_is_seen() {
    let fixture = Fixture::with(&file(&[("a", "")])).await;
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    let hide = || {
        fs::File::options()
            .write(true)
            .open(fixture.path())
            .unwrap()
            .set_modified(long_ago)
            .unwrap()
    };
    hide();
    // The file now counts as settled, so the registry reads it again only when its stamp changes.
    fixture.registry.refresh().await.unwrap();
    fixture.edit(&file(&[("b", "")]));
    hide();
    fixture.registry.refresh().await.unwrap();
    assert_eq!(fixture.names(), ["w/b"]);
}

#[tokio::test]
async fn a_mounted_config_map_is_followed_through_its_links() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (version, servers) in [("v1", file(&[("a", "")])), ("v2", file(&[("b", "")]))] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("servers.yaml"), servers).unwrap();
    }
    symlink("v1", at("..data")).unwrap();
    symlink("..data/servers.yaml", at("servers.yaml")).unwrap();
    let registry = open(&at("servers.yaml")).await.unwrap();
    assert_eq!(names(&registry), ["w/a"]);

    symlink("v2", at("..new")).unwrap();
    fs::rename(at("..new"), at("..data")).unwrap();
    registry.refresh().await.unwrap();
    assert_eq!(names(&registry), ["w/b"]);

    registry
        .add(
            &admin("w"),
            &label("c"),
            Uid::generate(),
            Spec::of_url("https://c.example"),
        )
        .await
        .unwrap();
    assert!(fs::symlink_metadata(at("servers.yaml")).unwrap().is_symlink());
    assert!(
        fs::read_to_string(at("v2/servers.yaml"))
            .unwrap()
            .contains("https://c.example")
    );
    assert_eq!(names(&open(&at("servers.yaml")).await.unwrap()), ["w/b", "w/c"]);

    fs::set_permissions(at("v2/servers.yaml"), fs::Permissions::from_mode(0o444)).unwrap();
    let refused = registry.remove(&admin("w"), &label("c"), 0).await;
    assert!(matches!(refused, Err(RegistryError::ReadOnly(_))), "{refused:?}");
}

#[tokio::test]
async fn subscribers_are_notified_of_changes_only() {
    let fixture = Fixture::with(&file(&[("a", "")])).await;
    let mut changed = fixture.registry.subscribe();
    fixture
        .edit_and_refresh(&format!("# comment\n{}", file(&[("a", "")])))
        .await
        .unwrap();
    assert!(invalid(fixture.edit_and_refresh("x").await));
    assert!(!changed.has_changed().unwrap());
    fixture.edit_and_refresh(&file(&[])).await.unwrap();
    changed.changed().await.unwrap();
    assert!(fixture.registry.uids_and_revisions().is_empty());
    let added = fixture.add("b").await.unwrap();
    changed.changed().await.unwrap();
    assert_eq!(
        fixture.registry.uids_and_revisions(),
        [(added.server.uid, 1)].into()
    );
}

#[tokio::test]
async fn a_watched_file_is_read_again_after_an_edit() {
    let fixture = Fixture::with(&file(&[("a", "")])).await;
    let (mut changed, stop) = (fixture.registry.subscribe(), CancellationToken::new());
    let watching = tokio::spawn(fixture.registry.clone().watch(stop.clone()));
    fixture.edit(&file(&[("b", "")]));
    changed.changed().await.unwrap();
    assert_eq!(fixture.names(), ["w/b"]);
    stop.cancel();
    watching.await.unwrap();
}
