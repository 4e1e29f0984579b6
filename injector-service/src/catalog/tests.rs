use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

use proto::page::Page;
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

fn name(text: &str) -> EntryName {
    EntryName::parse(text).unwrap()
}

/// Returns the text of a catalog with entries of these names.
fn with(names: &[&str]) -> String {
    let entries = names
        .iter()
        .map(|name| format!("- {{name: '{name}', url: 'https://a.example'}}\n"));
    format!("version: 1\nservers:\n{}", entries.collect::<String>())
}

fn parsed(names: &[&str]) -> Entries {
    file::parse(with(names).as_bytes()).unwrap()
}

struct OnDisk {
    dir: TempDir,
}

impl OnDisk {
    fn new(text: &str) -> Self {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("catalog.yaml"), text).unwrap();
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("catalog.yaml")
    }

    fn refused(&self) -> String {
        chain(&Catalog::open(&self.path()).unwrap_err())
    }
}

#[test]
fn entries_are_in_the_order_of_their_names_and_in_pages() {
    let entries = parsed(&["@b/a", "@a/z", "@a-b/a", "@a/b"]);
    let page = |size: u32, token: &str| {
        let page = Page::parse(size, token, "x").unwrap();
        let (found, more) = entries.page(&page);
        let names: Vec<_> = found.iter().map(|entry| entry.name.as_str()).collect();
        (
            names.join(" "),
            more.then(|| page.token(found.last().unwrap().name.as_str())),
        )
    };
    let all = "@a-b/a @a/b @a/z @b/a";
    assert_eq!(page(0, ""), (all.to_owned(), None));
    assert_eq!(page(4, ""), (all.to_owned(), None));
    let (first, token) = page(3, "");
    assert_eq!(first, "@a-b/a @a/b @a/z");
    assert_eq!(page(3, &token.unwrap()), ("@b/a".to_owned(), None));
}

#[test]
fn similar_names_come_first() {
    let entries = parsed(&["@a/a", "@github/api", "@aerostack/github", "@github/mcp", "@z/z"]);
    let near = |text: &str| {
        let near: Vec<_> = entries
            .names_nearest_first(&name(text))
            .iter()
            .map(ToString::to_string)
            .collect();
        near.join(" ")
    };
    assert_eq!(
        near("@github/github"),
        "@aerostack/github @github/api @github/mcp @a/a @z/z"
    );
    assert_eq!(
        near("@x/y"),
        "@a/a @aerostack/github @github/api @github/mcp @z/z"
    );
}

#[test]
fn an_invalid_file_is_refused_without_its_path() {
    let disk = OnDisk::new("");
    let path = disk.path();
    let says = |part: &str| {
        let error = disk.refused();
        assert!(
            error.starts_with("the catalog is not valid: ") && error.contains(part),
            "{part:?} in {error}"
        );
        assert!(!error.contains('/'), "{error}");
    };
    says("the file ends too early");
    fs::write(&path, b"version: 1\nservers: []\n# \xff").unwrap();
    says("UTF-8");
    fs::write(
        &path,
        format!("version: 1\nservers: []\n#{}", "x".repeat(8 << 20)),
    )
    .unwrap();
    says("larger than 8 MiB");
    fs::remove_file(&path).unwrap();
    says("no such file");
    symlink("nowhere", &path).unwrap();
    says("cannot be read: No such file");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    says("not a regular file");
}

#[tokio::test]
async fn an_edit_takes_effect_at_the_next_use() {
    let disk = OnDisk::new(&with(&["@a/b"]));
    let catalog = Catalog::open(&disk.path()).unwrap();
    let has = async |name: &EntryName| catalog.entries().await.map(|entries| entries.get(name).is_some());
    assert!(has(&name("@a/b")).await.unwrap());
    fs::write(disk.path(), with(&["@a/c"])).unwrap();
    assert!(!has(&name("@a/b")).await.unwrap());
    assert!(has(&name("@a/c")).await.unwrap());
    fs::write(disk.path(), "version: 1\n").unwrap();
    assert!(chain(&has(&name("@a/c")).await.unwrap_err()).contains("servers is missing"));
    fs::write(disk.path(), with(&["@a/c"])).unwrap();
    assert!(has(&name("@a/c")).await.unwrap());
}

/// Kubernetes mounts a ConfigMap in this way: `catalog.yaml` → `..data/catalog.yaml`, and `..data` → a directory that is
/// replaced by another.
#[tokio::test]
async fn a_mounted_config_map_is_followed_through_its_links() {
    let dir = TempDir::new().unwrap();
    let (path, data) = (dir.path().join("catalog.yaml"), dir.path().join("..data"));
    for (version, entry) in [("..1", "@a/one"), ("..2", "@a/two")] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("catalog.yaml"), with(&[entry])).unwrap();
    }
    symlink("..1", &data).unwrap();
    symlink("..data/catalog.yaml", &path).unwrap();
    let catalog = Catalog::open(&path).unwrap();
    assert!(catalog.entries().await.unwrap().get(&name("@a/one")).is_some());
    symlink("..2", dir.path().join("..new")).unwrap();
    fs::rename(dir.path().join("..new"), &data).unwrap();
    let entries = catalog.entries().await.unwrap();
    assert!(entries.get(&name("@a/one")).is_none() && entries.get(&name("@a/two")).is_some());
}

#[tokio::test]
async fn only_one_caller_reads_the_file_at_a_time() {
    let disk = OnDisk::new(&with(&["@a/b"]));
    let catalog = Catalog::open(&disk.path()).unwrap();
    let turn = catalog.read_lock.clone().lock_owned().await;
    let clone = catalog.clone();
    let mut waiting = std::pin::pin!(clone.entries());
    assert!(timeout(Duration::from_millis(100), &mut waiting).await.is_err());
    drop(turn);
    assert!(waiting.await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concurrent_reader_sees_a_whole_file() {
    let disk = OnDisk::new(&with(&["@a/b"]));
    let catalog = Catalog::open(&disk.path()).unwrap();
    let (path, beside) = (disk.path(), disk.dir.path().join("beside"));
    let replacing = tokio::task::spawn_blocking(move || {
        for _ in 0..500 {
            fs::write(&beside, with(&["@a/b", "@a/c"])).unwrap();
            fs::rename(&beside, &path).unwrap();
        }
    });
    let mut seen = 0;
    while !replacing.is_finished() || seen < 10 {
        assert!(catalog.entries().await.unwrap().get(&name("@a/b")).is_some());
        seen += 1;
    }
    replacing.await.unwrap();
}
