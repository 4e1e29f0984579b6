//! Providers of root keys: files, a passphrase, a KMS.
//!
//! A root key file holds the root key itself. With a passphrase or a KMS the root key is 32 random bytes, which the store's
//! file `keys` holds in wrapped form. So the vault can rotate such a root key while it serves, and the key is stored in no
//! second place.

pub mod kms;

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use chassis::blocking::blocking;
use prost::{Message, Oneof};
use prost_types::Timestamp;

use crate::crypto::{
    Corruption, KeyId, NoRandomness, RootKey, passphrase,
    root_key_file::{self, PassphraseFileError},
};
use kms::{Kms, KmsError, KmsWrapped};

/// A wrapped root key in the store's file `keys`.
#[derive(Clone, PartialEq, Message)]
pub struct WrappedRootKey {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    #[prost(oneof = "Wrapping", tags = "2, 3")]
    pub wrapping: Option<Wrapping>,
    #[prost(message, optional, tag = "4")]
    pub create_time: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Wrapping {
    /// The result of [`passphrase::wrap`].
    #[prost(bytes, tag = "2")]
    Passphrase(Vec<u8>),
    #[prost(message, tag = "3")]
    Kms(KmsWrapped),
}

impl Wrapping {
    fn kind(&self) -> ProviderKind {
        match self {
            Self::Passphrase(_) => ProviderKind::Passphrase,
            Self::Kms(_) => ProviderKind::Kms,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ProviderKind {
    File,
    Passphrase,
    Kms,
}

pub enum Provider {
    /// The root key from a file.
    File(Arc<RootKey>),
    /// The provider that unwraps the root key in the store.
    Wrapper(RootKeyWrapper),
}

/// A provider that wraps root keys, which the store then holds.
pub enum RootKeyWrapper {
    /// Path of a file with a passphrase. The file is read for every use.
    Passphrase(PathBuf),
    Kms(Kms),
}

impl RootKeyWrapper {
    fn kind(&self) -> ProviderKind {
        match self {
            Self::Passphrase(_) => ProviderKind::Passphrase,
            Self::Kms(_) => ProviderKind::Kms,
        }
    }

    /// Returns true when a provider of this kind wrapped the root key.
    pub(crate) fn wrapped(&self, stored: &WrappedRootKey) -> bool {
        stored.wrapping.as_ref().map(Wrapping::kind) == Some(self.kind())
    }

    /// Generates a root key. Also returns its wrapped form for the store.
    pub(crate) async fn generate(&self) -> Result<(Arc<RootKey>, WrappedRootKey), ProviderError> {
        let key = Arc::new(RootKey::generate()?);
        let stored = WrappedRootKey {
            id: key.id().as_bytes().to_vec(),
            wrapping: Some(self.wrap(&key).await?),
            create_time: Some(SystemTime::now().into()),
        };
        Ok((key, stored))
    }

    pub(crate) async fn wrap(&self, key: &Arc<RootKey>) -> Result<Wrapping, ProviderError> {
        match self {
            Self::Passphrase(path) => {
                let (path, key) = (path.clone(), key.clone());
                let wrapped = blocking(move || {
                    let passphrase = root_key_file::read_passphrase(&path)?;
                    Ok::<_, ProviderError>(passphrase::wrap(&key, &passphrase)?)
                });
                Ok(Wrapping::Passphrase(wrapped.await?))
            }
            Self::Kms(kms) => Ok(Wrapping::Kms(kms.encrypt(key).await?)),
        }
    }

    /// Unwraps a root key; returns `None` when a provider of another kind wrapped it.
    async fn unwrap(&self, id: KeyId, wrapping: &Wrapping) -> Result<Option<RootKey>, ProviderError> {
        match (self, wrapping) {
            (Self::Passphrase(path), Wrapping::Passphrase(wrapped)) => {
                let (path, wrapped) = (path.clone(), wrapped.clone());
                Ok(Some(
                    blocking(move || with_passphrase(&path, id, &wrapped)).await?,
                ))
            }
            (Self::Kms(kms), Wrapping::Kms(wrapped)) => Ok(Some(kms.decrypt(wrapped).await?)),
            (Self::Passphrase(_), Wrapping::Kms(_)) | (Self::Kms(_), Wrapping::Passphrase(_)) => Ok(None),
        }
    }

    /// Returns true when the KMS now encrypts with another key than the one that `stored` names.
    pub(crate) async fn is_stale(&self, stored: &WrappedRootKey) -> Result<bool, ProviderError> {
        match (self, &stored.wrapping) {
            (Self::Kms(kms), Some(Wrapping::Kms(wrapped))) => Ok(kms.status().await? != wrapped.key_id),
            (Self::Passphrase(_) | Self::Kms(_), _) => Ok(false),
        }
    }
}

/// The configured providers: the active one, whose root key is used, and others that open a store under an earlier root
/// key.
pub struct Providers {
    active: Provider,
    others: Vec<Provider>,
}

/// Facts about an available root key that are known without unwrapping it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRootKey {
    pub id: KeyId,
    pub kind: ProviderKind,
    /// Id of the KMS key that encrypts the root key.
    pub kms_key_id: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error(transparent)]
    PassphraseFile(#[from] PassphraseFileError),
    #[error("the passphrase is not the one that the root key {0} was wrapped with")]
    OtherPassphrase(KeyId),
    #[error(transparent)]
    Kms(#[from] KmsError),
    #[error("a wrapped root key in the store is damaged; restore a backup")]
    Damaged(#[source] Option<Corruption>),
    #[error("no root key could be made")]
    NoRandomness(#[from] NoRandomness),
}

impl From<RootKey> for Providers {
    fn from(key: RootKey) -> Self {
        Self::new(Provider::File(Arc::new(key)), Vec::new())
    }
}

impl Providers {
    pub fn new(active: Provider, others: Vec<Provider>) -> Self {
        Self { active, others }
    }

    fn all(&self) -> impl Iterator<Item = &Provider> {
        std::iter::once(&self.active).chain(&self.others)
    }

    fn files(&self) -> impl Iterator<Item = &Arc<RootKey>> {
        self.all().filter_map(|provider| match provider {
            Provider::File(key) => Some(key),
            Provider::Wrapper(_) => None,
        })
    }

    fn wrappers(&self) -> impl Iterator<Item = &RootKeyWrapper> {
        self.all().filter_map(|provider| match provider {
            Provider::File(_) => None,
            Provider::Wrapper(wrapper) => Some(wrapper),
        })
    }

    pub(crate) fn active(&self) -> &Provider {
        &self.active
    }

    /// Returns true when no provider needs another process, which may not answer.
    pub(crate) fn is_local(&self) -> bool {
        self.wrappers().all(|wrapper| match wrapper {
            RootKeyWrapper::Passphrase(_) => true,
            RootKeyWrapper::Kms(_) => false,
        })
    }

    /// Lists the root keys of files, and the `held` root key if one of the providers can unwrap it.
    pub(crate) fn known(&self, held: Option<&WrappedRootKey>) -> Vec<KnownRootKey> {
        let files = self.files().map(|key| KnownRootKey {
            id: key.id(),
            kind: ProviderKind::File,
            kms_key_id: None,
        });
        let held = held.and_then(|held| {
            self.wrappers().find(|wrapper| wrapper.wrapped(held))?;
            let wrapping = held.wrapping.as_ref()?;
            Some(KnownRootKey {
                id: KeyId::from_stored(&held.id)?,
                kind: wrapping.kind(),
                kms_key_id: match wrapping {
                    Wrapping::Passphrase(_) => None,
                    Wrapping::Kms(wrapped) => Some(wrapped.key_id.clone()),
                },
            })
        });
        files.chain(held).collect()
    }

    /// Returns the root key that `id` names, from a file or by unwrapping `held`; `None` when no provider has this root
    /// key.
    pub(crate) async fn open(
        &self,
        id: KeyId,
        held: Option<&WrappedRootKey>,
    ) -> Result<Option<Arc<RootKey>>, ProviderError> {
        if let Some(key) = self.files().find(|key| key.id() == id) {
            return Ok(Some(key.clone()));
        }
        let Some(held) = held.filter(|held| held.id == id.as_bytes()) else {
            return Ok(None);
        };
        let wrapping = held.wrapping.as_ref().ok_or(ProviderError::Damaged(None))?;
        for wrapper in self.wrappers() {
            let Some(key) = wrapper.unwrap(id, wrapping).await? else {
                continue;
            };
            if key.id() != id {
                return Err(ProviderError::Damaged(Some(Corruption::KeyIdMismatch)));
            }
            return Ok(Some(Arc::new(key)));
        }
        Ok(None)
    }

    /// Returns the root key that replaces the one that `id` names, and its wrapped form if the store must hold it.
    /// Returns `None` when the root key `id` comes from the active provider already.
    pub(crate) async fn successor(
        &self,
        id: Option<KeyId>,
        held: Option<&WrappedRootKey>,
    ) -> Result<Option<(Arc<RootKey>, Option<WrappedRootKey>)>, ProviderError> {
        match &self.active {
            Provider::File(key) if id == Some(key.id()) => Ok(None),
            Provider::File(key) => Ok(Some((key.clone(), None))),
            Provider::Wrapper(wrapper) if held.is_some_and(|held| wrapper.wrapped(held)) => Ok(None),
            Provider::Wrapper(wrapper) => {
                let (key, held) = wrapper.generate().await?;
                Ok(Some((key, Some(held))))
            }
        }
    }
}

fn with_passphrase(path: &std::path::Path, id: KeyId, wrapped: &[u8]) -> Result<RootKey, ProviderError> {
    let passphrase = root_key_file::read_passphrase(path)?;
    passphrase::unwrap(wrapped, &passphrase).map_err(|cause| match cause {
        Corruption::Commitment => ProviderError::OtherPassphrase(id),
        other => ProviderError::Damaged(Some(other)),
    })
}
