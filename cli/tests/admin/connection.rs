//! Tests of the connection settings, of refused connections, and of `aerostack status`.

use std::{fs, process::Stdio, time::Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::shell::{TestServices, clean_command, run_command};

const LIST: [&str; 2] = ["workspace", "list"];

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_alone_is_enough_and_flags_may_be_placed_anywhere() {
    let services = TestServices::with_workspace().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let address = services.address("vault").replace("127.0.0.1", "localhost");
    let mut command = clean_command(env!("CARGO_BIN_EXE_aerostack"), elsewhere.path());
    command
        .args(LIST)
        .env("AEROSTACK_VAULT", &address)
        .env("AEROSTACK_CA", services.pki("ca.pem"))
        .env("AEROSTACK_CERT", services.pki("admin.pem"))
        .env("AEROSTACK_KEY", services.pki("admin-key.pem"))
        .stdin(Stdio::null());
    let listed = run_command(command).await;
    assert_eq!(listed.code, 0, "{}", listed.err);

    let dir = services.dev.dir.display().to_string();
    for args in [
        ["--dir", &dir, "workspace", "list"],
        ["workspace", "--dir", &dir, "list"],
    ] {
        let mut command = clean_command(env!("CARGO_BIN_EXE_aerostack"), elsewhere.path());
        command.args(args).stdin(Stdio::null());
        assert_eq!(run_command(command).await.out, listed.out, "{args:?}");
    }

    let mut command = clean_command(env!("CARGO_BIN_EXE_aerostack"), elsewhere.path());
    command.args(LIST).stdin(Stdio::null());
    let nowhere = run_command(command).await;
    assert_eq!(nowhere.code, 78, "{}", nowhere.err);
    assert!(nowhere.err.contains("aerostack dev"), "{}", nowhere.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_environment_variable_is_reported_once() {
    let services = TestServices::start().await;
    let mut command = clean_command(env!("CARGO_BIN_EXE_aerostack"), services.home());
    command
        .args(LIST)
        .env("AEROSTACK_TIMEOUT", "20")
        .env("AEROSTACK_TIME_OUT", "20")
        .env("AEROSTACK_VAULT_LISTEN", "127.0.0.1:7150")
        .stdin(Stdio::null());
    let output = run_command(command).await;
    assert_eq!(output.code, 0, "{}", output.err);
    assert_eq!(
        output.err,
        "warning: AEROSTACK_TIME_OUT is ignored: `aerostack` reads no such environment variable\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_cannot_be_reached_is_told_from_one_that_cannot_be_trusted() {
    let services = TestServices::start().await;
    let message = services
        .fails(69, &[&LIST[..], &["--vault", "127.0.0.1:1"]].concat())
        .await;
    assert!(
        message.contains("127.0.0.1:1") && message.contains("refused"),
        "{message}"
    );

    // The injector listens where the vault should.
    let injector = services.address("injector");
    let id = "spiffe://aerostack.localhost/vault";
    let args = [&LIST[..], &["--vault", &injector, "--vault-id", id]].concat();
    let message = services.fails(78, &args).await;
    assert!(message.contains("--vault-id"), "{message}");

    // The CA is another one.
    let other = tempfile::tempdir().unwrap();
    let pki = aerostack::pki::DevPki::ensure(other.path()).unwrap();
    let ca = pki.ca.display().to_string();
    let message = services.fails(78, &[&LIST[..], &["--ca", &ca]].concat()).await;
    assert!(message.contains("--ca"), "{message}");

    // The client certificate is of another CA.
    let (cert, key) = (
        pki.admin.cert.display().to_string(),
        pki.admin.key.display().to_string(),
    );
    let output = services
        .aerostack(&[&LIST[..], &["--cert", &cert, "--key", &key]].concat())
        .await;
    assert_eq!(output.code, 78, "{}", output.err);

    let message = services
        .fails(78, &[&LIST[..], &["--key", "nosuch.pem"]].concat())
        .await;
    assert!(message.contains("nosuch.pem"), "{message}");
    assert_eq!(message.matches("No such file").count(), 1, "{message}");

    // The key is the one of another certificate.
    let key = services.pki("injector-key.pem");
    let message = services.fails(78, &[&LIST[..], &["--key", &key]].concat()).await;
    assert!(message.contains("do not belong together"), "{message}");
    services
        .fails(78, &[&LIST[..], &["--vault", "https://vault"]].concat())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_role_is_refused() {
    let services = TestServices::with_workspace().await;
    let (cert, key) = (services.pki("injector.pem"), services.pki("injector-key.pem"));
    let message = services
        .fails(77, &[&LIST[..], &["--cert", &cert, "--key", &key]].concat())
        .await;
    assert!(message.contains("--admin"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_never_answers_is_reported_after_the_timeout() {
    let services = TestServices::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let started = Instant::now();
    let args = [&LIST[..], &["--vault", &address, "--timeout", "0.5"]].concat();
    let message = services.fails(69, &args).await;
    assert!(started.elapsed().as_secs() < 5, "{message}");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_each_service_and_exits_with_1_when_one_is_not_well() {
    let services = TestServices::start().await;
    let status = services.json(&["status"]).await;
    let listed = status["services"].as_array().unwrap();
    let states: Vec<_> = listed
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
        // The server there is not an injector.
        (
            "--data-plane",
            format!("http://{}", services.address("vault_metrics")),
            "data plane",
        ),
    ] {
        let output = services.aerostack(&["status", flag, &address]).await;
        assert_eq!(output.code, 1, "{}{}", output.out, output.err);
        let line = output.out.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.contains("unreachable"), "{line}");
        assert!(output.out.contains(&format!("{name}: ")), "{}", output.out);
    }
    let (cert, key) = (services.pki("injector.pem"), services.pki("injector-key.pem"));
    let refused = services
        .aerostack(&["status", "--cert", &cert, "--key", &key])
        .await;
    assert_eq!(refused.code, 1, "{}", refused.err);
    assert!(refused.out.contains("refused"), "{}", refused.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_contain_the_commands() {
    let services = TestServices::start().await;
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = services.ok(&["completions", shell]).await.out;
        for word in ["workspace", "explain", "vault-id"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

/// Returns the whole answer of a service's probe.
async fn probe_answer(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_not_counted_as_a_call() {
    let services = TestServices::start().await;
    services.ok(&["status"]).await;
    let metrics = probe_answer(&services.address("injector_metrics"), "/metrics").await;
    assert!(metrics.contains("aerostack_injector_servers"), "{metrics}");
    assert!(!metrics.contains("aerostack_injector_calls_total{"), "{metrics}");
    let log = fs::read_to_string(services.dev.dir.with_extension("log")).unwrap();
    assert!(!log.contains("call refused"), "{log}");
}

/// With containers, only the injector's own pod reaches the data plane, and `ports.json` names the probes.
#[tokio::test(flavor = "multi_thread")]
async fn status_works_without_a_data_plane_and_shows_why_a_service_is_not_ready() {
    let services = TestServices::start().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let dir = elsewhere.path().join("admin");
    fs::create_dir_all(dir.join("pki")).unwrap();
    for name in ["ca.pem", "admin.pem", "admin-key.pem"] {
        fs::copy(services.pki(name), dir.join("pki").join(name)).unwrap();
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
            "vault": services.address("vault"),
            "injector": services.address("injector"),
            "vault_metrics": vault_metrics,
            "injector_metrics": services.address("injector_metrics"),
        });
        fs::write(dir.join("ports.json"), ports.to_string()).unwrap();
        let mut command = clean_command(env!("CARGO_BIN_EXE_aerostack"), elsewhere.path());
        command.args(["status", "--dir"]).arg(&dir).stdin(Stdio::null());
        run_command(command).await
    };
    let well = status(&services.address("vault_metrics")).await;
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
