//! The tokens of a client: each service receives its own one.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use aerostack::pki::{DevPki, INJECTOR_ID, VAULT_ID};
use tempfile::TempDir;

use crate::{
    browser::Browser,
    recording_service::{ReceivedCall, RecordingService},
    support::{run, text},
};

const VAULT_TOKEN: &str = "vault.token.x";
const INJECTOR_TOKEN: &str = "injector.token.x";

const MANIFEST: &str = "apiVersion: aerostack/v1
kind: Workspace
name: w
plan: free
servers:
- name: api
  url: https://api.example
";

/// Two services that record, and the files of a client of both.
struct Scene {
    home: TempDir,
    pki: DevPki,
    vault: RecordingService,
    injector: RecordingService,
}

impl Scene {
    async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let pki = DevPki::ensure(home.path()).unwrap();
        for (name, content) in [
            ("vault-token", VAULT_TOKEN),
            ("injector-token", INJECTOR_TOKEN),
            ("manifest.yaml", MANIFEST),
        ] {
            fs::write(home.path().join(name), content).unwrap();
        }
        Self {
            vault: RecordingService::start(&pki.vault, &pki.ca).await,
            injector: RecordingService::start(&pki.injector, &pki.ca).await,
            home,
            pki,
        }
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    /// Returns the flags that name the services.
    fn services(&self) -> Vec<String> {
        let ca = self.pki.ca.display().to_string();
        let flags = [
            ["--vault", &self.vault.address],
            ["--injector", &self.injector.address],
            ["--vault-id", VAULT_ID],
            ["--injector-id", INJECTOR_ID],
            ["--data-plane", "http://127.0.0.1:1"],
            ["--ca", &ca],
        ];
        flags.concat().into_iter().map(ToOwned::to_owned).collect()
    }

    /// Returns the command `aerostack` for both services with these identities.
    fn command(&self, identity: &[String], args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aerostack"));
        command
            .current_dir(self.home.path())
            .env("XDG_CONFIG_HOME", self.home.path())
            .args(self.services())
            .args(identity)
            .args(args)
            .stdin(Stdio::null());
        command
    }

    fn vault_token(&self) -> [String; 2] {
        ["--token-file".to_owned(), self.path("vault-token")]
    }

    fn injector_token(&self) -> [String; 2] {
        ["--injector-token-file".to_owned(), self.path("injector-token")]
    }

    fn certificate(&self) -> [String; 4] {
        let text = |path: &PathBuf| path.display().to_string();
        let (cert, key) = (text(&self.pki.admin.cert), text(&self.pki.admin.key));
        ["--cert".to_owned(), cert, "--key".to_owned(), key]
    }

    /// Runs every kind of command that calls the injector, and returns the calls of the vault and of the injector.
    async fn calls(&self, identity: &[String]) -> (Vec<ReceivedCall>, Vec<ReceivedCall>) {
        let manifest = self.path("manifest.yaml");
        let (mut of_vault, mut of_injector) = (Vec::new(), Vec::new());
        for args in [
            &["status"][..],
            &["explain", "w", "api"],
            &["workspace", "server", "list", "w"],
            &["workspace", "secret", "delete", "w", "TOKEN", "--yes"],
            &["export", "w"],
            &["apply", "--yes", "--file", &manifest],
        ] {
            let output = run(self.command(identity, args)).await;
            let calls = self.injector.take_calls();
            assert!(!calls.is_empty(), "{args:?}: {}", text(&output.stderr));
            of_injector.extend(calls);
        }
        self.browse(identity).await;
        let calls = self.injector.take_calls();
        assert!(!calls.is_empty(), "the console called no injector");
        of_injector.extend(calls);
        of_vault.extend(self.vault.take_calls());
        assert!(!of_vault.is_empty());
        (of_vault, of_injector)
    }

    /// Loads pages of the console that show servers and the state of the services.
    async fn browse(&self, identity: &[String]) {
        let mut console = self.command(identity, &["console", "--no-open", "--listen", "127.0.0.1:0"]);
        let mut console = KilledOnDrop(console.stdout(Stdio::piped()).spawn().unwrap());
        let mut link = String::new();
        let mut stdout = BufReader::new(console.0.stdout.take().unwrap());
        stdout.read_line(&mut link).unwrap();
        let mut browser = Browser::signed_in(link.trim()).await;
        for page in ["/", "/status", "/w/w/servers"] {
            browser.get(page).await;
        }
    }
}

struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asserts that all calls carry this token, or none.
fn assert_token(calls: &[ReceivedCall], token: Option<&str>) {
    let expected = token.map(|token| format!("Bearer {token}"));
    let others = calls.iter().filter(|call| call.authorization != expected);
    let others: Vec<_> = others.map(|call| &call.path).collect();
    assert!(others.is_empty(), "not with {token:?}: {others:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_injector_never_gets_the_token_for_the_vault() {
    let scene = Scene::start().await;
    let (vault, injector) = scene.calls(&scene.vault_token()).await;
    assert_token(&vault, Some(VAULT_TOKEN));
    assert_token(&injector, None);

    // The certificate is for the service that has no token.
    let identity = [&scene.vault_token()[..], &scene.certificate()].concat();
    let (vault, injector) = scene.calls(&identity).await;
    assert_token(&vault, Some(VAULT_TOKEN));
    assert_token(&injector, None);
    assert!(injector.iter().all(|call| call.has_certificate));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_service_gets_its_own_token() {
    let scene = Scene::start().await;
    let both = [scene.vault_token(), scene.injector_token()].concat();
    let (vault, injector) = scene.calls(&both).await;
    assert_token(&vault, Some(VAULT_TOKEN));
    assert_token(&injector, Some(INJECTOR_TOKEN));

    let (vault, injector) = scene.calls(&scene.injector_token()).await;
    assert_token(&vault, None);
    assert_token(&injector, Some(INJECTOR_TOKEN));
}
