//! Tests of `aerostack dev` as a process: its directory, a second start, its end, and the demo.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use proto::vault::v1::{
    CreateWorkspaceRequest, GetWorkspaceRequest, Workspace, workspace_service_client::WorkspaceServiceClient,
};
use rustix::process::{Signal, kill_process};
use support::{
    dev::{Dev, command},
    run, text,
};
use tempfile::TempDir;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_with_files_of_somebody_else_is_refused() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("mine.txt"), "mine").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let refused = run(command(dir.path())).await;
    assert_eq!(refused.status.code(), Some(65));
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
    assert_eq!(run(command(other.path())).await.status.code(), Some(65));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_service_reports_to_be_serving_when_the_store_cannot_be_opened() {
    let dir = TempDir::new().unwrap();
    let mut dev = Dev::start(&dir.path().join("dev")).await;
    kill_process(dev.id(), Signal::TERM).unwrap();
    assert!(dev.wait().await.success());
    fs::write(dev.dir.join("vault/notes~"), "mine").unwrap();
    let refused = run(command(&dev.dir)).await;
    assert_eq!(refused.status.code(), Some(70));
    let message = format!("{}{}", text(&refused.stderr), text(&refused.stdout));
    assert!(message.contains("notes~"), "{message}");
    assert!(!message.contains("is serving"), "{message}");
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
    assert_eq!(second.status.code(), Some(70));
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
    let output = run(shell).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
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
    for name in [
        "root.key",
        "pki/ca-key.pem",
        "pki/admin-key.pem",
        "pki/injector-key.pem",
        "vault/db",
        "injector/servers.yaml",
    ] {
        assert!(
            seen.iter().any(|(path, _)| path.ends_with(name)),
            "{name} is not in {seen:?}"
        );
    }
    assert_eq!(fs::read_to_string(dir.join(".gitignore")).unwrap(), "*\n");
}

/// Collects the modes of a directory and everything in it.
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
        let output = run(demo).await;
        let (shown, log) = (text(&output.stdout), text(&output.stderr));
        let failure = log.lines().rev().take(5).collect::<Vec<_>>().join("\n");
        assert_eq!(output.status.code(), Some(0), "round {round}: {shown}\n{failure}");
        assert!(!contains_demo_value(&output.stdout), "{shown}");
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
async fn a_port_in_use_is_named_once_and_has_an_exit_code_of_its_own() {
    let dir = TempDir::new().unwrap();
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = occupied.local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_aerostack"));
    command.args(["dev", "--dir"]).arg(dir.path().join("dev"));
    command.args(["--vault-addr", &address]);
    let refused = run(command).await;
    let message = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{message}");
    let cause =
        format!("cannot listen on {address}: another process or an outgoing connection holds this port");
    assert_eq!(message.matches(&cause).count(), 1, "{message}");
    assert_eq!(message.matches("another process").count(), 1, "{message}");
    assert!(message.starts_with("error: "), "{message}");
    assert!(
        message.contains("most likely another `aerostack dev` runs") && message.contains("--vault-addr;"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_its_root_key_is_refused_and_gets_no_new_one() {
    let dir = TempDir::new().unwrap();
    let mut dev = Dev::start(&dir.path().join("dev")).await;
    kill_process(dev.id(), Signal::TERM).unwrap();
    assert!(dev.wait().await.success());
    let root_key = dev.dir.join("root.key");
    fs::rename(&root_key, dir.path().join("copy")).unwrap();
    let refused = run(command(&dev.dir)).await;
    let message = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(65), "{message}");
    let expected = format!("error: {} is missing", root_key.display());
    assert!(message.contains(&expected), "{message}");
    assert!(!root_key.exists());
    fs::rename(dir.path().join("copy"), &root_key).unwrap();
    Dev::start(&dev.dir).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_and_pki_have_the_exit_codes_of_the_documentation() {
    let dir = TempDir::new().unwrap();
    let aerostack = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aerostack"));
        command.current_dir(dir.path()).args(args);
        command
    };
    let init = aerostack(&[
        "init",
        "--ca-dir=ca",
        "--root-key-file=root.key",
        "--vault-dir=vault",
        "--injector-dir=injector",
        "--admin-dir=admin",
    ]);
    let issue = aerostack(&[
        "pki",
        "issue",
        "admin",
        "--ca-dir=none",
        "--dir=admin",
        "--id=spiffe://test/admin",
    ]);
    for (command, code, part) in [
        (init, 74, "there is no directory admin for --admin-dir"),
        (issue, 78, "there is no certificate authority in none"),
    ] {
        let refused = run(command).await;
        let message = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(code), "{message}");
        assert!(message.contains(part), "{message}");
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
        let output = run(command).await;
        assert_eq!(output.status.code(), Some(64), "{listener}");
        let message = text(&output.stderr);
        assert!(
            message.contains("development CA") || message.contains("cleartext"),
            "{listener}: {message}"
        );
    }
}
