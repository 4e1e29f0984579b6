//! Test of `aerostack dev` as a process that is killed while secrets are put.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use proto::vault::v1::{
    CreateWorkspaceRequest, DecryptRequest, DecryptStatus, DecryptedSecret, GetWorkspaceRequest,
    ListSecretsRequest, Plan, PutSecretRequest, Workspace, decrypt_service_client::DecryptServiceClient,
    put_secret_request::Value, secret_service_client::SecretServiceClient,
    workspace_service_client::WorkspaceServiceClient,
};
use support::dev::{Dev, PATIENCE};
use tempfile::TempDir;
use tokio::{sync::Notify, task::JoinSet, time::timeout};

const WORKSPACE: &str = "w";

/// Returns a value of 100 bytes to 6 KiB that repeats its name and attempt, so that a mixed or truncated value is noticed.
fn value(name: &str, attempt: usize) -> String {
    let start = format!("{name}:{attempt}:");
    let length = 100 + (attempt * 7919) % 6000;
    start.chars().cycle().take(length).collect()
}

/// The puts of one name so far.
#[derive(Default)]
struct PutHistory {
    /// All attempts to put the name, acknowledged or not.
    attempts: BTreeSet<usize>,
    /// The newest acknowledged version, and its attempt.
    acknowledged: Option<(u64, usize)>,
}

/// Puts a thousand secrets concurrently, half of them under shared names. Kills the process after `enough`
/// acknowledgements, and returns their number.
async fn put_until_killed(
    dev: &mut Dev,
    round: usize,
    enough: usize,
    known: &mut BTreeMap<String, PutHistory>,
) -> usize {
    // One connection permits at most a thousand concurrent calls.
    let channels = [dev.admin(), dev.admin(), dev.admin()];
    let acknowledged = std::sync::Arc::new((AtomicUsize::new(0), Notify::new()));
    let mut puts = JoinSet::new();
    for number in 0..1000 {
        let attempt = round * 1000 + number;
        let name = if number % 2 == 0 {
            format!("OWN_{attempt}")
        } else {
            format!("SHARED_{}", number % 100)
        };
        known.entry(name.clone()).or_default().attempts.insert(attempt);
        let (mut client, acknowledged) = (
            SecretServiceClient::new(channels[number % 3].clone()),
            acknowledged.clone(),
        );
        puts.spawn(async move {
            let request = PutSecretRequest {
                workspace: WORKSPACE.to_owned(),
                name: name.clone(),
                value: Some(Value::Text(value(&name, attempt))),
                ..Default::default()
            };
            let answer = client.put_secret(request).await;
            let version = answer.ok()?.into_inner().secret?.version;
            if acknowledged.0.fetch_add(1, Ordering::Relaxed) + 1 >= enough {
                acknowledged.1.notify_one();
            }
            Some((name, version, attempt))
        });
    }
    timeout(PATIENCE, acknowledged.1.notified())
        .await
        .expect("too few puts were acknowledged");
    dev.child.kill().unwrap();
    let status = dev.wait().await;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    let mut count = 0;
    while let Some(put) = timeout(PATIENCE, puts.join_next()).await.expect("a put hangs") {
        let Some((name, version, attempt)) = put.unwrap() else {
            continue;
        };
        count += 1;
        let last = &mut known.get_mut(&name).unwrap().acknowledged;
        if last.is_none_or(|(newest, _)| newest < version) {
            *last = Some((version, attempt));
        }
    }
    count
}

/// Decrypts all names as the injector, compares the values with `known`, and updates `known` to the stored versions.
async fn check(dev: &Dev, known: &mut BTreeMap<String, PutHistory>) {
    let mut decrypted: BTreeMap<String, DecryptedSecret> = BTreeMap::new();
    let mut client = DecryptServiceClient::new(dev.injector());
    for names in known.keys().cloned().collect::<Vec<_>>().chunks(64) {
        let request = DecryptRequest {
            workspace: WORKSPACE.to_owned(),
            names: names.to_vec(),
            ..Default::default()
        };
        let answer = client.decrypt(request).await.unwrap().into_inner();
        decrypted.extend(
            answer
                .secrets
                .into_iter()
                .map(|secret| (secret.name.clone(), secret)),
        );
    }
    let mut there = BTreeMap::new();
    for (
        name,
        PutHistory {
            attempts,
            acknowledged,
        },
    ) in known.iter_mut()
    {
        let secret = &decrypted[name];
        if secret.status() == DecryptStatus::NotFound {
            assert!(
                acknowledged.is_none(),
                "{name} was acknowledged as {acknowledged:?} and is gone"
            );
            continue;
        }
        assert_eq!(secret.status(), DecryptStatus::Ok, "{name}");
        let found = str::from_utf8(&secret.value).unwrap();
        let attempt = attempts
            .iter()
            .copied()
            .find(|attempt| value(name, *attempt) == found);
        let attempt = attempt.unwrap_or_else(|| panic!("{name} is no value that was put: {found:.40}"));
        if let Some((version, of)) = *acknowledged {
            assert!(
                secret.version >= version,
                "{name} went back from {version} to {}",
                secret.version
            );
            assert!(
                secret.version > version || attempt == of,
                "{name} has another value under its version"
            );
        }
        *acknowledged = Some((secret.version, attempt));
        there.insert(name.clone(), secret.version);
    }
    assert_eq!(list_versions(dev).await, there, "the list and the values differ");
    let request = GetWorkspaceRequest {
        name: WORKSPACE.to_owned(),
    };
    let workspace = WorkspaceServiceClient::new(dev.admin())
        .get_workspace(request)
        .await
        .unwrap()
        .into_inner()
        .workspace
        .unwrap();
    assert_eq!(
        workspace.secret_count,
        there.len() as u64,
        "the count and the list differ"
    );
}

/// Returns the versions of all secrets, by name.
async fn list_versions(dev: &Dev) -> BTreeMap<String, u64> {
    let (mut client, mut all, mut page_token) = (
        SecretServiceClient::new(dev.admin()),
        BTreeMap::new(),
        String::new(),
    );
    loop {
        let request = ListSecretsRequest {
            workspace: WORKSPACE.to_owned(),
            page_size: 1000,
            page_token,
        };
        let page = client.list_secrets(request).await.unwrap().into_inner();
        all.extend(
            page.secrets
                .into_iter()
                .map(|secret| (secret.name, secret.version)),
        );
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_put_survives_a_kill_and_no_value_is_stored_in_part() {
    let rounds = std::env::var("AEROSTACK_KILL_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let dir = TempDir::new().unwrap();
    let dir = dir.path().join("dev");
    let mut known = BTreeMap::new();
    let mut dev = Dev::start(&dir).await;
    let workspace = Some(Workspace {
        name: WORKSPACE.to_owned(),
        plan: Plan::Enterprise.into(),
        ..Default::default()
    });
    WorkspaceServiceClient::new(dev.admin())
        .create_workspace(CreateWorkspaceRequest { workspace })
        .await
        .unwrap();
    let mut cut_off = 0;
    for round in 0..rounds {
        let enough = [1, 100, 300, 500, 700, 900][round % 6];
        let acknowledged = put_until_killed(&mut dev, round, enough, &mut known).await;
        cut_off += 1000 - acknowledged;
        dev = Dev::start(&dir).await;
        assert!(
            dev.started_in < Duration::from_secs(5),
            "the start after a kill took {:?}",
            dev.started_in
        );
        check(&dev, &mut known).await;
        eprintln!(
            "round {round}: {acknowledged} of 1000 acknowledged, started again in {:?}",
            dev.started_in
        );
    }
    assert!(cut_off > 0, "no put was under way when the process was killed");
}
