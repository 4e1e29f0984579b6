//! A vault and an injector in this process, on ports that the system chooses.

mod http;
mod injector;
mod process_args;
mod vault;

use proto::injector::v1::Server;

use crate::pki::Pki;

pub use http::{get, send};
pub use injector::{Injector, injector_settings};
pub use vault::{Vault, vault_settings};

/// A vault and an injector that uses it.
pub struct Pair {
    pub vault: Vault,
    pub injector: Injector,
}

impl Pair {
    /// Starts a vault and an injector, and waits until they are ready.
    pub async fn start() -> Self {
        Self::start_with(|_| {}, |_| {}).await
    }

    /// Starts a vault and an injector with settings that the closures changed, and waits until they are ready.
    pub async fn start_with(
        vault: impl FnOnce(&mut vault_service::config::Settings),
        injector: impl FnOnce(&mut injector_service::config::Settings),
    ) -> Self {
        let pki = Pki::new();
        let vault = Vault::start_with(pki.clone(), vault).await;
        let injector = Injector::start_with(pki, vault.address, injector).await;
        injector.ready().await;
        Self { vault, injector }
    }

    pub async fn stop(self) {
        self.injector.stop().await;
        self.vault.stop().await;
    }
}

/// Returns a server to add. A test sets the fields that it is about.
pub fn server(workspace: &str, name: &str, url: &str, secrets: &[&str]) -> Server {
    Server {
        workspace: workspace.to_owned(),
        name: name.to_owned(),
        url: url.to_owned(),
        inject_secrets: secrets.iter().map(|&secret| secret.to_owned()).collect(),
        ..Default::default()
    }
}
