//! A load of durable puts on the vault, and a load of synced writes on the disk.

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
    time::Instant,
};

use e2e::{
    Pki,
    pki::{ADMIN, Files, VAULT},
};
use proto::vault::v1::{ListSecretsRequest, secret_service_client::SecretServiceClient};
use tokio::task::JoinSet;

use crate::{
    Failure,
    measure::{Period, Window},
    services::{Vault, WORKSPACE, put_request, secret_name},
};

/// Concurrent writers in the measurement with many writers.
pub(crate) const WRITERS: u32 = 64;
/// Secrets that get new versions in turn.
pub(crate) const NAMES: u32 = 1000;
/// [`syncs`] writes blocks of this many bytes to [`BLOCKS`] places in turn.
const BLOCK: usize = 4096;
const BLOCKS: usize = 2048;

/// A load of `writers` writers, each on its own connection. A writer puts again as soon as the vault has answered.
#[derive(Clone)]
pub(crate) struct Puts {
    writers: u32,
    pki: Arc<Pki>,
    files: Files,
    address: SocketAddr,
    process: u32,
}

impl Puts {
    pub(crate) fn new(writers: u32, vault: &Vault) -> Self {
        Self {
            writers,
            pki: vault.pki.clone(),
            files: vault.pki.principal(ADMIN),
            address: vault.address,
            process: vault.process.id(),
        }
    }

    pub(crate) async fn measure(&self, seconds: u32) -> Result<Window, Failure> {
        // One call per connection completes the TLS handshake before the measurement begins. This call is not a put,
        // because the vault soon closes a connection that is idle after a put.
        let mut clients = Vec::new();
        for _ in 0..self.writers {
            let mut client = SecretServiceClient::new(self.pki.channel(&self.files, self.address, VAULT));
            client.list_secrets(list_request()).await?;
            clients.push(client);
        }
        let (period, step) = (Period::after_warming_up(seconds), usize::try_from(self.writers)?);
        let mut calls = JoinSet::new();
        for (first, mut client) in (0..).zip(clients) {
            calls.spawn(async move {
                let mut latencies = Vec::new();
                for number in (first..).step_by(step) {
                    let began = Instant::now();
                    client
                        .put_secret(put_request(secret_name(number % NAMES)))
                        .await?;
                    if period.is_over(began, &mut latencies) {
                        break;
                    }
                }
                Ok(latencies)
            });
        }
        period.watch(&[self.process], calls).await
    }
}

fn list_request() -> ListSecretsRequest {
    ListSecretsRequest {
        workspace: WORKSPACE.to_owned(),
        page_size: 1,
        page_token: String::new(),
    }
}

/// Writes blocks to a file in `dir` and calls `fdatasync` after each, as a store without group commit would do. The
/// file has its final length from the start, like the store's log.
pub(crate) async fn syncs(dir: &Path, seconds: u32) -> Result<Window, Failure> {
    let path = dir.join("synced");
    let period = Period::after_warming_up(seconds);
    let mut calls = JoinSet::new();
    calls.spawn_blocking(move || {
        let file = File::create(&path)?;
        file.write_all_at(&vec![0; BLOCKS * BLOCK], 0)?;
        file.sync_all()?;
        let mut latencies = Vec::new();
        for block in (0..BLOCKS).cycle() {
            let began = Instant::now();
            file.write_all_at(&[1; BLOCK], u64::try_from(block * BLOCK)?)?;
            file.sync_data()?;
            if period.is_over(began, &mut latencies) {
                break;
            }
        }
        fs::remove_file(path)?;
        Ok(latencies)
    });
    period.watch(&[], calls).await
}
