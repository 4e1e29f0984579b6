//! `aerostack context …`, and the connections of contexts.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Stdio};

use crate::shell::{CommandOutput, TestServices, clean_command, run_command};

/// Adds the context `dev` with the addresses and the files of the services, and the context `off` with wrong addresses.
async fn with_contexts() -> TestServices {
    let services = TestServices::with_workspace().await;
    let (vault, injector) = (services.address("vault"), services.address("injector"));
    let data_plane = services.address("data_plane");
    let [ca, cert, key] = ["ca.pem", "admin.pem", "admin-key.pem"].map(|file| services.pki(file));
    for (name, vault) in [("dev", vault.as_str()), ("off", "127.0.0.1:1")] {
        let files = ["--ca", &ca, "--cert", &cert, "--key", &key];
        let addresses = [
            "--vault",
            vault,
            "--injector",
            &injector,
            "--data-plane",
            &data_plane,
        ];
        services
            .ok(&[&["context", "add", name][..], &files, &addresses].concat())
            .await;
    }
    services
}

/// Runs `aerostack` in a directory without `.aerostack`.
async fn elsewhere(services: &TestServices, args: &[&str]) -> CommandOutput {
    let directory = services.home().join("elsewhere");
    fs::create_dir_all(&directory).unwrap();
    let mut command = clean_command(env!("CARGO_BIN_EXE_aerostack"), services.home());
    command.current_dir(directory).args(args).stdin(Stdio::null());
    run_command(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_is_added_used_shown_and_removed() {
    let services = with_contexts().await;
    let lost = elsewhere(&services, &["workspace", "list"]).await;
    assert_eq!(lost.code, 78, "{}", lost.err);
    let listed = elsewhere(&services, &["--context", "dev", "workspace", "list"]).await;
    assert!(listed.out.contains("\nw "), "{}{}", listed.out, listed.err);
    services.ok(&["context", "use", "dev"]).await;
    let status = elsewhere(&services, &["status"]).await;
    assert_eq!(status.code, 0, "{}{}", status.out, status.err);
    assert!(
        status.out.contains("The context dev names these services."),
        "{}",
        status.out
    );

    // An error says which context was used.
    let message = elsewhere(&services, &["--context", "off", "workspace", "list"]).await;
    assert_eq!(message.code, 69);
    assert!(
        message.err.contains("the vault (context off) on 127.0.0.1:1"),
        "{}",
        message.err
    );

    let contexts = services.json(&["context", "list"]).await;
    assert_eq!(contexts["contexts"][0]["present"], true);
    assert_eq!(contexts["contexts"][1]["vault"], "127.0.0.1:1");
    let shown = services.ok(&["context", "show"]).await.out;
    assert!(shown.contains(&services.pki("admin-key.pem")), "{shown}");
    let file = services.home().join(".config/aerostack/config.yaml");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!fs::read_to_string(&file).unwrap().contains("PRIVATE KEY"));

    let removed = services.ok(&["context", "remove", "dev"]).await;
    assert_eq!(removed.err, "No context is present now\n");
    assert_eq!(elsewhere(&services, &["workspace", "list"]).await.code, 78);
    services.fails(66, &["context", "use", "dev"]).await;
    services
        .fails(
            73,
            &["context", "add", "off", "--vault", "a:1", "--injector", "a:2"],
        )
        .await;
    services.fails(64, &["context", "add", "empty"]).await;
    // With another source for the injector, a command would work on two installations.
    let half = services
        .fails(64, &["context", "add", "half", "--vault", "a:1"])
        .await;
    assert!(half.contains("--injector missing"), "{half}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_present_context_hides_the_directory_and_says_so() {
    let services = with_contexts().await;
    let quiet = services.ok(&["workspace", "list"]).await;
    assert_eq!(quiet.err, "");
    services.ok(&["context", "use", "off"]).await;
    let hidden = services.fails(69, &["workspace", "list"]).await;
    assert!(
        hidden.starts_with("note: the context off is used, and not the directory .aerostack"),
        "{hidden}"
    );
    let explicit = services.ok(&["workspace", "list", "--dir", ".aerostack"]).await;
    assert_eq!((explicit.out, explicit.err), (quiet.out, String::new()));
    services.ok(&["context", "use", "--none"]).await;
    services.ok(&["workspace", "list"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_of_a_directory_follows_the_addresses_of_the_directory() {
    let services = TestServices::with_workspace().await;
    services
        .ok(&["context", "add", "local", "--dir", ".aerostack", "--use"])
        .await;
    let listed = elsewhere(&services, &["workspace", "list"]).await;
    assert_eq!(listed.code, 0, "{}", listed.err);
    // Nothing is hidden from a user who stands beside the directory.
    assert_eq!(services.ok(&["workspace", "list"]).await.err, "");
    let shown = services.ok(&["context", "show"]).await.out;
    assert!(
        shown.contains("Vault:") && shown.contains("admin.pem") && !shown.contains(" -\n"),
        "{shown}"
    );
    let contexts = services.json(&["context", "list"]).await;
    let dir = contexts["contexts"][0]["dir"].as_str().unwrap();
    assert!(dir.starts_with('/'), "{dir}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_context_names_and_that_does_not_exist_is_reported() {
    let services = TestServices::start().await;
    let added = services
        .ok(&[
            "context",
            "add",
            "prod",
            "--vault",
            "a.example:1",
            "--injector",
            "a.example:2",
            "--key",
            "nosuch.pem",
        ])
        .await;
    assert!(added.err.contains("nosuch.pem does not exist"), "{}", added.err);
}
