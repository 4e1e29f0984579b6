//! The tokens of a client: each service receives its own one.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::symlink,
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

#[tokio::test(flavor = "multi_thread")]
async fn no_token_goes_to_a_service_that_the_working_directory_names() {
    let scene = Scene::start().await;
    let project = scene.home.path().join("project");
    fs::create_dir(&project).unwrap();
    symlink(scene.home.path(), project.join(".aerostack")).unwrap();
    let (vault, injector) = (&scene.vault.address, &scene.injector.address);
    let ports = format!(r#"{{"vault": "{vault}", "injector": "{injector}"}}"#);
    fs::write(scene.home.path().join("ports.json"), ports).unwrap();
    let tokens = [
        ("AEROSTACK_TOKEN_FILE", scene.path("vault-token")),
        ("AEROSTACK_INJECTOR_TOKEN_FILE", scene.path("injector-token")),
    ];
    let trusted_ca = [("AEROSTACK_CA", scene.pki.ca.display().to_string())];
    let in_project = |args: &[&str], variables: &[(&str, String)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aerostack"));
        command
            .current_dir(&project)
            .env("XDG_CONFIG_HOME", &project)
            .envs(variables.iter().cloned())
            .args(args)
            .stdin(Stdio::null());
        run(command)
    };
    let [list, servers] = [&["workspace", "list"][..], &["workspace", "server", "list", "w"]];

    let with_ca = [&tokens[..], &trusted_ca].concat();
    for (args, variables) in [(list, &tokens[..]), (servers, &tokens[..]), (list, &with_ca[..])] {
        let output = in_project(args, variables).await;
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{message}");
        assert!(message.contains("--dir .aerostack"), "{message}");
    }
    // A flag names the token, and the directory names the service.
    let vault_token = scene.path("vault-token");
    in_project(&[&["--token-file", vault_token.as_str()][..], list].concat(), &[]).await;
    assert_eq!(
        (scene.vault.take_calls().len(), scene.injector.take_calls().len()),
        (0, 0)
    );

    // The user names the directory: its certificate identifies the client, unless a flag or a variable of the same rank names a token.
    in_project(&[&["--dir", ".aerostack"][..], list].concat(), &tokens).await;
    assert_token(&scene.vault.take_calls(), None);
    let in_dir = [&tokens[..], &[("AEROSTACK_DIR", ".aerostack".to_owned())]].concat();
    in_project(list, &in_dir).await;
    let calls = scene.vault.take_calls();
    assert!(!calls.is_empty());
    assert_token(&calls, Some(VAULT_TOKEN));

    // The environment names the service and its CA, and the directory the rest.
    let own = [
        ("AEROSTACK_VAULT", scene.vault.address.clone()),
        ("AEROSTACK_VAULT_ID", VAULT_ID.to_owned()),
    ];
    in_project(list, &[&with_ca[..], &own].concat()).await;
    let calls = scene.vault.take_calls();
    assert!(!calls.is_empty());
    assert_token(&calls, Some(VAULT_TOKEN));
}
