//! A backup in a file.

use std::{
    fs::File,
    io::{BufReader, Seek as _, SeekFrom},
    sync::Arc,
};

use super::{
    super::FORMAT,
    item::Items,
    keys::{self, Described},
};
use crate::{
    crypto::{
        KeyId, RootKey,
        backup::{BackupDecryptor, BackupError, BackupHeader, BackupInfo},
    },
    root::Providers,
    vault::{VaultError, blocking, keyring::UnsealedKeys, stored::Meta},
};

/// A backup in a file, whose header was read.
pub struct Archive {
    file: Arc<File>,
    header: BackupHeader,
    /// Where its frames begin.
    body: u64,
}

/// A backup that was found as it was made, and can be restored.
pub(super) struct Checked {
    /// What the vault that was backed up said of itself.
    pub(super) meta: Meta,
    /// Its root key, which opens the backup, and the store keys that its workspaces' keys are under.
    pub(super) keys: UnsealedKeys,
}

impl Archive {
    /// Reads the header of the backup in `file`. Blocking.
    pub fn open(file: Arc<File>) -> Result<Self, BackupError> {
        let mut from = &*file;
        from.rewind()?;
        let header = BackupHeader::read(&mut from)?;
        let body = from.stream_position()?;
        Ok(Self { file, header, body })
    }

    /// Reads the whole archive. Fails when the archive was changed, or `providers` lack the root key that the archive
    /// needs.
    pub async fn verify(self, providers: &Providers) -> Result<(), VaultError> {
        Arc::new(self).checked(None, providers).await.map(drop)
    }

    /// Verifies the archive as [`Self::verify`] does, and can also use the keys that a vault has loaded.
    pub(super) async fn checked(
        self: &Arc<Self>,
        loaded: Option<&UnsealedKeys>,
        providers: &Providers,
    ) -> Result<Checked, VaultError> {
        let root = keys::opening(self, loaded, providers).await?;
        let (archive, opens) = (self.clone(), root.clone());
        let described = blocking(move || archive.described(&opens)).await?;
        let meta = described.meta()?;
        if meta.format != FORMAT {
            return Err(VaultError::BackupOfOtherFormat(meta.format));
        }
        let keys = described.keys(root)?;
        Ok(Checked { meta, keys })
    }

    fn described(&self, root: &RootKey) -> Result<Described, BackupError> {
        let mut items = self.items(root)?;
        let mut described = Described::default();
        while let Some(change) = items.next()? {
            described.note(change);
        }
        Ok(described)
    }

    /// The root key that opens it.
    pub(in crate::vault) fn root_key(&self) -> KeyId {
        self.header.root_key
    }

    /// What its header says.
    pub(in crate::vault) fn info(&self) -> &BackupInfo {
        &self.header.info
    }

    pub(super) fn items(&self, root: &RootKey) -> Result<Items<BufReader<Arc<File>>>, BackupError> {
        (&*self.file).seek(SeekFrom::Start(self.body))?;
        let from = BufReader::with_capacity(256 * 1024, self.file.clone());
        Ok(Items::new(BackupDecryptor::new(&self.header, root, from)?))
    }
}
