//! Opening a store as a vault.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use chassis::blocking::blocking;
use proto::Uid;

use super::{
    OpenError, Vault,
    access::with_store,
    backup,
    key_file::WrappedKeys,
    keyring::Keyring,
    meta, root_key,
    stored::{self, Meta},
};
use crate::{
    root::Providers,
    store::{
        self, Batch, CompactError, CompactionReport, EXCLUSIVE_WRITER, ReadEntries, Store, UnopenedStore,
    },
};

/// Version of the layout of keys and values in the store.
pub(super) const FORMAT: u32 = 3;
/// Keys of the entries that decide whether a vault may open a store.
pub(super) const ADMISSION_KEYS: &[&[u8]] = &[stored::META, EXCLUSIVE_WRITER];

impl Vault {
    /// Opens a vault over `store`, and initializes an empty store. Refuses a store that needs a root key which `providers` do
    /// not have, and closes it.
    ///
    /// The vault is locked when its root key comes from a provider that may not answer; [`Writer::unlock`] unlocks it.
    ///
    /// [`Writer::unlock`]: super::Writer::unlock
    pub async fn open(store: Store, providers: impl Into<Providers>) -> Result<Self, OpenError> {
        Self::with_store(store, Arc::new(providers.into())).await
    }

    /// Opens a vault over the store in `dir`, or makes the store. Every byte of a store that is refused stays unchanged.
    pub(crate) async fn open_in(
        dir: PathBuf,
        cache_bytes: u64,
        providers: impl Into<Providers>,
    ) -> Result<Self, OpenError> {
        let providers = Arc::new(providers.into());
        let store = blocking(move || Store::inspect(&dir, cache_bytes, ADMISSION_KEYS)).await?;
        let store = admit(store, &providers).await?;
        let store = blocking(move || store.open()).await?;
        Self::with_store(store, providers).await
    }

    async fn with_store(store: Store, providers: Arc<Providers>) -> Result<Self, OpenError> {
        let vault = Self {
            store,
            keyring: Arc::new(Keyring::locked()),
            providers,
            clock: Arc::new(SystemTime::now),
        };
        match vault.take_over().await {
            Ok(()) => Ok(vault),
            Err(refused) => {
                // The caller needs the reason of the refusal. An error of the close is not important, because nothing was
                // written.
                drop(vault.store.close().await);
                Err(refused)
            }
        }
    }

    async fn take_over(&self) -> Result<(), OpenError> {
        prepare(&self.store, &self.providers).await?;
        if self.providers.is_local() {
            root_key::unlock(&self.store, &self.keyring, &self.providers).await?;
        }
        Ok(())
    }
}

/// Copies the store in `dir`, which no vault may have open, into a fresh one, which replaces it.
pub(crate) async fn compact(dir: &Path, cache_bytes: u64) -> Result<CompactionReport, CompactError> {
    store::compact(dir, cache_bytes, ADMISSION_KEYS).await
}

/// Contents of a store that a vault may open.
enum StoreState {
    Empty,
    /// A vault, with its file `keys`.
    Vault(Option<WrappedKeys>),
    /// A vault that was stopped while it restored a backup, with its file `keys`.
    InterruptedRestore(Option<WrappedKeys>),
}

/// Initializes an empty store, and removes what an interrupted restore left. Refuses a store that is not a vault of this
/// format whose root key `providers` have.
async fn prepare(store: &Store, providers: &Arc<Providers>) -> Result<(), OpenError> {
    loop {
        let providers = providers.clone();
        match with_store(store, move |store| inspect(store, &providers)).await? {
            StoreState::Empty => return initialize(store).await,
            StoreState::Vault(_) => return Ok(()),
            StoreState::InterruptedRestore(_) => backup::recover(store).await.map_err(OpenError::Recover)?,
        }
    }
}

/// Refuses a store that this vault may not open, before anything in the store is changed.
async fn admit(store: UnopenedStore, providers: &Arc<Providers>) -> Result<UnopenedStore, OpenError> {
    let reading = providers.clone();
    let (store, keys) = blocking(move || match inspect(&store, &reading) {
        Ok(StoreState::Empty) => Ok((store, None)),
        Ok(StoreState::Vault(keys) | StoreState::InterruptedRestore(keys)) => Ok((store, keys)),
        // A full disk must not prevent the start of a store that was closed; such a store is checked after it is
        // opened.
        Err(OpenError::Store(store::StoreOpenError::NoRoom { .. })) => Ok((store, None)),
        Err(refused) => Err(refused),
    })
    .await?;
    if let Some(keys) = keys.filter(|_| providers.is_local()) {
        root_key::open(&keys, providers).await?;
    }
    Ok(store)
}

fn inspect<S>(store: &S, providers: &Providers) -> Result<StoreState, OpenError>
where
    S: ReadEntries<Error: Into<OpenError>>,
{
    let Some(bytes) = store.read(stored::META).map_err(Into::into)? else {
        let is_empty = store.scan(&[], None, 1).map_err(Into::into)?.is_empty();
        return match is_empty {
            true => Ok(StoreState::Empty),
            false => Err(OpenError::NotAVault),
        };
    };
    let meta = stored::decode::<Meta>(&bytes)?;
    check_format(&meta)?;
    let file = WrappedKeys::read(store).map_err(OpenError::Keys)?;
    let count = || meta::count_workspaces(store).map_err(Into::into);
    let keys = root_key::check_key_file(file, &meta, providers, count)?;
    Ok(match store.read(EXCLUSIVE_WRITER).map_err(Into::into)? {
        Some(_) => StoreState::InterruptedRestore(keys),
        None => StoreState::Vault(keys),
    })
}

/// Refuses a store of another format.
pub(super) fn check_format(meta: &Meta) -> Result<(), OpenError> {
    match meta.format {
        FORMAT => Ok(()),
        found => Err(OpenError::Format {
            found,
            supported: FORMAT,
        }),
    }
}

/// Writes the [`Meta`] of a new vault without keys. The first unlock makes the store key.
async fn initialize(store: &Store) -> Result<(), OpenError> {
    let batch = Batch::new()
        .expect_absent(stored::META)
        .put(stored::META, stored::encode(&new_meta()));
    Ok(store.commit(batch).await?)
}

/// Makes the [`Meta`] of a new vault.
pub(super) fn new_meta() -> Meta {
    Meta {
        format: FORMAT,
        vault_uid: Uid::generate().as_bytes().to_vec(),
        ..Meta::default()
    }
}
