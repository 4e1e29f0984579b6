mod quota;
mod reload;
mod write;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use chassis::authz::Scope;
use proto::{ServerName, Uid, page::Page};
use tempfile::TempDir;

use super::{Entry, ListedServers, Registry, RegistryError, WorkspaceQuota, server::Spec};
use crate::{address::OwnListeners, authz::write_permit_for_test as admin};

const EMPTY: &str = "version: 1\nservers: []\n";

/// A registry and the directory of its servers file.
struct Fixture {
    dir: TempDir,
    registry: Registry,
}

impl Fixture {
    async fn with(text: &str) -> Self {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("servers.yaml"), text).unwrap();
        let registry = open(&dir.path().join("servers.yaml")).await.unwrap();
        Self { dir, registry }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("servers.yaml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    /// Replaces the content of the file, like an operator with an editor.
    fn edit(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }

    async fn edit_and_refresh(&self, text: &str) -> Result<(), RegistryError> {
        self.edit(text);
        self.registry.refresh().await
    }

    async fn add(&self, name: &str) -> Result<Arc<Entry>, RegistryError> {
        self.registry
            .add(
                &admin("w"),
                &label(name),
                Uid::generate(),
                Spec::of_url("https://a.example"),
            )
            .await
    }

    fn names(&self) -> Vec<String> {
        names(&self.registry)
    }

    fn find(&self, name: &str) -> Arc<Entry> {
        self.registry.find("w", name).unwrap()
    }

    /// Returns true when the directory has no other file, such as a temporary one.
    fn is_tidy(&self) -> bool {
        fs::read_dir(self.dir.path()).unwrap().count() == 1
    }
}

async fn open(path: &Path) -> Result<Registry, RegistryError> {
    let quota = WorkspaceQuota {
        servers: 10_000,
        bytes: 8 << 20,
    };
    Registry::open(path.to_owned(), OwnListeners::default(), quota).await
}

fn names(registry: &Registry) -> Vec<String> {
    let page = Page::parse(1000, "", "").unwrap();
    registry
        .list(&Scope::All, &page)
        .entries
        .iter()
        .map(|entry| super::page_key(&entry.server))
        .collect()
}

fn label(name: &str) -> ServerName {
    ServerName::parse(name).unwrap()
}

/// Returns the text of a file with servers of the workspace `w`, each as a name and further lines of YAML.
fn file(servers: &[(&str, &str)]) -> String {
    let mut text = String::from("version: 1\nservers:\n");
    for (name, rest) in servers {
        text += &format!("- workspace: w\n  name: {name}\n  url: https://{name}.example\n{rest}");
    }
    if servers.is_empty() {
        EMPTY.to_owned()
    } else {
        text
    }
}

fn invalid<T>(answer: Result<T, RegistryError>) -> bool {
    matches!(answer, Err(RegistryError::Invalid { .. }))
}

#[tokio::test]
async fn a_missing_file_is_an_empty_registry_and_is_made_on_the_first_write() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("not-there/servers.yaml");
    let registry = open(&path).await.unwrap();
    assert_eq!(registry.status().servers, 0);
    assert!(!path.exists());
    let added = registry
        .add(
            &admin("w"),
            &label("a"),
            Uid::generate(),
            Spec::of_url("https://a.example"),
        )
        .await
        .unwrap();
    assert_eq!(names(&open(&path).await.unwrap()), ["w/a"]);
    assert_eq!(
        open(&path).await.unwrap().find("w", "a").unwrap().server,
        added.server
    );
}

#[tokio::test]
async fn an_invalid_file_at_the_start_is_an_error_with_file_and_line() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("servers.yaml");
    fs::write(&path, file(&[("a", ""), ("b", "  password: s3cr3t\n")])).unwrap();
    let error = open(&path).await.err().unwrap();
    let error = chassis::telemetry::chain(&error);
    assert!(
        error.contains("servers.yaml: the servers file is not valid: line 9, column 3: field password"),
        "{error}"
    );
    assert!(!error.contains("s3cr3t"), "{error}");
    assert!(invalid(open(dir.path()).await), "a directory");
    std::os::unix::fs::symlink("nothing", dir.path().join("link")).unwrap();
    assert!(invalid(open(&dir.path().join("link")).await), "a link to nothing");
}

#[tokio::test]
async fn servers_are_found_by_workspace_and_name() {
    let fixture = Fixture::with(&file(&[("a", "")])).await;
    assert_eq!(fixture.registry.find("w", "a").unwrap().server.name.as_str(), "a");
    for (workspace, name) in [
        ("w", "b"),
        ("v", "a"),
        ("", ""),
        ("w", ""),
        ("W", "a"),
        ("w/a", ""),
    ] {
        assert!(
            fixture.registry.find(workspace, name).is_none(),
            "{workspace}/{name}"
        );
    }
    assert!(fixture.registry.get(&admin("v"), &label("a")).is_err());
}

#[tokio::test]
async fn lists_are_ordered_by_workspace_and_name_and_show_only_the_scope() {
    let entry = |workspace: &str, name: &str| {
        format!("- {{workspace: {workspace}, name: {name}, url: 'https://a.example'}}\n")
    };
    let all = [("a", "b"), ("a", "b-c"), ("a", "z"), ("a-b", "a"), ("b", "a")];
    let entries: String = all
        .iter()
        .rev()
        .map(|(workspace, name)| entry(workspace, name))
        .collect();
    let fixture = Fixture::with(&format!("version: 1\nservers:\n{entries}")).await;
    let workspaces = |names: &[&str]| Scope::Only(names.iter().map(|name| name_of(name)).collect());
    for (scope, expected) in [
        (Scope::All, &all[..]),
        (workspaces(&["a", "x"]), &all[..3]),
        (workspaces(&["a-b", "b"]), &all[3..]),
        (workspaces(&[]), &[]),
    ] {
        for size in 1..7 {
            let mut token = String::new();
            let mut seen = Vec::new();
            loop {
                let page = Page::parse(size, &token, "").unwrap();
                let ListedServers { entries, more, .. } = fixture.registry.list(&scope, &page);
                seen.extend(entries.iter().map(|entry| super::page_key(&entry.server)));
                if !more {
                    break;
                }
                token = page.token(seen.last().unwrap());
            }
            let expected: Vec<_> = expected
                .iter()
                .map(|(workspace, name)| format!("{workspace}/{name}"))
                .collect();
            assert_eq!(seen, expected, "{scope:?} by {size}");
        }
    }
}

fn name_of(workspace: &str) -> proto::WorkspaceName {
    proto::WorkspaceName::parse(workspace).unwrap()
}

#[tokio::test]
async fn the_workspace_that_answers_first_stays_pinned() {
    let fixture = Fixture::with(&file(&[("a", "")])).await;
    let (first, second) = (Uid::generate(), Uid::generate());
    let before = fixture.find("a");
    assert_eq!(before.workspace_uid(), None);
    fixture
        .edit_and_refresh(&file(&[("a", "  description: changed\n")]))
        .await
        .unwrap();
    // A call that began before the change pins the workspace for later revisions.
    assert_eq!(before.pin(first), first);
    assert_eq!(fixture.find("a").pin(second), first);
    assert_eq!(fixture.find("a").workspace_uid(), Some(first));

    fixture.edit_and_refresh(&file(&[])).await.unwrap();
    fixture.edit_and_refresh(&file(&[("a", "")])).await.unwrap();
    assert_eq!(
        fixture.find("a").workspace_uid(),
        None,
        "another server of that name"
    );

    let stated = format!("  workspace_uid: {second}\n");
    fixture.edit_and_refresh(&file(&[("a", &stated)])).await.unwrap();
    assert_eq!(fixture.find("a").pin(first), second);
}
