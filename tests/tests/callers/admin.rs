//! An injector without administration, as a sidecar runs.

use std::fs;

use e2e::{Injector, Pair, Upstream, Vault, eventually, pair::get};
use http::StatusCode;

use super::{replace, yaml};

#[tokio::test]
async fn a_sidecar_needs_no_grpc_listener_and_no_roles() {
    let upstream = Upstream::start().await;
    let vault = Vault::start().await;
    vault.workspace("dev").await;
    vault.put("dev", "TOKEN", "tok-1").await;
    let injector = Injector::start_with(vault.pki.clone(), vault.address, |settings| {
        settings.no_admin = true;
        settings.listen = "not read".into();
        settings.tls.tls_cert = None;
        settings.tls.tls_key = None;
        settings.tls.client_ca = None;
        settings.roles.admin.clear();
        fs::write(settings.servers.as_ref().unwrap(), yaml("api", &upstream.url())).unwrap();
    })
    .await;
    injector.ready().await;
    assert_eq!(injector.address.port(), 0);
    assert_eq!(injector.get("/dev/api/").await.status(), 200);
    assert_eq!(upstream.last().header("x-mcp-secret-token"), Some("tok-1"));
    // The servers still follow the file.
    replace(&injector.servers_file(), &yaml("moved", &upstream.url()));
    eventually("the file was read again", async || {
        injector.get("/dev/moved/").await.status() == 200 && injector.get("/dev/api/").await.status() == 404
    })
    .await;
    let metrics = get(&format!("http://{}/metrics", injector.metrics)).await;
    assert_eq!(metrics.status(), StatusCode::OK);
    let metrics = String::from_utf8(metrics.body().to_vec()).unwrap();
    assert!(!metrics.contains("grpc_server"), "{metrics}");
    Pair { vault, injector }.stop().await;
}
