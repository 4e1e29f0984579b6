//! The probe `/startupz`.

use std::{fs, net::SocketAddr};

use e2e::{
    Injector, Pki, Upstream, Vault, eventually,
    pair::{get, server},
};
use http::StatusCode;

use super::{log::Log, yaml};

async fn startupz(metrics: SocketAddr) -> (StatusCode, String) {
    let answer = get(&format!("http://{metrics}/startupz")).await;
    let text = String::from_utf8(answer.body().to_vec()).unwrap();
    (answer.status(), text)
}

/// Waits until the start is not complete for a reason with all of `parts`.
async fn waits_for(injector: &Injector, parts: &[&str]) {
    eventually(&parts.join(" "), async || {
        let (status, text) = startupz(injector.metrics).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{text}");
        text.starts_with("not started: ") && parts.iter().all(|part| text.contains(part))
    })
    .await;
}

async fn starts(injector: &Injector) {
    eventually("the start is complete", async || {
        startupz(injector.metrics).await.0 == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn the_start_waits_for_every_secret_and_is_complete_for_good() {
    let log = Log::captured();
    let upstream = Upstream::start().await;
    let vault = Vault::start().await;
    let injector = Injector::start_with(vault.pki.clone(), vault.address, |settings| {
        let optional = format!(
            "{}- workspace: dev\n  name: optional\n  url: {}\n  injections:\n  - secret: NEVER_PUT\n",
            yaml("api", &upstream.url()),
            upstream.url()
        );
        fs::write(settings.servers.as_ref().unwrap(), optional).unwrap();
    })
    .await;
    waits_for(&injector, &["server dev/api", "there is no workspace dev"]).await;
    vault.workspace("dev").await;
    let missing = "a required secret does not exist (the log of the injector names the secrets)";
    waits_for(&injector, &["server dev/api", missing]).await;
    let (_, text) = startupz(injector.metrics).await;
    assert!(!text.contains("TOKEN"), "the page names no secret: {text}");
    eventually("the log names the secret", async || {
        log.text()
            .contains("problem=\"server dev/api: TOKEN: the secret does not exist\"")
    })
    .await;
    vault
        .put_for("dev", "TOKEN", "tok-1", &["https://other.example"])
        .await;
    waits_for(&injector, &["a secret is bound to other origins"]).await;
    vault.put("dev", "TOKEN", "tok-1").await;
    starts(&injector).await;
    assert_eq!(injector.get("/dev/api/").await.status(), 200);
    vault.delete("dev", "TOKEN").await;
    vault.stop().await;
    eventually("the injector notices", async || {
        get(&format!("http://{}/readyz", injector.metrics)).await.status() == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    assert_eq!(startupz(injector.metrics).await.0, StatusCode::OK);
    injector.stop().await;
}

#[tokio::test]
async fn an_injector_without_servers_waits_for_the_vault_alone() {
    let pki = Pki::new();
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let injector = Injector::start(pki.clone(), address).await;
    waits_for(&injector, &[&format!("the vault at {address}")]).await;
    let vault = Vault::start_with(pki, |settings| settings.listen = address.to_string()).await;
    starts(&injector).await;
    // A server that is added later has no part in the start.
    vault.workspace("dev").await;
    injector.ready().await;
    injector
        .add(server("dev", "late", "https://late.example", &["NONE"]))
        .await;
    assert_eq!(startupz(injector.metrics).await.0, StatusCode::OK);
    injector.stop().await;
    vault.stop().await;
}

#[tokio::test]
async fn the_vault_has_no_such_page() {
    let vault = Vault::start().await;
    assert_eq!(startupz(vault.metrics).await.0, StatusCode::NOT_FOUND);
    vault.stop().await;
}
