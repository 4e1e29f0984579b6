//! Refusals: a refused directory is unchanged, and the message names the offending files.

use super::{
    damage::{ENDS, StoreFixture, content, snap, snapshot},
    *,
};
use crate::store::marker::{Marker, MarkerState};

/// Returns the message of the refusal, which must leave the directory unchanged.
fn refused(dir: &Path) -> String {
    let before = snapshot(dir);
    let said = match Store::open(dir, CACHE) {
        Ok(_) => panic!("it opened"),
        Err(refused) => refused.to_string(),
    };
    assert!(snapshot(dir) == before, "refused, and changed: {said}");
    said
}

/// Copies all files of `from` over those of `to`, like `cp -a from/. to`.
fn copy_over(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

#[tokio::test]
async fn an_older_copy_over_a_newer_directory_is_refused_until_the_newer_snapshot_is_removed() {
    for end in ENDS {
        let fixture = StoreFixture::ended_by(end, 600, 1_000).await;
        let older = fixture.damaged("older", |_| ());
        for round in 0..2u8 {
            let store = open(&fixture.dir);
            store
                .commit(Batch::new().put([round], vec![1; 50_000]))
                .await
                .unwrap();
            store.close().await.unwrap();
        }
        let newer = snap(&fixture.dir).unwrap();
        let name = newer.file_name().unwrap().to_str().unwrap();
        assert!(!older.join(name).exists());
        copy_over(&older, &fixture.dir);
        for _ in 0..2 {
            let said = refused(&fixture.dir);
            assert!(said.contains(name), "{end:?}: {said}");
        }
        std::fs::remove_file(&newer).unwrap();
        let store = open(&fixture.dir);
        assert!(content(&store) == fixture.content, "{end:?}: something was lost");
        store.close().await.unwrap();
    }
}

/// A process that was killed when it began to receive a backup leaves an empty file.
#[tokio::test]
async fn a_file_for_a_backup_that_a_killed_process_left_is_removed() {
    for end in ENDS {
        let fixture = StoreFixture::ended_by(end, 60, 1_000).await;
        let leftover = fixture.dir.join(crate::store::RECEIVED);
        std::fs::write(&leftover, "").unwrap();
        let store = open(&fixture.dir);
        assert!(
            !leftover.exists() && content(&store) == fixture.content,
            "{end:?}"
        );
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_directory_with_an_unknown_file_is_refused_with_the_files_name() {
    for end in ENDS {
        let fixture = StoreFixture::ended_by(end, 60, 1_000).await;
        std::fs::create_dir_all(fixture.dir.join("blobs")).unwrap();
        let strays = [
            "db~",
            ".nfs000000000123",
            "core",
            "snap.0000000000000001",
            "blobs/5",
            "notes/",
        ];
        for stray in strays {
            let path = fixture.dir.join(stray);
            if stray.ends_with('/') {
                std::fs::create_dir(&path).unwrap();
            } else {
                std::fs::write(&path, "x").unwrap();
            }
            let said = refused(&fixture.dir);
            assert!(said.contains(stray.trim_end_matches('/')), "{stray}: {said}");
            if stray.ends_with('/') {
                std::fs::remove_dir(&path).unwrap();
            } else {
                std::fs::remove_file(&path).unwrap();
            }
        }
        assert!(fixture.opens(&fixture.dir, "without strays").await);
    }
}

#[tokio::test]
async fn a_used_store_whose_marker_says_that_it_is_being_created_is_refused() {
    for end in ENDS {
        let fixture = StoreFixture::ended_by(end, 60, 1_000).await;
        let marker = Marker::read(&fixture.dir).unwrap().unwrap();
        let kept = std::fs::read(fixture.dir.join("marker")).unwrap();
        Marker {
            state: MarkerState::Creating,
            ..marker
        }
        .write(&fixture.dir)
        .unwrap();
        let said = refused(&fixture.dir);
        assert!(said.contains("was never used"), "{said}");
        std::fs::write(fixture.dir.join("marker"), kept).unwrap();
        assert!(fixture.opens(&fixture.dir, "with its own marker").await);
    }
}

#[tokio::test]
async fn a_marker_with_a_later_generation_than_the_data_is_refused() {
    for end in ENDS {
        let fixture = StoreFixture::ended_by(end, 60, 1_000).await;
        let mut marker = Marker::read(&fixture.dir).unwrap().unwrap();
        marker.checkpoint.generation += 1;
        marker.write(&fixture.dir).unwrap();
        let said = refused(&fixture.dir);
        assert!(said.contains("was acknowledged"), "{said}");
    }
}
