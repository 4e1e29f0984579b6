//! The vault's audit log, end to end.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use e2e::{Pki, Vault, eventually, pair::get, pki};
use http::StatusCode;
use proto::vault::v1::{
    DeleteSecretRequest, ListSecretsRequest, RestoreSecretVersionRequest, RotateWorkspaceKeyRequest,
};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

/// A directory whose file `audit.log` is the log.
struct Log(TempDir);

impl Log {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("log").join("audit.log")
    }

    async fn vault(&self) -> Vault {
        Vault::start_with(Pki::new(), |settings| self.set(settings)).await
    }

    fn set(&self, settings: &mut vault_service::config::Settings) {
        fs::create_dir_all(self.path().parent().unwrap()).unwrap();
        settings.audit.audit_log = Some(self.path());
    }

    fn lines(&self) -> Vec<Json> {
        lines(&self.path())
    }

    /// Lines about calls and decrypts, without what differs from run to run.
    fn decisions(&self) -> Vec<Json> {
        let mut lines = self.lines();
        lines.retain(|line| ["call", "decrypt"].contains(&line["event"].as_str().unwrap()));
        for line in &mut lines {
            let fields = line.as_object_mut().unwrap();
            let time = fields.remove("time").unwrap();
            let time = time.as_str().unwrap();
            assert!(time.len() == 27 && time.ends_with('Z'), "{time}");
            let peer = fields.remove("peer").unwrap();
            assert!(peer.as_str().unwrap().starts_with("127.0.0.1:"), "{peer}");
        }
        lines
    }
}

/// The whole lines of a log that may be written to meanwhile.
fn lines(path: &Path) -> Vec<Json> {
    let text = fs::read_to_string(path).unwrap();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn admin(method: &str, more: Json) -> Json {
    call(pki::ADMIN, &format!("vault.v1.{method}"), more)
}

fn call(principal: &str, method: &str, more: Json) -> Json {
    let mut line = json!({"event": "call", "principal": principal, "method": method, "outcome": "ok"});
    let more = more.as_object().unwrap().clone();
    line.as_object_mut().unwrap().extend(more);
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_say_who_did_what_to_which_secret() {
    let log = Log::new();
    let vault = log.vault().await;
    vault.workspace("w").await;
    vault.put("w", "my-token", "value-1").await;
    vault.put("w", "MY_TOKEN", "value-2").await;
    let mut secrets = vault.secrets();
    let restore = RestoreSecretVersionRequest {
        workspace: "w".into(),
        name: "my_token".into(),
        version: 1,
        ..Default::default()
    };
    secrets.restore_secret_version(restore).await.unwrap();
    let conflicting = DeleteSecretRequest {
        workspace: "w".into(),
        name: "MY_TOKEN".into(),
        expected_version: Some(1),
    };
    secrets.delete_secret(conflicting).await.unwrap_err();
    let list = ListSecretsRequest {
        workspace: "w".into(),
        ..Default::default()
    };
    secrets.list_secrets(list).await.unwrap();
    let rotate = RotateWorkspaceKeyRequest {
        workspace: "w".into(),
    };
    let rotated = vault
        .keys()
        .rotate_workspace_key(rotate)
        .await
        .unwrap()
        .into_inner();
    vault.delete("w", "MY_TOKEN").await;
    let token = |more: Json| {
        let mut about = json!({"workspace": "w", "secrets": [{"name": "MY_TOKEN"}]});
        about
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        about
    };
    let version = |number: u64| json!({"secrets": [{"name": "MY_TOKEN", "version": number}]});
    let conflict = json!({"outcome": "refused", "reason": "VERSION_MISMATCH"});
    assert_eq!(
        log.decisions(),
        [
            admin("WorkspaceService/CreateWorkspace", json!({"workspace": "w"})),
            admin("SecretService/PutSecret", token(version(1))),
            admin("SecretService/PutSecret", token(version(2))),
            admin("SecretService/RestoreSecretVersion", token(version(3))),
            admin("SecretService/DeleteSecret", token(conflict)),
            admin("SecretService/ListSecrets", json!({"workspace": "w"})),
            admin(
                "KeyService/RotateWorkspaceKey",
                json!({"workspace": "w", "key_id": rotated.key_id})
            ),
            admin("SecretService/DeleteSecret", token(json!({}))),
        ]
    );
    eventually("the end of the rotation is in the log", async || {
        let ended = json!("rotation_ended");
        log.lines()
            .iter()
            .any(|line| line["event"] == ended && line["workspace"] == "w")
    })
    .await;
    vault.stop().await;
    let mode = fs::metadata(log.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_best_effort_the_vault_serves_without_its_log() {
    let log = Log::new();
    let vault = Vault::start_with(Pki::new(), |settings| {
        log.set(settings);
        settings.audit.audit_best_effort = true;
    })
    .await;
    let dir = log.path().parent().unwrap().to_owned();
    fs::rename(&dir, log.0.path().join("aside")).unwrap();
    let metrics = format!("http://{}/metrics", vault.metrics);
    vault.workspace("w").await;
    eventually("the vault finds that its log is gone", async || {
        vault.put("w", "A", "value").await;
        let metrics = get(&metrics).await;
        String::from_utf8_lossy(metrics.body()).contains("aerostack_vault_audit_failing 1")
    })
    .await;
    vault.put("w", "A", "value").await;
    let ready = get(&format!("http://{}/readyz", vault.metrics)).await;
    assert_eq!(ready.status(), StatusCode::OK);
    fs::create_dir(&dir).unwrap();
    eventually("what waited was written", async || {
        log.path().exists() && !log.lines().is_empty()
    })
    .await;
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_goes_on_after_a_restart() {
    let log = Log::new();
    let vault = log.vault().await;
    let (pki, dir) = (vault.pki.clone(), vault.dir.clone());
    vault.stop().await;
    fs::write(log.path(), fs::read_to_string(log.path()).unwrap() + "{\"cut").unwrap();
    let vault = Vault::open(pki, dir, |settings| log.set(settings)).await;
    vault.workspace("w").await;
    vault.stop().await;
    let text = fs::read_to_string(log.path()).unwrap();
    let events: Vec<_> = text
        .lines()
        .map(|line| match serde_json::from_str::<Json>(line) {
            Ok(line) => line["event"].as_str().unwrap().to_owned(),
            Err(_) => "cut".to_owned(),
        })
        .collect();
    let run = [
        "started", "unsealed", "stopped", "cut", "started", "unsealed", "call", "stopped",
    ];
    assert_eq!(events, run);
}
