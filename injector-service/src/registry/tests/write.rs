use std::{
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::*;
use crate::registry::{atomic_file::StagedFile, server_map::ServerMap, servers_file::parse};

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn every_change_is_in_the_file() {
    let fixture = Fixture::with(EMPTY).await;
    let reopened = async || {
        open(&fixture.path())
            .await
            .unwrap()
            .find("w", "a")
            .map(|entry| entry.server.clone())
    };
    let added = fixture.add("a").await.unwrap().server.clone();
    assert_eq!((added.revision, added.workspace_uid.is_some()), (1, true));
    assert_eq!(reopened().await.unwrap(), added);

    let other = Spec::of_url("https://other.example");
    let changed = fixture
        .registry
        .update(&admin("w"), &label("a"), 1, other.clone())
        .await
        .unwrap()
        .server
        .clone();
    assert_eq!(
        (changed.uid, changed.revision, &changed.spec),
        (added.uid, 2, &other)
    );
    assert_eq!(
        (changed.create_time, changed.workspace_uid),
        (added.create_time, added.workspace_uid)
    );
    assert!(changed.update_time >= added.update_time);
    assert_eq!(reopened().await.unwrap(), changed);

    fixture
        .registry
        .remove(&admin("w"), &label("a"), 2)
        .await
        .unwrap();
    assert_eq!(reopened().await, None);
    assert!(fixture.is_tidy());
}

#[tokio::test]
async fn a_change_with_a_wrong_name_or_revision_is_refused() {
    let fixture = Fixture::with(EMPTY).await;
    fixture.add("a").await.unwrap();
    let text = fixture.text();
    let (registry, a, b) = (&fixture.registry, label("a"), label("b"));
    assert!(matches!(
        fixture.add("a").await,
        Err(RegistryError::ServerExists(..))
    ));
    for revision in [0, 2] {
        let stale = registry
            .update(&admin("w"), &a, revision, Spec::of_url("https://b.example"))
            .await;
        assert!(
            matches!(stale, Err(RegistryError::RevisionMismatch)),
            "{revision}"
        );
    }
    assert!(matches!(
        registry.remove(&admin("w"), &a, 2).await,
        Err(RegistryError::RevisionMismatch)
    ));
    assert!(matches!(
        registry.remove(&admin("w"), &b, 0).await,
        Err(RegistryError::NoServer(..))
    ));
    assert!(matches!(
        registry.remove(&admin("v"), &a, 0).await,
        Err(RegistryError::NoServer(..))
    ));
    assert_eq!(fixture.text(), text);
    registry.remove(&admin("w"), &a, 0).await.unwrap();
    assert!(fixture.names().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_lose_no_server() {
    let fixture = Fixture::with(EMPTY).await;
    let expected: Vec<_> = (10..50).map(|n| format!("w/s{n}")).collect();
    let writers: Vec<_> = (10..50)
        .map(|n| {
            let registry = fixture.registry.clone();
            tokio::spawn(async move {
                let name = label(&format!("s{n}"));
                registry
                    .add(
                        &admin("w"),
                        &name,
                        Uid::generate(),
                        Spec::of_url("https://a.example"),
                    )
                    .await
                    .unwrap();
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(fixture.names(), expected);
    assert_eq!(names(&open(&fixture.path()).await.unwrap()), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_several_updates_of_the_same_revision_succeeds() {
    let fixture = Fixture::with(EMPTY).await;
    fixture.add("a").await.unwrap();
    let writers: Vec<_> = (0..10)
        .map(|n| {
            let registry = fixture.registry.clone();
            let spec = Spec::of_url(&format!("https://a{n}.example"));
            tokio::spawn(async move { registry.update(&admin("w"), &label("a"), 1, spec).await.is_ok() })
        })
        .collect();
    let mut won = 0;
    for writer in writers {
        won += usize::from(writer.await.unwrap());
    }
    assert_eq!((won, fixture.find("a").server.revision), (1, 2));
}

#[tokio::test]
async fn a_write_keeps_what_an_operator_wrote_just_before() {
    let fixture = Fixture::with(&file(&[("a", "")])).await;
    fixture.edit(&file(&[("a", "  description: edited\n"), ("b", "")]));
    fixture.add("c").await.unwrap();
    assert_eq!(fixture.names(), ["w/a", "w/b", "w/c"]);
    let reopened = open(&fixture.path()).await.unwrap();
    assert_eq!(names(&reopened), ["w/a", "w/b", "w/c"]);
    assert_eq!(reopened.find("w", "a").unwrap().server.spec.description, "edited");
    assert_eq!(reopened.find("w", "a").unwrap().server.revision, 2);
    assert_eq!(
        reopened.find("w", "a").unwrap().server.uid,
        fixture.find("a").server.uid
    );

    // The operator's edit increases the revision.
    fixture.edit(&fixture.text().replace("edited", "again"));
    let stale = fixture
        .registry
        .update(&admin("w"), &label("a"), 2, Spec::of_url("https://b.example"))
        .await;
    assert!(matches!(stale, Err(RegistryError::RevisionMismatch)), "{stale:?}");
    assert_eq!(fixture.find("a").server.spec.description, "again");
}

#[tokio::test]
async fn a_write_is_repeated_when_the_file_changes_in_its_midst() {
    let fixture = Fixture::with(&file(&[("a", "")])).await;
    let edits = |count: usize| {
        let (path, left) = (fixture.path(), std::sync::atomic::AtomicUsize::new(count));
        let added = Entry::added(
            name_of("w"),
            label("c"),
            Uid::generate(),
            Spec::of_url("https://c.example"),
        );
        let added = Arc::new(added);
        move |servers: &mut ServerMap| {
            if left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
            {
                let edit = format!("  description: edited {left:?}\n");
                fs::write(&path, file(&[("a", &edit), ("b", "")])).unwrap();
            }
            servers.insert(added.clone());
            Ok(())
        }
    };
    assert!(matches!(
        fixture.registry.write(edits(100)).await,
        Err(RegistryError::Contended)
    ));
    assert!(fixture.is_tidy());
    fixture.registry.write(edits(2)).await.unwrap();
    assert_eq!(
        names(&open(&fixture.path()).await.unwrap()),
        ["w/a", "w/b", "w/c"]
    );
    assert!(fixture.text().contains("edited 0"), "{}", fixture.text());
}

#[tokio::test]
async fn an_invalid_file_is_not_overwritten() {
    let fixture = Fixture::with(&file(&[("a", "")])).await;
    let wrong = format!("{}  half a li", file(&[("a", "")]));
    fixture.edit(&wrong);
    assert!(invalid(fixture.add("b").await));
    assert!(invalid(
        fixture.registry.remove(&admin("w"), &label("a"), 0).await
    ));
    assert_eq!(fixture.text(), wrong);
    assert_eq!(fixture.names(), ["w/a"]);
    assert!(fixture.is_tidy());
}

#[tokio::test]
async fn a_read_only_file_is_not_replaced() {
    let fixture = Fixture::with(&file(&[("a", "")])).await;
    let text = fixture.text();
    set_mode(&fixture.path(), 0o444);
    assert!(matches!(fixture.add("b").await, Err(RegistryError::ReadOnly(_))));
    assert!(matches!(
        fixture.registry.remove(&admin("w"), &label("a"), 0).await,
        Err(RegistryError::ReadOnly(_))
    ));
    assert_eq!(fixture.text(), text);
    assert_eq!(fixture.names(), ["w/a"]);
    assert!(fixture.is_tidy());
    set_mode(&fixture.path(), 0o644);
    fixture.add("b").await.unwrap();
}

#[test]
fn errors_of_the_operating_system_are_classified() {
    use rustix::io::Errno;
    for errno in [Errno::ROFS, Errno::ACCESS, Errno::PERM, Errno::BUSY] {
        assert!(
            matches!(
                std::io::Error::from(errno).into(),
                RegistryError::ReadOnly(Some(_))
            ),
            "{errno:?}"
        );
    }
    for errno in [Errno::NOSPC, Errno::DQUOT] {
        assert!(
            matches!(std::io::Error::from(errno).into(), RegistryError::Full(_)),
            "{errno:?}"
        );
    }
    assert!(matches!(
        std::io::Error::from(Errno::IO).into(),
        RegistryError::Write(_)
    ));
}

#[tokio::test]
async fn a_new_file_is_private_and_the_mode_of_an_old_file_is_kept() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("servers.yaml");
    let registry = open(&path).await.unwrap();
    let add = async |name| {
        registry
            .add(
                &admin("w"),
                &label(name),
                Uid::generate(),
                Spec::of_url("https://a.example"),
            )
            .await
    };
    add("a").await.unwrap();
    assert_eq!(mode(&path), 0o600);
    set_mode(&path, 0o640);
    add("b").await.unwrap();
    assert_eq!(mode(&path), 0o640);
}

#[tokio::test]
async fn a_crash_before_the_rename_leaves_the_old_file_whole() {
    let fixture = Fixture::with(&file(&[("a", "")])).await;
    let text = fixture.text();
    let staged = StagedFile::write(&fixture.path(), b"version: 1\nservers: [").unwrap();
    // Simulates a crash, after which nothing deletes the temporary file.
    std::mem::forget(staged);
    assert!(!fixture.is_tidy());
    assert_eq!(fixture.text(), text);
    assert_eq!(names(&open(&fixture.path()).await.unwrap()), ["w/a"]);
    fixture.add("b").await.unwrap();
    assert_eq!(names(&open(&fixture.path()).await.unwrap()), ["w/a", "w/b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_concurrent_reader_sees_whole_files() {
    let fixture = Fixture::with(EMPTY).await;
    let done = Arc::new(AtomicBool::new(false));
    let (path, stop) = (fixture.path(), done.clone());
    let reader = std::thread::spawn(move || {
        let (mut last, mut looks) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            let servers = parse(&fs::read(&path).unwrap(), &OwnListeners::default())
                .unwrap()
                .len();
            assert!(servers >= last, "{servers} after {last}");
            (last, looks) = (servers, looks + 1);
        }
        looks
    });
    for n in 0..60 {
        fixture.add(&format!("s{n}")).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() > 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cancelled_write_leaves_file_and_registry_in_step() {
    let fixture = Fixture::with(EMPTY).await;
    for n in 0..50 {
        let name = format!("s{n}");
        let _ = tokio::time::timeout(Duration::from_micros(n * 40), fixture.add(&name)).await;
    }
    fixture.add("last").await.unwrap();
    assert_eq!(names(&open(&fixture.path()).await.unwrap()), fixture.names());
    assert!(fixture.is_tidy());
}

#[tokio::test]
async fn a_written_file_warns_that_comments_are_lost() {
    let fixture = Fixture::with(&format!("# mine\n{EMPTY}")).await;
    fixture.add("a").await.unwrap();
    assert!(!fixture.text().contains("# mine"));
    assert!(fixture.text().contains("comments are lost"));
}
