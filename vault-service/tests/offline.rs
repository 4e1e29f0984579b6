//! `vault-service backup`, `vault-service restore` and `vault-service repair`, as processes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use chassis::{
    authz::{Authorized, AuthzLayer, Binding, Policy, Role, Scope},
    caller::Peer,
};
use proto::{Principal, SecretName, SecretValue, WorkspaceName};
use tempfile::TempDir;
use vault_service::{
    authz::{AdminPermit, DecryptPermit, TABLE},
    crypto::root_key_file,
    root::{Provider, Providers, RootKeyWrapper},
    store::Store,
    vault::{DecryptOutcome, DecryptQuery, Labels, NewSecret, Plan, Reader, Vault, Writer},
};
use zeroize::Zeroizing;

const WORKSPACE: &str = "w";

fn vault() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vault-service"));
    command.env_clear();
    command
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A directory with root keys and passphrases.
struct Home(TempDir, Root);

/// Provider of a store's root key: the setting, and the file that it names.
type Root = [&'static str; 2];

const KEY_FILE: Root = ["--root-key-file", "root.key"];
const PASSPHRASE: Root = ["--root-passphrase-file", "words"];

/// Returns a value of about 250 bytes, the size of most secrets.
const SMALL: usize = 20;

impl Home {
    fn new() -> Self {
        let home = Self(TempDir::new().unwrap(), KEY_FILE);
        root_key_file::write_new(&home.path("root.key")).unwrap();
        home
    }

    fn with_passphrase(words: &str) -> Self {
        let home = Self(TempDir::new().unwrap(), PASSPHRASE);
        home.words_are(words);
        home
    }

    fn words_are(&self, words: &str) {
        fs::write(self.path("words"), words).unwrap();
        fs::set_permissions(self.path("words"), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Opens the vault in this store, or creates it.
    async fn open(&self, store: &str) -> (Writer, Reader) {
        let [_, file] = self.1;
        let root = match self.1 {
            KEY_FILE => Provider::File(Arc::new(root_key_file::read(&self.path(file)).unwrap())),
            _ => Provider::Wrapper(RootKeyWrapper::Passphrase(self.path(file))),
        };
        let store = Store::open(&self.path(store), 16 << 20).unwrap();
        let vault = Vault::open(store, Providers::new(root, Vec::new())).await;
        vault.unwrap().split()
    }

    /// Makes a store with `count` small secrets.
    async fn fill(&self, store: &str, secrets: usize) {
        self.fill_with(store, secrets, SMALL).await;
    }

    async fn fill_with(&self, store: &str, secrets: usize, size: usize) {
        let (writer, _) = self.open(store).await;
        let permit = admin();
        writer.create_workspace(&permit, Plan::Enterprise).await.unwrap();
        let puts = (0..secrets).map(|number| {
            let (writer, permit) = (writer.clone(), permit.clone());
            tokio::spawn(async move { writer.put_secret(&permit, secret(number, size)).await.unwrap() })
        });
        for put in puts.collect::<Vec<_>>() {
            put.await.unwrap();
        }
        writer.close().await.unwrap();
    }

    fn run(&self, what: &str, store: &str, more: &[&str]) -> Command {
        let mut command = vault();
        command
            .current_dir(self.0.path())
            .args([what, "--data-dir", store])
            .args(self.1)
            .args(more)
            .stdin(Stdio::null());
        command
    }

    fn ok(&self, what: &str, store: &str, more: &[&str]) -> String {
        let output = self.run(what, store, more).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        said(&output)
    }

    fn refused(&self, what: &str, store: &str, more: &[&str]) -> String {
        let output = self.run(what, store, more).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        said(&output)
    }
}

fn authorized(role: Role, path: &str) -> Authorized {
    let principal = Principal::parse("dns:test").unwrap();
    let policy = Policy::new([Binding {
        principal: principal.clone(),
        role,
        scope: Scope::All,
    }]);
    let peer = Arc::new(Peer::Known {
        principal,
        not_after: SystemTime::now() + Duration::from_secs(600),
    });
    let authz = AuthzLayer::new(&TABLE, Arc::new(policy.unwrap()));
    authz.authorize(path, &peer).unwrap().unwrap()
}

fn admin() -> AdminPermit {
    let authorized = authorized(Role::Admin, "/vault.v1.WorkspaceService/CreateWorkspace");
    AdminPermit::decide(&authorized, &workspace()).unwrap()
}

fn workspace() -> WorkspaceName {
    WorkspaceName::parse(WORKSPACE).unwrap()
}

fn name(number: usize) -> SecretName {
    SecretName::parse(&format!("NAME_{number}")).unwrap()
}

fn value(number: usize, size: usize) -> String {
    format!("value {number}, ").repeat(size)
}

fn secret(number: usize, size: usize) -> NewSecret {
    NewSecret {
        name: name(number),
        value: SecretValue::parse(Zeroizing::new(value(number, size).into_bytes())).unwrap(),
        upstream_origins: Vec::new(),
        labels: Labels::default(),
        expiry: None,
        expected_version: None,
        request_id: None,
    }
}

/// Returns the number of secrets that decrypt to the values that were put.
async fn whole(reader: &Reader, secrets: usize) -> usize {
    whole_of(reader, secrets, SMALL).await
}

async fn whole_of(reader: &Reader, secrets: usize, size: usize) -> usize {
    let authorized = authorized(Role::Injector, "/vault.v1.DecryptService/Decrypt");
    let mut whole = 0;
    for from in (0..secrets).step_by(64) {
        let numbers: Vec<_> = (from..secrets.min(from + 64)).collect();
        let query = DecryptQuery {
            permit: DecryptPermit::decide(&authorized, &workspace()).unwrap(),
            workspace_uid: None,
            names: numbers.iter().copied().map(name).collect(),
            check_only: false,
            server: None,
        };
        let answer = reader.decrypt(vec![Arc::new(query)]).await.remove(0);
        let Ok((_, found)) = answer else { continue };
        for (number, found) in numbers.into_iter().zip(found) {
            let DecryptOutcome::Value { value: found, .. } = found else {
                continue;
            };
            assert!(found.unwrap().expose() == value(number, size).as_bytes());
            whole += 1;
        }
    }
    whole
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_backed_up_and_restored_into_a_new_one() {
    let home = Home::new();
    home.fill("store", 500).await;
    let told = home.ok("backup", "store", &["--output", "backup"]);
    assert!(told.starts_with("backed up store: "), "{told}");
    let mode = fs::metadata(home.path("backup")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let told = home.ok("restore", "new", &["--input", "backup"]);
    for part in [
        "workspaces: 1,",
        "secrets: 500, in 500 versions",
        "what was changed after",
    ] {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(names(home.0.path()), ["backup", "new", "root.key", "store"]);
    let (writer, reader) = home.open("new").await;
    assert_eq!(whole(&reader, 500).await, 500);
    drop(reader);
    writer.close().await.unwrap();

    let again = home.refused("backup", "store", &["--output", "backup"]);
    assert!(again.contains("exists"), "{again}");
    let again = home.refused("restore", "new", &["--input", "backup"]);
    assert!(again.contains("has workspaces"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_is_restored_from_a_backup_with_its_passphrase_and_with_no_other() {
    let home = Home::with_passphrase("correct horse battery staple");
    home.fill("store", 20).await;
    home.words_are("correct horse battery stable");
    let told = home.refused("backup", "store", &["--output", "backup"]);
    assert!(told.contains("the passphrase is not the one"), "{told}");
    home.words_are("correct horse battery staple\n");
    home.ok("backup", "store", &["--output", "backup"]);
    fs::remove_dir_all(home.path("store")).unwrap();

    home.words_are("correct horse battery stable");
    let told = home.refused("restore", "new", &["--input", "backup"]);
    assert!(told.contains("the passphrase is not the one"), "{told}");
    let stranger = Home::new();
    fs::copy(home.path("backup"), stranger.path("backup")).unwrap();
    let told = stranger.refused("restore", "new", &["--input", "backup"]);
    assert!(told.contains("the backup needs the root key "), "{told}");
    for home in [&home, &stranger] {
        assert!(!home.path("new").exists());
    }

    home.words_are("correct horse battery staple");
    let told = home.ok("restore", "new", &["--input", "backup"]);
    assert!(told.contains("secrets: 20, in 20 versions"), "{told}");
    let (_writer, reader) = home.open("new").await;
    assert_eq!(whole(&reader, 20).await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_written_to_and_read_from_pipes() {
    let home = Home::new();
    home.fill("store", 300).await;
    let output = home.run("backup", "store", &[]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    fs::write(home.path("piped"), &output.stdout).unwrap();
    let mut restore = Command::new("sh");
    restore
        .current_dir(home.0.path())
        .args([
            "-c",
            r#"cat piped | "$0" restore --data-dir new --root-key-file root.key"#,
        ])
        .arg(vault().get_program());
    let restored = restore.output().unwrap();
    assert!(restored.status.success(), "{}", said(&restored));
    let (_writer, reader) = home.open("new").await;
    assert_eq!(whole(&reader, 300).await, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_writes_a_line_to_the_audit_log_and_does_not_start_without_the_log() {
    let home = Home::new();
    home.fill("store", 20).await;
    let unwritable = ["--output", "backup", "--audit-log", "absent/audit.log"];
    let refused = home.run("backup", "store", &unwritable).output().unwrap();
    assert_eq!(refused.status.code(), Some(64), "{}", said(&refused));
    assert!(said(&refused).contains("--audit-log: "), "{}", said(&refused));
    let inside = ["--output", "backup", "--audit-log", "store/audit.log"];
    let refused = home.run("backup", "store", &inside).output().unwrap();
    assert_eq!(refused.status.code(), Some(64), "{}", said(&refused));
    assert_eq!(names(home.0.path()), ["root.key", "store"]);
    assert!(!home.path("store/audit.log").exists());

    let logged = ["--audit-log", "audit.log"];
    home.ok(
        "backup",
        "store",
        &[&["--output", "backup"], &logged[..]].concat(),
    );
    home.ok("restore", "new", &[&["--input", "backup"], &logged[..]].concat());
    home.refused("restore", "new", &[&["--input", "backup"], &logged[..]].concat());
    home.ok("verify", "store", &[&["--scratch", "."], &logged[..]].concat());
    let text = fs::read_to_string(home.path("audit.log")).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line["method"].as_str().unwrap(),
                line["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    let (ok, failed) = ("ok", "failed");
    assert_eq!(
        told,
        [
            ("backup", ok),
            ("restore", ok),
            ("restore", failed),
            ("verify", ok)
        ]
    );
    for line in &lines {
        let user = line["principal"].as_str().unwrap();
        assert!(line["event"] == "command" && user.starts_with("uid:"), "{line}");
    }

    // Standard output contains the backup and nothing else.
    let piped = home
        .run("backup", "store", &["--audit-log", "-"])
        .output()
        .unwrap();
    assert!(said(&piped).contains(r#""event":"command""#), "{}", said(&piped));
    fs::write(home.path("piped"), &piped.stdout).unwrap();
    home.ok("restore", "piped-store", &["--input", "piped"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_store_in_use_is_refused_with_advice() {
    let home = Home::new();
    home.fill("store", 1).await;
    let (_writer, _reader) = home.open("store").await;
    let told = home.refused("backup", "store", &["--output", "backup"]);
    assert!(
        told.contains("already open in another process") && told.contains("aerostack backup"),
        "{told}"
    );
    assert_eq!(names(home.0.path()), ["root.key", "store"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_command_leaves_no_files_behind() {
    let home = Home::new();
    home.fill("store", 300).await;
    home.ok("backup", "store", &["--output", "backup"]);
    let backup = fs::read(home.path("backup")).unwrap();
    let before = names(home.0.path());

    let told = home.refused("backup", "missing", &["--output", "other"]);
    assert!(told.contains("there is no store in missing"), "{told}");
    let stranger = Home::new();
    stranger.fill("store", 1).await;
    fs::write(stranger.path("backup"), &backup).unwrap();
    let told = stranger.refused("restore", "new", &["--input", "backup"]);
    assert!(told.contains("the backup needs the root key "), "{told}");
    assert_eq!(names(stranger.0.path()), ["backup", "root.key", "store"]);
    let told = home.refused("restore", "new", &["--input", "missing"]);
    assert!(told.starts_with("missing: "), "{told}");

    let damaged = stranger.path("damaged");
    for bytes in [&backup[..backup.len() - 1], &backup[..70_000], &[]] {
        fs::write(&damaged, bytes).unwrap();
        let told = home.refused("restore", "new", &["--input", damaged.to_str().unwrap()]);
        assert!(told.contains("damaged, or not whole"), "{told}");
    }
    assert_eq!(names(home.0.path()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_restore_leaves_an_empty_vault_or_a_complete_one() {
    const SECRETS: usize = 500;
    const SIZE: usize = 1000;
    const KILLS: u32 = 8;
    let home = Home::new();
    home.fill_with("store", SECRETS, SIZE).await;
    home.ok("backup", "store", &["--output", "backup"]);
    let restoring = || {
        let mut restore = home.run("restore", "new", &["--input", "backup"]);
        let child = restore.stderr(Stdio::null()).spawn().unwrap();
        while !home.path("new/db").exists() {
            thread::yield_now();
        }
        (child, Instant::now())
    };
    let (mut undisturbed, began) = restoring();
    assert!(undisturbed.wait().unwrap().success());
    let takes = began.elapsed();
    let (mut empty, mut half) = (0, 0);
    for kill in 0..KILLS {
        fs::remove_dir_all(home.path("new")).unwrap();
        let (mut child, _) = restoring();
        thread::sleep(Duration::from_millis(5) + takes * kill / KILLS);
        child.kill().unwrap();
        child.wait().unwrap();
        let root = root_key_file::read(&home.path("root.key")).unwrap();
        let store = Store::open(&home.path("new"), 16 << 20).unwrap();
        half += usize::from(store.read(b"hold").unwrap().is_some());
        let (writer, reader) = Vault::open(store, root).await.unwrap().split();
        let found = whole_of(&reader, SECRETS, SIZE).await;
        let there = writer.workspace(&admin()).await.is_ok();
        assert_eq!(found, if there { SECRETS } else { 0 });
        empty += usize::from(!there);
        drop(reader);
        writer.close().await.unwrap();
    }
    assert!(
        half > 0 && empty >= half,
        "{half} were stopped in between, and {empty} are empty"
    );
    fs::remove_dir_all(home.path("new")).unwrap();
    home.ok("restore", "new", &["--input", "backup"]);
}

/// Returns every file of a store and its content.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |name: String| fs::read(dir.join(&name)).ok().map(|bytes| (name, bytes));
    names(dir).into_iter().filter_map(read).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_refused_for_its_root_key_is_unchanged() {
    let home = Home::new();
    home.fill("store", 50).await;
    fs::rename(home.path("root.key"), home.path("right.key")).unwrap();
    root_key_file::write_new(&home.path("root.key")).unwrap();
    let killed = home.path("killed");
    fs::create_dir(&killed).unwrap();
    for (name, bytes) in files(&home.path("store")) {
        fs::write(killed.join(name), bytes).unwrap();
    }
    for store in ["store", "killed"] {
        let before = files(&home.path(store));
        let told = home.refused("backup", store, &["--output", "backup"]);
        assert!(told.contains("needs the root key"), "{told}");
        assert!(files(&home.path(store)) == before, "{store} was changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_refused_for_its_passphrase_is_unchanged() {
    let home = Home::with_passphrase("correct horse battery staple");
    home.fill("store", 50).await;
    home.words_are("correct horse battery stable");
    let before = files(&home.path("store"));
    let told = home.refused("backup", "store", &["--output", "backup"]);
    assert!(told.contains("the passphrase is not the one"), "{told}");
    assert!(files(&home.path("store")) == before, "it was changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_and_repair_name_an_unknown_file_and_read_the_store_without_it() {
    let home = Home::new();
    home.fill("store", 50).await;
    let older = files(&home.path("store"));
    let (writer, reader) = home.open("store").await;
    for number in 50..60 {
        writer.put_secret(&admin(), secret(number, SMALL)).await.unwrap();
    }
    drop(reader);
    writer.close().await.unwrap();
    home.open("store").await.0.close().await.unwrap();
    for (name, bytes) in older {
        fs::write(home.path("store").join(name), bytes).unwrap();
    }
    let snapshots = names(&home.path("store"))
        .into_iter()
        .filter(|name| name.starts_with("snap."));
    let stray = snapshots.max().unwrap();
    let before = files(&home.path("store"));
    for command in [&["verify"][..], &["repair", "--to", "new"]] {
        let output = home.run(command[0], "store", &command[1..]).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(told.contains(&stray) && told.contains(" 50 secrets"), "{told}");
        assert!(files(&home.path("store")) == before, "it was changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_of_a_killed_repair_is_refused_until_the_repair_is_run_again() {
    const SECRETS: usize = 300;
    const SIZE: usize = 1000;
    const KILLS: u32 = 8;
    let home = Home::new();
    home.fill_with("store", SECRETS, SIZE).await;
    let repairing = || {
        let mut repair = home.run("repair", "store", &["--to", "new"]);
        repair
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let began = Instant::now();
    assert!(repairing().wait().unwrap().success());
    let takes = began.elapsed();
    let mut unfinished = 0;
    for kill in 0..KILLS {
        fs::remove_dir_all(home.path("new")).unwrap();
        let mut child = repairing();
        while !home.path("new").exists() {
            thread::yield_now();
        }
        thread::sleep(takes * kill / KILLS / 2);
        child.kill().unwrap();
        child.wait().unwrap();
        if home.path("new/repairing").exists() {
            unfinished += 1;
            let refused = Store::open(&home.path("new"), 16 << 20)
                .err()
                .unwrap()
                .to_string();
            assert!(refused.contains("run `vault-service repair` again"), "{refused}");
            let told = home.refused("backup", "new", &["--output", "backup"]);
            assert!(
                told.contains("was not finished") || told.contains("there is no store"),
                "{told}"
            );
            assert!(repairing().wait().unwrap().success(), "it was not finished");
        } else if names(&home.path("new")).is_empty() {
            // The process was killed before the repair began.
            assert!(repairing().wait().unwrap().success());
        }
        let (writer, reader) = home.open("new").await;
        assert_eq!(whole_of(&reader, SECRETS, SIZE).await, SECRETS);
        drop(reader);
        writer.close().await.unwrap();
    }
    assert!(unfinished > 0, "none was stopped in between");
    assert_eq!(names(home.0.path()), ["new", "root.key", "store"]);
}
