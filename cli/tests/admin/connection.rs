//! Where the pair is, who asks, and `aerostack status`.

use std::{fs, process::Stdio, time::Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::shell::{Pair, clean, ended};

const LIST: [&str; 2] = ["workspace", "list"];

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_alone_is_enough_and_flags_may_stand_anywhere() {
    let pair = Pair::with_workspace().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let address = pair.at("vault").replace("127.0.0.1", "localhost");
    let mut command = clean(env!("CARGO_BIN_EXE_aerostack"), elsewhere.path());
    command
        .args(LIST)
        .env("AEROSTACK_VAULT", &address)
        .env("AEROSTACK_CA", pair.pki("ca.pem"))
        .env("AEROSTACK_CERT", pair.pki("admin.pem"))
        .env("AEROSTACK_KEY", pair.pki("admin-key.pem"))
        .stdin(Stdio::null());
    let listed = ended(command).await;
    assert_eq!(listed.code, 0, "{}", listed.err);

    let dir = pair.dev.dir.display().to_string();
    for args in [
        ["--dir", &dir, "workspace", "list"],
        ["workspace", "--dir", &dir, "list"],
    ] {
        let mut command = clean(env!("CARGO_BIN_EXE_aerostack"), elsewhere.path());
        command.args(args).stdin(Stdio::null());
        assert_eq!(ended(command).await.out, listed.out, "{args:?}");
    }

    let mut command = clean(env!("CARGO_BIN_EXE_aerostack"), elsewhere.path());
    command.args(LIST).stdin(Stdio::null());
    let nowhere = ended(command).await;
    assert_eq!(nowhere.code, 78, "{}", nowhere.err);
    assert!(nowhere.err.contains("aerostack dev"), "{}", nowhere.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_cannot_be_reached_is_told_from_one_that_cannot_be_trusted() {
    let pair = Pair::start().await;
    let said = pair
        .fails(69, &[&LIST[..], &["--vault", "127.0.0.1:1"]].concat())
        .await;
    assert!(said.contains("127.0.0.1:1") && said.contains("refused"), "{said}");

    // The injector, where the vault should be.
    let injector = pair.at("injector");
    let id = "spiffe://aerostack.localhost/vault";
    let args = [&LIST[..], &["--vault", &injector, "--vault-id", id]].concat();
    let said = pair.fails(78, &args).await;
    assert!(said.contains("--vault-id"), "{said}");

    // Somebody else's authority.
    let other = tempfile::tempdir().unwrap();
    let pki = aerostack::pki::DevPki::ensure(other.path()).unwrap();
    let ca = pki.ca.display().to_string();
    let said = pair.fails(78, &[&LIST[..], &["--ca", &ca]].concat()).await;
    assert!(said.contains("--ca"), "{said}");

    // Somebody else's certificate.
    let (cert, key) = (
        pki.admin.cert.display().to_string(),
        pki.admin.key.display().to_string(),
    );
    let ended = pair
        .aerostack(&[&LIST[..], &["--cert", &cert, "--key", &key]].concat())
        .await;
    assert_eq!(ended.code, 78, "{}", ended.err);

    let said = pair
        .fails(78, &[&LIST[..], &["--key", "nosuch.pem"]].concat())
        .await;
    assert!(said.contains("nosuch.pem"), "{said}");
    pair.fails(78, &[&LIST[..], &["--vault", "https://vault"]].concat())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told_so() {
    let pair = Pair::with_workspace().await;
    let (cert, key) = (pair.pki("injector.pem"), pair.pki("injector-key.pem"));
    let said = pair
        .fails(77, &[&LIST[..], &["--cert", &cert, "--key", &key]].concat())
        .await;
    assert!(said.contains("--admin"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_never_answers_is_not_waited_for() {
    let pair = Pair::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let started = Instant::now();
    let args = [&LIST[..], &["--vault", &address, "--timeout", "0.5"]].concat();
    let said = pair.fails(69, &args).await;
    assert!(started.elapsed().as_secs() < 5, "{said}");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_each_service_and_says_by_its_exit_code_whether_all_is_well() {
    let pair = Pair::start().await;
    let status = pair.json(&["status"]).await;
    let services = status["services"].as_array().unwrap();
    let states: Vec<_> = services
        .iter()
        .map(|one| (&one["service"], &one["state"], &one["access"]))
        .collect();
    assert_eq!(
        states,
        [
            (&json!("vault"), &json!("serving"), &json!(true)),
            (&json!("injector"), &json!("serving"), &json!(true)),
            (&json!("data plane"), &json!("serving"), &json!(null)),
        ]
    );
    assert_eq!(
        status["identity"]["principal"],
        "spiffe://aerostack.localhost/admin"
    );

    for (flag, address, name) in [
        ("--vault", "127.0.0.1:1".to_owned(), "vault"),
        ("--injector", "127.0.0.1:1".to_owned(), "injector"),
        ("--data-plane", "http://127.0.0.1:1".to_owned(), "data plane"),
        // Something that is no injector.
        (
            "--data-plane",
            format!("http://{}", pair.at("vault_metrics")),
            "data plane",
        ),
    ] {
        let ended = pair.aerostack(&["status", flag, &address]).await;
        assert_eq!(ended.code, 1, "{}{}", ended.out, ended.err);
        let line = ended.out.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.contains("unreachable"), "{line}");
        assert!(ended.out.contains(&format!("{name}: ")), "{}", ended.out);
    }
    let (cert, key) = (pair.pki("injector.pem"), pair.pki("injector-key.pem"));
    let refused = pair.aerostack(&["status", "--cert", &cert, "--key", &key]).await;
    assert_eq!(refused.code, 1, "{}", refused.err);
    assert!(refused.out.contains("refused"), "{}", refused.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_know_the_commands() {
    let pair = Pair::start().await;
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = pair.ok(&["completions", shell]).await.out;
        for word in ["workspace", "explain", "vault-id"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

/// The whole answer of a service's probes.
async fn page(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_no_call_to_the_injector() {
    let pair = Pair::start().await;
    pair.ok(&["status"]).await;
    let metrics = page(&pair.at("injector_metrics"), "/metrics").await;
    assert!(metrics.contains("aerostack_injector_servers"), "{metrics}");
    assert!(!metrics.contains("aerostack_injector_calls_total{"), "{metrics}");
    let log = fs::read_to_string(pair.dev.dir.with_extension("log")).unwrap();
    assert!(!log.contains("call refused"), "{log}");
}

/// As with containers: the data plane listens where only its own pod reaches it, and the probes are known.
#[tokio::test(flavor = "multi_thread")]
async fn status_needs_no_data_plane_and_says_why_a_service_is_not_ready() {
    let pair = Pair::start().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let dir = elsewhere.path().join("admin");
    fs::create_dir_all(dir.join("pki")).unwrap();
    for name in ["ca.pem", "admin.pem", "admin-key.pem"] {
        fs::copy(pair.pki(name), dir.join("pki").join(name)).unwrap();
    }
    let sick = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sick_at = sick.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = sick.accept().await.unwrap();
            let text =
                "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 27\r\n\r\nnot ready: the disk is full";
            let _read = stream.read(&mut [0; 1024]).await;
            stream.write_all(text.as_bytes()).await.unwrap();
        }
    });
    let status = async |vault_metrics: &str| {
        let ports = json!({
            "vault": pair.at("vault"),
            "injector": pair.at("injector"),
            "vault_metrics": vault_metrics,
            "injector_metrics": pair.at("injector_metrics"),
        });
        fs::write(dir.join("ports.json"), ports.to_string()).unwrap();
        let mut command = clean(env!("CARGO_BIN_EXE_aerostack"), elsewhere.path());
        command.args(["status", "--dir"]).arg(&dir).stdin(Stdio::null());
        ended(command).await
    };
    let well = status(&pair.at("vault_metrics")).await;
    assert_eq!(well.code, 0, "{}{}", well.out, well.err);
    let ill = status(&sick_at).await;
    assert_eq!(ill.code, 1, "{}{}", ill.out, ill.err);
    assert!(ill.out.contains("not ready"), "{}", ill.out);
    assert!(
        ill.out.contains("vault: not ready: the disk is full"),
        "{}",
        ill.out
    );
}
