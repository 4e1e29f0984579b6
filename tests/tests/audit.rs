//! The vault's audit log, end to end.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use e2e::{
    Pair, Pki, Upstream, Vault, eventually,
    pair::{get, server},
    pki,
};
use http::StatusCode;
use proto::vault::v1::{
    DecryptCall, DecryptRequest, DecryptStatus, DecryptStreamRequest, DeleteSecretRequest,
    ListSecretsRequest, PutSecretRequest, RestoreSecretVersionRequest, RotateWorkspaceKeyRequest,
    decrypt_answer::Outcome, decrypt_service_client::DecryptServiceClient, put_secret_request::Value,
};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tonic::Code;
use tonic_types::StatusExt as _;

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

    /// Returns the lines about calls and decrypts, without the fields that differ from run to run.
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

/// Returns the complete lines of a log, whose last line the vault may still be writing.
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

fn decrypted(more: Json) -> Json {
    let event = json!({"event": "decrypt"});
    let mut line = call(pki::INJECTOR, "vault.v1.DecryptService/DecryptStream", event);
    line.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    line
}

fn ask(names: &[&str]) -> DecryptRequest {
    DecryptRequest {
        workspace: "w".into(),
        server: "api".into(),
        names: names.iter().map(|&name| name.into()).collect(),
        call_id: "c-1".into(),
        ..Default::default()
    }
}

/// Sends the calls in one message, and returns a reason for each refused call and None for each other call.
async fn stream(vault: &Vault, requests: Vec<DecryptRequest>) -> Vec<Option<String>> {
    let calls = (0..).zip(requests);
    let calls = calls.map(|(id, request)| DecryptCall {
        id,
        request: Some(request),
    });
    let message = DecryptStreamRequest {
        calls: calls.collect(),
        recipient: None,
    };
    let asked = message.calls.len();
    let mut client = DecryptServiceClient::new(vault.channel(pki::INJECTOR));
    let messages = tokio_stream::once(message);
    let mut answers = client.decrypt_stream(messages).await.unwrap().into_inner();
    let mut outcomes = vec![None; asked];
    let mut seen = 0;
    while seen < asked {
        for answer in answers.message().await.unwrap().unwrap().answers {
            let slot = &mut outcomes[usize::try_from(answer.id).unwrap()];
            *slot = match answer.outcome.unwrap() {
                Outcome::Response(_) => None,
                Outcome::Error(error) => Some(error.reason().name().to_owned()),
            };
            seen += 1;
        }
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_names_the_caller_the_method_and_the_secret() {
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
async fn every_decrypt_has_a_line_with_the_outcome_of_each_secret() {
    let log = Log::new();
    let vault = log.vault().await;
    vault.workspace("w").await;
    vault.put("w", "A", "value").await;
    let before = log.decisions().len();
    let check = DecryptRequest {
        check_only: true,
        call_id: String::new(),
        ..ask(&["A"])
    };
    let elsewhere = DecryptRequest {
        workspace: "elsewhere".into(),
        ..ask(&["A"])
    };
    let twice = ask(&["A", "a"]);
    let unary = vault.decrypts().decrypt(ask(&["A", "B"])).await.unwrap();
    assert_eq!(unary.get_ref().secrets[0].status(), DecryptStatus::Ok);
    let outcomes = stream(&vault, vec![ask(&["A", "B"]), check, elsewhere, twice]).await;
    let reason = |text: &str| Some(text.to_owned());
    assert_eq!(
        outcomes,
        [
            None,
            None,
            reason("WORKSPACE_NOT_FOUND"),
            reason("SECRET_NAME_DUPLICATE")
        ]
    );
    let found = json!({"name": "A", "outcome": "ok", "version": 1});
    let both = json!([found, {"name": "B", "outcome": "not_found"}]);
    let call_of = |more: Json| {
        let mut about = json!({"workspace": "w", "server": "api", "call_id": "c-1"});
        about
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        about
    };
    assert_eq!(
        log.decisions()[before..],
        [
            call(
                pki::INJECTOR,
                "vault.v1.DecryptService/Decrypt",
                call_of(json!({"secrets": both}))
            ),
            call(pki::INJECTOR, "vault.v1.DecryptService/DecryptStream", json!({})),
            decrypted(call_of(json!({"secrets": both}))),
            decrypted(json!({"workspace": "w", "server": "api", "secrets": [found], "check_only": true})),
            decrypted(call_of(json!({
                "workspace": "elsewhere", "secrets": [{"name": "A"}],
                "outcome": "refused", "reason": "WORKSPACE_NOT_FOUND"
            }))),
            decrypted(call_of(json!({
                "secrets": [{"name": "A"}, {"name": "A"}],
                "outcome": "refused", "reason": "SECRET_NAME_DUPLICATE"
            }))),
        ]
    );
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_decrypt_in_another_workspace_has_a_line() {
    let log = Log::new();
    let vault = Vault::start_with(Pki::new(), |settings| {
        log.set(settings);
        settings.injector = vec![format!("{}=other", pki::INJECTOR)];
    })
    .await;
    let outcomes = stream(&vault, vec![ask(&["A"])]).await;
    assert_eq!(outcomes, [Some("PERMISSION_DENIED".to_owned())]);
    let denied = json!({
        "workspace": "w", "server": "api", "call_id": "c-1", "secrets": [{"name": "A"}],
        "outcome": "refused", "reason": "PERMISSION_DENIED"
    });
    assert_eq!(log.decisions().last(), Some(&decrypted(denied)));
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_of_a_call_through_the_injector_has_the_id_of_its_answer() {
    let log = Log::new();
    let upstream = Upstream::start().await;
    let pair = Pair::start_with(|settings| log.set(settings), |_| {}).await;
    pair.vault.workspace("w").await;
    pair.vault.put("w", "A", "value").await;
    pair.injector
        .add(server("w", "api", &upstream.url(), &["A"]))
        .await;
    let answer = pair.injector.get("/w/api/").await;
    assert_eq!(answer.status(), StatusCode::OK);
    let id = answer.headers()["x-aerostack-call-id"].to_str().unwrap();
    let found = json!([{"name": "A", "outcome": "ok", "version": 1}]);
    let expected = decrypted(json!({"workspace": "w", "server": "api", "call_id": id, "secrets": found}));
    assert_eq!(log.decisions().last(), Some(&expected));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_cannot_write_its_log_refuses_calls_and_is_not_ready() {
    let log = Log::new();
    let upstream = Upstream::start().await;
    let pair = Pair::start_with(|settings| log.set(settings), |_| {}).await;
    let vault = &pair.vault;
    vault.workspace("w").await;
    vault.put("w", "A", "value").await;
    pair.injector
        .add(server("w", "api", &upstream.url(), &["A"]))
        .await;
    let dir = log.path().parent().unwrap().to_owned();
    let aside = log.0.path().join("aside");
    fs::rename(&dir, &aside).unwrap();
    let probe = format!("http://{}/readyz", vault.metrics);
    // The vault checks the log's name once a second. Until the next check, lines go to the file that the vault has
    // open.
    eventually("the vault finds that its log is gone", async || {
        let ready = get(&probe).await;
        let _ = pair.injector.get("/w/api/").await;
        ready.status() == StatusCode::SERVICE_UNAVAILABLE
            && String::from_utf8_lossy(ready.body()).contains("the audit log cannot be written")
    })
    .await;
    let put = PutSecretRequest {
        workspace: "w".into(),
        name: "A".into(),
        value: Some(Value::Text("value-2".into())),
        ..Default::default()
    };
    let reached = upstream.seen().len();
    let refused = vault.secrets().put_secret(put.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(
        refused.get_details_error_info().unwrap().reason,
        "AUDIT_UNAVAILABLE"
    );
    let answer = pair.injector.get("/w/api/").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["x-aerostack-reason"], "AUDIT_UNAVAILABLE");
    assert_eq!(upstream.seen().len(), reached);

    fs::create_dir(&dir).unwrap();
    eventually("the vault is ready again", async || {
        get(&probe).await.status().is_success()
    })
    .await;
    let secret = vault.secrets().put_secret(put).await.unwrap().into_inner().secret;
    // The refused put changed nothing.
    assert_eq!(secret.unwrap().version, 2);
    assert_eq!(pair.injector.get("/w/api/").await.status(), StatusCode::OK);
    assert!(log.lines().iter().any(|line| line["call_id"].is_string()));
    // The log that was moved aside and the new log have complete lines only.
    assert!(!lines(&aside.join("audit.log")).is_empty());
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_best_effort_a_vault_that_cannot_write_its_log_serves() {
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
