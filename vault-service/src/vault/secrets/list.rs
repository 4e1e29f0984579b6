//! Metadata of one secret, of all secrets of a workspace, and of the versions of a secret.

use proto::{SecretName, page::Page};

use super::{current::SecretEntries, metadata::SecretMetadata};
use crate::{
    authz::ReadPermit,
    store::{Entry, Store},
    vault::{
        VaultError, Writer,
        access::with_store,
        stored::{self, Kind},
        workspace::{self, StoredWorkspace},
    },
};

/// Maximum size of the metadata on a page of secrets, in bytes.
const PAGE_BYTES: usize = 1024 * 1024;
/// Number of entries that one scan reads for a page.
const SCAN_ENTRIES: usize = 64;

impl Writer {
    pub(crate) async fn secret(
        &self,
        permit: &ReadPermit,
        name: &SecretName,
    ) -> Result<SecretMetadata, VaultError> {
        let _paused = self.use_counters.pause_flush().await;
        let (writer, workspace, name) = (self.clone(), permit.workspace().clone(), name.clone());
        with_store(&self.store, move |store| {
            let found = workspace::find(store, &workspace)?;
            match store.read(&Kind::Metadata.key(&found.uid, &name))? {
                Some(bytes) => writer.metadata_with_use(&found, &name, &bytes),
                None => Err(VaultError::NoSecret(workspace, name)),
            }
        })
        .await
    }

    /// Returns a page of a workspace's secrets, and true when more follow.
    pub(crate) async fn secrets(
        &self,
        permit: &ReadPermit,
        page: Page,
    ) -> Result<(Vec<SecretMetadata>, bool), VaultError> {
        let _paused = self.use_counters.pause_flush().await;
        let (writer, workspace) = (self.clone(), permit.workspace().clone());
        with_store(&self.store, move |store| {
            let workspace = workspace::find(store, &workspace)?;
            let prefix = Kind::Metadata.of(&workspace.uid);
            let after = page
                .after
                .as_ref()
                .map(|name| [prefix.as_slice(), name.as_bytes()].concat());
            let (entries, more) = scan_page(store, &prefix, after.as_deref(), page.size)?;
            let secrets = entries.into_iter().map(|entry| {
                let name = entry
                    .key
                    .get(prefix.len()..)
                    .and_then(|name| str::from_utf8(name).ok());
                let name = name
                    .and_then(|name| SecretName::parse(name).ok())
                    .ok_or(VaultError::Corrupt(None))?;
                writer.metadata_with_use(&workspace, &name, &entry.value)
            });
            Ok((secrets.collect::<Result<_, _>>()?, more))
        })
        .await
    }

    fn metadata_with_use(
        &self,
        workspace: &StoredWorkspace,
        name: &SecretName,
        bytes: &[u8],
    ) -> Result<SecretMetadata, VaultError> {
        let record = stored::decode(bytes)?;
        Ok(SecretMetadata {
            last_use: self.use_counters.last_use(&self.store, &workspace.uid, name)?,
            ..SecretMetadata::new(&workspace.name, name, record, (self.clock)())?
        })
    }

    /// Returns up to `size` kept versions of a secret that are older than version `before`, the newest first, and true when
    /// more follow.
    pub(crate) async fn secret_versions(
        &self,
        permit: &ReadPermit,
        name: &SecretName,
        before: Option<u64>,
        size: usize,
    ) -> Result<(Vec<SecretMetadata>, bool), VaultError> {
        let (workspace, name, now) = (permit.workspace().clone(), name.clone(), (self.clock)());
        with_store(&self.store, move |store| {
            let workspace = workspace::find(store, &workspace)?;
            let secret = SecretEntries::of(store, &workspace, &name);
            let current = secret.existing()?;
            let before = before.unwrap_or(u64::MAX);
            let metadata = |record| SecretMetadata::new(&workspace.name, &name, record, now);
            let mut versions = Vec::new();
            if current.version() < before {
                versions.push(metadata(current.metadata.clone())?);
            }
            for version in current.older(before).rev() {
                if versions.len() > size {
                    break;
                }
                // A version that a repair could not recover is missing.
                if let Some(old) = secret.old_version(version)? {
                    versions.push(metadata(old.metadata)?);
                }
            }
            let more = versions.len() > size;
            versions.truncate(size);
            Ok((versions, more))
        })
        .await
    }
}

/// Returns the entries of a page of at most `size`, and true when more entries follow. Uses little more memory than the
/// page, however large the entries are that do not fit.
fn scan_page(
    store: &Store,
    prefix: &[u8],
    after: Option<&[u8]>,
    size: usize,
) -> Result<(Vec<Entry>, bool), VaultError> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let limit = (size + 1 - entries.len()).min(SCAN_ENTRIES);
        let after = entries.last().map(|entry| entry.key.as_slice()).or(after);
        let read = store.scan(prefix, after, limit)?;
        let is_end = read.len() < limit;
        entries.extend(read);
        let fit = count_fitting(&entries).min(size);
        let more = entries.len() > fit;
        if more || is_end {
            entries.truncate(fit);
            return Ok((entries, more));
        }
    }
}

/// Returns the number of entries that fit on one page. A page always has at least one.
fn count_fitting(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let fit = entries
        .iter()
        .take_while(|entry| {
            bytes += entry.key.len() + entry.value.len();
            bytes <= PAGE_BYTES
        })
        .count();
    fit.max(1)
}
