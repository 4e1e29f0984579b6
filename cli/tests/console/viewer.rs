//! An injector that takes one identity of `aerostack dev` for a viewer.

use std::net::SocketAddr;

use aerostack::pki::{DevPki, VAULT_ID};
use chassis::signal::ServiceSignals;
use clap::Parser as _;
use injector_service::{Listeners, config::Cli};

use crate::support::dev::Dev;

/// The uid of the server in the file.
pub(crate) const SHOWN_UID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

const SERVERS: &str = "version: 1
servers:
  - workspace: shown
    name: api
    uid: 67e55044-10b1-426f-9247-bb680e5fe0c8
    revision: 1
    url: https://a.example
    auth_type: bearer
    injections: [{secret: A}]
";

/// Serves an injector beside that of `dev` until the test ends, and returns the address of its administration.
pub(crate) async fn serve_injector(dev: &Dev, viewer: &str) -> SocketAddr {
    let pki = DevPki::ensure(&dev.dir).unwrap();
    let servers = dev.dir.join("viewer.yaml");
    std::fs::write(&servers, SERVERS).unwrap();
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let settings = [
        ("--listen", "127.0.0.1:0".to_owned()),
        ("--data-plane-listen", "127.0.0.1:0".to_owned()),
        ("--metrics-listen", "127.0.0.1:0".to_owned()),
        ("--servers", path(&servers)),
        ("--vault", dev.ports["vault"].to_string()),
        ("--vault-ca", path(&pki.ca)),
        ("--vault-id", VAULT_ID.to_owned()),
        ("--vault-cert", path(&pki.injector.cert)),
        ("--vault-key", path(&pki.injector.key)),
        ("--tls-cert", path(&pki.injector.cert)),
        ("--tls-key", path(&pki.injector.key)),
        ("--client-ca", path(&pki.ca)),
        ("--viewer", format!("{viewer}=*")),
    ];
    let flags = settings.iter().flat_map(|(flag, value)| [*flag, value.as_str()]);
    let cli = Cli::parse_from(std::iter::once("injector-service").chain(flags));
    let config = cli
        .settings
        .check()
        .unwrap_or_else(|problems| panic!("{problems}"));
    let listeners = Listeners::bind(&config).await.unwrap();
    let address = listeners.grpc.as_ref().unwrap().local_addr().unwrap();
    tokio::spawn(injector_service::run(
        config,
        listeners,
        ServiceSignals::default(),
    ));
    address
}
