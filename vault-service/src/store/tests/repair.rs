//! A repair that is stopped leaves a store that is not served, and the next one finishes it.

use super::*;

/// Returns all files in `dir` and their contents.
fn files(dir: &Path) -> Vec<(std::path::PathBuf, Option<Vec<u8>>)> {
    let entries = std::fs::read_dir(dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .map(|path| (path.clone(), std::fs::read(path).ok()))
        .collect();
    files.sort();
    files
}

fn refused(dir: &Path) {
    let before = files(dir);
    let refused = Store::open(dir, CACHE).err().unwrap();
    assert!(
        matches!(refused, StoreOpenError::UnfinishedRepair(_)),
        "{refused:?}"
    );
    let said = refused.to_string();
    assert!(
        said.contains("was not finished: run `vault-service repair` again"),
        "{said}"
    );
    assert!(files(dir) == before, "it was refused, and changed");
}

#[tokio::test]
async fn the_store_of_an_unfinished_repair_is_refused_wherever_the_repair_stopped() {
    let (_parent, dir) = dir();
    // The repair stopped after it created the file `repairing`.
    std::fs::create_dir(&dir).unwrap();
    repair_file::create(&dir).unwrap();
    refused(&dir);

    // The repair was killed after it wrote a part of the store.
    let store = Store::begin_repair(&dir, CACHE).unwrap();
    store.commit(Batch::new().put("a", "1")).await.unwrap();
    let killed = dir.with_extension("killed");
    std::fs::create_dir(&killed).unwrap();
    for (path, bytes) in files(&dir) {
        if let Some(bytes) = bytes {
            std::fs::write(killed.join(path.file_name().unwrap()), bytes).unwrap();
        }
    }
    refused(&killed);
    store.commit(Batch::new().put("b", "2")).await.unwrap();

    // The repair stopped after it wrote and closed the whole store.
    store.close().await.unwrap();
    refused(&dir);

    // The next repair starts from the beginning.
    for dir in [dir, killed] {
        let store = Store::begin_repair(&dir, CACHE).unwrap();
        assert_eq!(store.scan(b"", None, 10).unwrap(), []);
        store.commit(Batch::new().put("c", "3")).await.unwrap();
        store.close().await.unwrap();
        Store::end_repair(&dir).unwrap();
        let store = open(&dir);
        assert_eq!(keys(&store.scan(b"", None, 10).unwrap()), ["c"]);
        store.close().await.unwrap();
        // A repair refuses a directory with a finished store.
        let refused = Store::begin_repair(&dir, CACHE).err().unwrap();
        assert!(matches!(refused, StoreOpenError::NotEmpty(_)), "{refused:?}");
    }
}

#[test]
fn a_second_repair_into_the_same_directory_is_refused() {
    let (_parent, dir) = dir();
    let _first = Store::begin_repair(&dir, CACHE).unwrap();
    let second = Store::begin_repair(&dir, CACHE).err().unwrap();
    assert!(matches!(second, StoreOpenError::InUse(_)), "{second:?}");
}
