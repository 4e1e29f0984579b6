//! What the vault does, without how it is called: workspaces, secrets, and their keys, over a store of bytes.
//!
//! [`Vault::split`] takes it apart into a [`Writer`], which has no method that decrypts, and a [`Reader`], whose only
//! method does, for the holder of a [`DecryptPermit`](crate::authz::DecryptPermit).

mod audit;
mod error;
mod keyring;
mod reader;
mod secrets;
mod stored;
#[cfg(test)]
mod tests;
mod workspaces;

use std::{future::Future, sync::Arc};

use proto::Uid;
use tokio::{sync::Mutex, task};

pub use audit::{Audit, AuditError, Damage, Report, What};
pub use error::{OpenError, VaultError};
pub use reader::{Decrypted, MAX_ANSWER, MAX_NAMES, Reader, Wanted};
pub use secrets::{MAX_ORIGINS, NewSecret, Put, SecretMetadata};
pub use workspaces::{Plan, Workspace};

use crate::{
    crypto::RootKey,
    store::{Batch, Health, Store},
};
use keyring::Keyring;
use stored::Meta;

/// The version of the layout of keys and values in the store.
const FORMAT: u32 = 1;
/// Locks over which writes of one secret queue up, instead of failing each other's compare-and-set.
const STRIPES: usize = 1024;
/// How often a write is tried again when another one came between its reading and its commit.
const ATTEMPTS: usize = 16;

/// An opened store and the root key that it was made with.
pub struct Vault {
    store: Store,
    keyring: Arc<Keyring>,
}

/// Changes workspaces and secrets, and shows names and metadata. Cannot decrypt.
#[derive(Clone)]
pub struct Writer {
    store: Store,
    keyring: Arc<Keyring>,
    stripes: Arc<[Mutex<()>]>,
}

impl Vault {
    /// Takes over a store. An empty one is initialised for this root key; any other must have been made with it. A store
    /// that is refused is closed again.
    pub async fn open(store: Store, root: RootKey) -> Result<Self, OpenError> {
        match check(&store, &root).await {
            Ok(()) => Ok(Self {
                store,
                keyring: Arc::new(Keyring::new(root)),
            }),
            Err(refused) => {
                // Why it was refused is what matters; nothing was written that closing could lose.
                drop(store.close().await);
                Err(refused)
            }
        }
    }

    /// The half that changes, and the half that decrypts.
    pub fn split(self) -> (Writer, Reader) {
        let Self { store, keyring } = self;
        let stripes = (0..STRIPES).map(|_| Mutex::new(())).collect();
        let reader = Reader::new(store.clone(), keyring.clone());
        (
            Writer {
                store,
                keyring,
                stripes,
            },
            reader,
        )
    }
}

/// The store must be empty, and then is initialised, or hold a vault of this format and root key.
async fn check(store: &Store, root: &RootKey) -> Result<(), OpenError> {
    let reading = store.clone();
    let (meta, empty) = blocking(move || {
        Ok::<_, OpenError>((
            reading.read(stored::META)?,
            reading.scan(&[], None, 1)?.is_empty(),
        ))
    })
    .await?;
    let meta = match (meta, empty) {
        (Some(bytes), _) => stored::decode::<Meta>(&bytes)?,
        (None, true) => return initialise(store, root).await,
        (None, false) => return Err(OpenError::NotOurs),
    };
    if meta.format != FORMAT {
        return Err(OpenError::Format {
            found: meta.format,
            supported: FORMAT,
        });
    }
    if meta.root_key_id != root.id().as_bytes() {
        return Err(OpenError::OtherRootKey {
            given: root.id().to_string(),
            needed: hex(&meta.root_key_id),
        });
    }
    Ok(())
}

async fn initialise(store: &Store, root: &RootKey) -> Result<(), OpenError> {
    let batch = Batch::new()
        .expect_absent(stored::META)
        .put(stored::META, stored::encode(&initial(root)));
    Ok(store.commit(batch).await?)
}

/// What a new vault says of itself.
fn initial(root: &RootKey) -> Meta {
    Meta {
        format: FORMAT,
        vault_uid: Uid::generate().as_bytes().to_vec(),
        root_key_id: root.id().as_bytes().to_vec(),
    }
}

impl Writer {
    /// Whether writes are acknowledged.
    pub fn health(&self) -> Health {
        self.store.health()
    }

    /// Makes everything durable and ends the store.
    pub async fn close(self) -> Result<(), crate::store::CommitError> {
        self.store.close().await
    }

    /// Runs `attempt` until no other write came between its reading and its commit.
    async fn retrying<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, VaultError>
    where
        F: Future<Output = Result<T, VaultError>>,
    {
        for _ in 1..ATTEMPTS {
            match attempt().await {
                Err(VaultError::Conflict) => {}
                done => return done,
            }
        }
        attempt().await
    }
}

/// Runs `work`, which reads the store, where blocking is allowed.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: Send + 'static,
{
    match task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
