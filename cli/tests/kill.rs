//! Tests of `aerostack dev` as a process: killed, stopped, started twice, and with the demo.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use proto::vault::v1::{
    CreateWorkspaceRequest, DecryptRequest, DecryptStatus, DecryptedSecret, GetWorkspaceRequest,
    ListSecretsRequest, Plan, PutSecretRequest, Workspace, decrypt_service_client::DecryptServiceClient,
    put_secret_request::Value, secret_service_client::SecretServiceClient,
    workspace_service_client::WorkspaceServiceClient,
};
use rustix::process::{Signal, kill_process};
use support::{
    dev::{Dev, PATIENCE, command},
    run, text,
};
use tempfile::TempDir;
use tokio::{sync::Notify, task::JoinSet, time::timeout};
use tonic::Code;

const WORKSPACE: &str = "w";

// ------------------------------------------------------------------------------------------------------ kill -9

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

// ---------------------------------------------------------------------------- the directory, a second start, a stop

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_with_files_of_somebody_else_is_refused() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("mine.txt"), "mine").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let refused = run(command(dir.path())).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("was not made by `aerostack dev`"),
        "{}",
        text(&refused.stderr)
    );
    assert_eq!(
        fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777,
        0o755
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_first_start_is_completed_by_the_next() {
    let dir = TempDir::new().unwrap();
    let partial = |name| vault_service::new_file::partial(&dir.path().join(name)).unwrap();
    // The killed start left only a partial `.gitignore`.
    fs::write(partial(".gitignore"), "").unwrap();
    let dev = Dev::start(dir.path()).await;
    assert_eq!(fs::read(dir.path().join(".gitignore")).unwrap(), b"*\n");
    drop(dev);
    // A start that is killed a little later leaves `.gitignore`, but neither a root key nor a store.
    fs::remove_file(dir.path().join("root.key")).unwrap();
    fs::remove_dir_all(dir.path().join("vault")).unwrap();
    for name in ["root.key", "ports.json"] {
        fs::write(partial(name), "torn").unwrap();
    }
    let _dev = Dev::start(dir.path()).await;
    for name in [".gitignore", "root.key", "ports.json"] {
        assert!(!partial(name).exists(), "{name}");
    }
    // A directory with a file of the user's is still refused.
    let other = TempDir::new().unwrap();
    fs::write(other.path().join(".gitignore"), "").unwrap();
    fs::write(other.path().join("mine.txt"), "mine").unwrap();
    assert_eq!(run(command(other.path())).await.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_service_reports_to_be_serving_when_the_store_cannot_be_opened() {
    let dir = TempDir::new().unwrap();
    let mut dev = Dev::start(&dir.path().join("dev")).await;
    kill_process(dev.id(), Signal::TERM).unwrap();
    assert!(dev.wait().await.success());
    fs::write(dev.dir.join("vault/notes~"), "mine").unwrap();
    let refused = run(command(&dev.dir)).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = format!("{}{}", text(&refused.stderr), text(&refused.stdout));
    assert!(said.contains("notes~"), "{said}");
    assert!(!said.contains("is serving"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_directory_exits_at_once_with_the_cause() {
    let dir = TempDir::new().unwrap();
    let mut first = Dev::start(&dir.path().join("dev")).await;
    let ports = fs::read(first.dir.join("ports.json")).unwrap();
    let started = Instant::now();
    let second = run(command(&first.dir)).await;
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(second.status.code(), Some(1));
    assert!(
        text(&second.stderr).contains("already open in another process"),
        "{}",
        text(&second.stderr)
    );

    assert_eq!(fs::read(first.dir.join("ports.json")).unwrap(), ports);
    let request = GetWorkspaceRequest { name: "none".into() };
    let status = WorkspaceServiceClient::new(first.admin())
        .get_workspace(request)
        .await
        .unwrap_err();
    assert_eq!(
        status.code(),
        Code::NotFound,
        "the first one serves no more: {status:?}"
    );
    assert!(first.child.try_wait().unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_and_ctrl_c_end_the_process_with_0_and_lose_no_secret() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path().join("dev");
    for (round, signal) in [Signal::TERM, Signal::INT].into_iter().enumerate() {
        let mut dev = Dev::start(&dir).await;
        let mut client = WorkspaceServiceClient::new(dev.admin());
        let named = |name: String| Workspace {
            name,
            ..Default::default()
        };
        let workspace = Some(named(format!("w{round}")));
        client
            .create_workspace(CreateWorkspaceRequest { workspace })
            .await
            .unwrap();
        kill_process(dev.id(), signal).unwrap();
        assert_eq!(dev.wait().await.code(), Some(0), "{signal:?}");
    }
    let dev = Dev::start(&dir).await;
    let mut client = WorkspaceServiceClient::new(dev.admin());
    for name in ["w0", "w1"] {
        client
            .get_workspace(GetWorkspaceRequest { name: name.into() })
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_can_read_the_files() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path().join("dev");
    // The umask must not matter.
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "umask 0; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_aerostack"));
    shell.args(command(&dir).get_args()).args(["--demo", "--once"]);
    let ended = run(shell).await;
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    let mut seen = Vec::new();
    modes(&dir, &mut seen);
    for (path, mode) in &seen {
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        let public = ["pem", "json"]
            .iter()
            .any(|kind| path.extension().is_some_and(|is| is == *kind));
        let readable =
            public && !path.to_string_lossy().ends_with("-key.pem") || path.ends_with(".gitignore");
        assert!(
            *mode == expected || readable && mode & 0o111 == 0,
            "{} has {mode:o}",
            path.display()
        );
    }
    for kept in [
        "root.key",
        "pki/ca-key.pem",
        "pki/admin-key.pem",
        "pki/injector-key.pem",
        "vault/db",
        "injector/servers.yaml",
    ] {
        assert!(
            seen.iter().any(|(path, _)| path.ends_with(kept)),
            "{kept} is not in {seen:?}"
        );
    }
    assert_eq!(fs::read_to_string(dir.join(".gitignore")).unwrap(), "*\n");
}

fn modes(path: &Path, seen: &mut Vec<(PathBuf, u32)>) {
    seen.push((
        path.to_owned(),
        fs::metadata(path).unwrap().permissions().mode() & 0o7777,
    ));
    if path.is_dir() {
        fs::read_dir(path)
            .unwrap()
            .for_each(|entry| modes(&entry.unwrap().path(), seen));
    }
}

// ------------------------------------------------------------------------------------------------------- the demo

/// Returns true when the bytes contain a value of the demo: `demo-` and a UUID.
fn contains_demo_value(bytes: &[u8]) -> bool {
    let hex = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_hexdigit);
    bytes
        .windows(14)
        .any(|window| window.starts_with(b"demo-") && hex(&window[5..13]) && window[13] == b'-')
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_prints_a_fingerprint_and_no_value_and_can_be_repeated() {
    assert!(contains_demo_value(
        format!("x demo-{} y", proto::Uid::generate()).as_bytes()
    ));
    let dir = TempDir::new().unwrap();
    let dir = dir.path().join("dev");
    let mut fingerprints = BTreeSet::new();
    for round in 0..2 {
        let mut demo = command(&dir);
        demo.args(["--demo", "--once", "--log", "trace"]);
        let ended = run(demo).await;
        let (shown, log) = (text(&ended.stdout), text(&ended.stderr));
        let failure = log.lines().rev().take(5).collect::<Vec<_>>().join("\n");
        assert_eq!(ended.status.code(), Some(0), "round {round}: {shown}\n{failure}");
        assert!(!contains_demo_value(&ended.stdout), "{shown}");
        let line = log.lines().find(|line| contains_demo_value(line.as_bytes()));
        assert!(line.is_none(), "the log shows a value: {line:?}");
        assert!(log.contains("TRACE"), "the log was not looked into");
        let prints: BTreeSet<_> = shown
            .match_indices("sha256:")
            .map(|(at, _)| shown[at..at + 39].to_owned())
            .collect();
        assert_eq!(
            prints.len(),
            1,
            "what was put and what arrived are the same: {shown}"
        );
        assert_eq!(shown.matches("sha256:").count(), 2, "{shown}");
        fingerprints.extend(prints);
    }
    assert_eq!(fingerprints.len(), 2, "each round puts a value of its own");
    let mut seen = Vec::new();
    modes(&dir, &mut seen);
    for (path, _) in seen.iter().filter(|(path, _)| path.is_file()) {
        assert!(
            !contains_demo_value(&fs::read(path).unwrap()),
            "{} holds a value",
            path.display()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_loopback_is_refused() {
    let dir = TempDir::new().unwrap();
    for listener in ["--vault-addr", "--injector-addr", "--data-plane-addr"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aerostack"));
        command.args(["dev", "--dir"]).arg(dir.path().join("dev"));
        for other in ["--vault-addr", "--injector-addr", "--data-plane-addr"] {
            command.args([
                other,
                if other == listener {
                    "0.0.0.0:0"
                } else {
                    "127.0.0.1:0"
                },
            ]);
        }
        let ended = run(command).await;
        assert_ne!(ended.status.code(), Some(0), "{listener}");
        let said = text(&ended.stderr);
        assert!(
            said.contains("development CA") || said.contains("cleartext"),
            "{listener}: {said}"
        );
    }
}
