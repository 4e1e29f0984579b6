use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _};

use clap::Parser as _;
use tempfile::TempDir;

use super::*;
use crate::connect::{ConnectArgs, Connection};

/// A directory for each service, and the arguments that name the directories.
struct Directories {
    dir: TempDir,
    args: InitArgs,
}

fn new_directories() -> Directories {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["root-key", "admin"] {
        fs::create_dir(at(name)).unwrap();
    }
    let args = InitArgs {
        ca_dir: at("ca"),
        root_key_file: at("root-key/root.key"),
        vault_dir: at("vault"),
        injector_dir: at("injector"),
        upstream_dir: Some(at("upstream")),
        demo_dir: Some(at("demo")),
        admin_dir: Some(at("admin")),
        owner: Some(Owner::of(dir.path()).unwrap()),
        vault_name: "vault".to_owned(),
        injector_name: "injector".to_owned(),
        upstream_name: "upstream".to_owned(),
        vault_addr: "127.0.0.1:1051".to_owned(),
        injector_addr: "127.0.0.1:1052".to_owned(),
        vault_metrics_addr: "127.0.0.1:1061".to_owned(),
        injector_metrics_addr: "127.0.0.1:1062".to_owned(),
    };
    Directories { dir, args }
}

fn after_first_run() -> Directories {
    let directories = new_directories();
    run(&directories.args).unwrap();
    directories
}

impl Directories {
    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Returns the mode and the contents of every file, by path.
    fn files(&self) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut files = BTreeMap::new();
        let mut dirs = vec![self.dir.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
                let path = entry.path();
                if path.is_dir() {
                    dirs.push(path);
                    continue;
                }
                let name = path.strip_prefix(self.dir.path()).unwrap();
                let mode = entry.metadata().unwrap().mode() & 0o777;
                files.insert(
                    name.to_str().unwrap().to_owned(),
                    (mode, fs::read(&path).unwrap()),
                );
            }
        }
        files
    }
}

#[test]
fn each_service_gets_only_its_own_files() {
    let files = after_first_run().files();
    let expected = [
        "admin/pki/admin-key.pem",
        "admin/pki/admin.pem",
        "admin/pki/ca.pem",
        "admin/ports.json",
        "ca/ca-key.pem",
        "ca/ca.pem",
        "demo/ca.pem",
        "demo/demo-key.pem",
        "demo/demo.pem",
        "injector/ca.pem",
        "injector/injector-key.pem",
        "injector/injector.pem",
        "root-key/root.key",
        "upstream/ca.pem",
        "upstream/upstream-key.pem",
        "upstream/upstream.pem",
        "vault/ca.pem",
        "vault/vault-key.pem",
        "vault/vault.pem",
    ];
    assert!(files.keys().eq(expected), "{:?}", files.keys());
    for (name, (mode, _)) in &files {
        let secret = name.ends_with("-key.pem") || name.ends_with("root.key");
        assert!(!secret || *mode == 0o600, "{name}: {mode:o}");
    }
    let ca = &files["ca/ca.pem"].1;
    for folder in ["admin/pki", "demo", "injector", "upstream", "vault"] {
        assert_eq!(&files[&format!("{folder}/ca.pem")].1, ca, "{folder}");
    }
}

#[test]
fn a_second_run_makes_nothing_and_changes_nothing() {
    let directories = after_first_run();
    let before = directories.files();
    assert!(run(&directories.args).unwrap().is_empty());
    assert_eq!(directories.files(), before);
}

#[test]
fn lost_files_are_made_again_and_reported() {
    let directories = after_first_run();
    let before = directories.files();
    for name in ["injector/injector-key.pem", "vault/ca.pem"] {
        fs::remove_file(directories.at(name)).unwrap();
    }
    let made = run(&directories.args).unwrap();
    assert_eq!(
        made,
        [format!(
            "a certificate, in {}",
            directories.at("injector").display()
        )]
    );
    let after = directories.files();
    let changed = after
        .iter()
        .filter(|(name, file)| before.get(*name) != Some(file));
    let changed: Vec<&String> = changed.map(|(name, _)| name).collect();
    assert_eq!(changed, ["injector/injector-key.pem", "injector/injector.pem"]);
}

#[test]
fn a_lost_root_key_is_not_made_again() {
    let directories = after_first_run();
    let key = directories.at("root-key/root.key");
    fs::remove_file(&key).unwrap();
    let before = directories.files();
    let refused = run(&directories.args).unwrap_err();
    assert!(
        matches!(&refused, InitError::RootKeyLost { root_key, .. } if *root_key == key),
        "{refused}"
    );
    assert_eq!(directories.files(), before);
}

#[test]
fn an_authority_for_other_names_is_refused_and_kept() {
    let mut directories = after_first_run();
    let before = directories.files();
    directories.args.vault_name = "vault.example.org".to_owned();
    let refused = run(&directories.args).unwrap_err();
    assert!(
        matches!(refused, InitError::Pki(PkiError::CaForeign(_))),
        "{refused}"
    );
    assert_eq!(directories.files(), before);
}

#[test]
fn other_files_in_the_administrators_directory_stay_unchanged() {
    let directories = new_directories();
    fs::write(directories.at("admin/.gitignore"), "*\n").unwrap();
    let mode = || fs::metadata(directories.at("admin")).unwrap().mode();
    let before = mode();
    run(&directories.args).unwrap();
    assert_eq!(directories.files()["admin/.gitignore"].1, b"*\n");
    assert_eq!(mode(), before);
}

#[tokio::test]
async fn the_administrators_directory_names_the_addresses_of_the_services() {
    let directories = after_first_run();
    let args = ConnectArgs {
        dir: Some(directories.at("admin")),
        ..ConnectArgs::default()
    };
    let connection = Connection::find(&args, |_| None).unwrap();
    assert_eq!(connection.vault().unwrap().address(), "127.0.0.1:1051");
    assert_eq!(connection.injector().unwrap().address(), "127.0.0.1:1052");
    let ports: BTreeMap<String, String> =
        serde_json::from_slice(&fs::read(directories.at("admin/ports.json")).unwrap()).unwrap();
    assert_eq!(ports["vault_metrics"], "127.0.0.1:1061");
    assert_eq!(ports["injector_metrics"], "127.0.0.1:1062");
    // The data plane is not listed: only programs beside the injector reach it.
    assert_eq!(ports.len(), 4);
}

#[test]
fn both_services_accept_the_files_on_an_address_that_is_not_loopback() {
    let directories = after_first_run();
    let path = |name: &str| directories.at(name).to_str().unwrap().to_owned();
    let vault = vault_service::config::Cli::parse_from([
        "vault-service",
        "--listen=0.0.0.0:7150",
        &format!("--data-dir={}", path("data")),
        &format!("--root-key-file={}", path("root-key/root.key")),
        &format!("--tls-cert={}", path("vault/vault.pem")),
        &format!("--tls-key={}", path("vault/vault-key.pem")),
        &format!("--client-ca={}", path("vault/ca.pem")),
    ]);
    assert!(vault.settings.check().is_ok());
    let injector = injector_service::config::Cli::parse_from([
        "injector-service",
        "--listen=0.0.0.0:7151",
        &format!("--servers={}", path("servers.yaml")),
        &format!("--vault-ca={}", path("injector/ca.pem")),
        &format!("--vault-id={}", crate::pki::VAULT_ID),
        &format!("--vault-cert={}", path("injector/injector.pem")),
        &format!("--vault-key={}", path("injector/injector-key.pem")),
        &format!("--tls-cert={}", path("injector/injector.pem")),
        &format!("--tls-key={}", path("injector/injector-key.pem")),
        &format!("--client-ca={}", path("injector/ca.pem")),
        &format!("--upstream-ca={}", path("injector/ca.pem")),
    ]);
    assert!(injector.settings.check().is_ok());
}

#[test]
fn an_owner_is_two_numbers() {
    assert_eq!(
        "65532:65533".parse(),
        Ok(Owner {
            uid: 65532,
            gid: 65533
        })
    );
    for wrong in ["", "65532", "65532:", ":65532", "root:root", "1:2:3", "-1:0"] {
        assert!(wrong.parse::<Owner>().is_err(), "{wrong}");
    }
}
