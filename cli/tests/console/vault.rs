//! A vault beside that of `aerostack dev`, with settings of its own.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path};

use aerostack::pki::{ADMIN_ID, DevPki};
use chassis::signal::ServiceSignals;
use clap::Parser as _;
use vault_service::{Listeners, config::Cli};

use crate::support::dev::Dev;

/// Serves a vault whose root key comes from a passphrase.
pub(crate) async fn serve_with_passphrase(dev: &Dev) -> SocketAddr {
    serve(dev, &[]).await
}

/// Serves a vault with additional settings until the test ends, and returns its address.
pub(crate) async fn serve(dev: &Dev, more: &[(&'static str, String)]) -> SocketAddr {
    let pki = DevPki::ensure(&dev.dir).unwrap();
    let passphrase = dev.dir.join("passphrase");
    fs::write(&passphrase, "correct horse battery staple").unwrap();
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let settings = [
        ("--listen", "127.0.0.1:0".to_owned()),
        ("--metrics-listen", "127.0.0.1:0".to_owned()),
        ("--data-dir", path(&dev.dir.join("other-vault"))),
        ("--root-passphrase-file", path(&passphrase)),
        ("--tls-cert", path(&pki.vault.cert)),
        ("--tls-key", path(&pki.vault.key)),
        ("--client-ca", path(&pki.ca)),
        ("--admin", ADMIN_ID.to_owned()),
    ];
    let flags = settings
        .iter()
        .chain(more)
        .flat_map(|(flag, value)| [*flag, value.as_str()]);
    let cli = Cli::parse_from(std::iter::once("vault-service").chain(flags));
    let config = cli
        .settings
        .check()
        .unwrap_or_else(|problems| panic!("{problems}"));
    let listeners = Listeners::bind(&config).await.unwrap();
    let address = listeners.grpc.local_addr().unwrap();
    tokio::spawn(vault_service::run(config, listeners, ServiceSignals::default()));
    address
}
