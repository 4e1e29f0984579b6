//! A backup in a file.

use std::{
    fs::File,
    io::{BufReader, Seek as _, SeekFrom},
    sync::Arc,
};

use chassis::blocking::blocking;

use super::{
    item::ItemReader,
    keys::{self, BackupContents},
};
use crate::{
    crypto::{
        RootKey,
        backup::{BackupDecryptor, BackupError, BackupHeader, BackupInfo},
    },
    root::Providers,
    vault::{VaultError, keyring::UnlockedKeys, open::FORMAT, stored::Meta},
};

/// A backup in a file, whose header was read.
pub struct Archive {
    file: Arc<File>,
    header: BackupHeader,
    body: u64,
}

/// The keys and the description of a backup that was read completely and is unchanged.
pub(super) struct VerifiedBackup {
    pub(super) meta: Meta,
    /// The root key that opens the backup, and the store keys that wrap the KEKs of its workspaces.
    pub(super) keys: UnlockedKeys,
}

impl Archive {
    /// Reads the header of the backup in `file`. Blocking.
    pub(crate) fn open(file: Arc<File>) -> Result<Self, BackupError> {
        let mut from = &*file;
        from.rewind()?;
        let header = BackupHeader::read(&mut from)?;
        let body = from.stream_position()?;
        Ok(Self { file, header, body })
    }

    /// Reads the whole backup. Fails when the backup was changed, or `providers` do not have the root key that it needs.
    pub(crate) async fn verify(self, providers: &Providers) -> Result<(), VaultError> {
        Arc::new(self).verify_with(None, providers).await.map(drop)
    }

    /// Verifies the backup as [`Self::verify`] does, and can also use the keys that a vault has loaded.
    pub(super) async fn verify_with(
        self: &Arc<Self>,
        loaded: Option<&UnlockedKeys>,
        providers: &Providers,
    ) -> Result<VerifiedBackup, VaultError> {
        let root = keys::find_root_key(self.header.root_key, self.info(), loaded, providers).await?;
        let (archive, key) = (self.clone(), root.clone());
        let contents = blocking(move || archive.read_all(&key)).await?;
        let meta = contents.meta()?;
        if meta.format != FORMAT {
            return Err(VaultError::BackupOfOtherFormat(meta.format));
        }
        let keys = contents.keys(root)?;
        Ok(VerifiedBackup { meta, keys })
    }

    fn read_all(&self, root: &RootKey) -> Result<BackupContents, BackupError> {
        let mut items = self.items(root)?;
        let mut contents = BackupContents::default();
        while let Some(change) = items.next()? {
            contents.note(change);
        }
        Ok(contents)
    }

    pub(super) fn info(&self) -> &BackupInfo {
        &self.header.info
    }

    pub(super) fn items(&self, root: &RootKey) -> Result<ItemReader<BufReader<Arc<File>>>, BackupError> {
        (&*self.file).seek(SeekFrom::Start(self.body))?;
        let from = BufReader::with_capacity(256 * 1024, self.file.clone());
        Ok(ItemReader::new(BackupDecryptor::new(&self.header, root, from)?))
    }
}
