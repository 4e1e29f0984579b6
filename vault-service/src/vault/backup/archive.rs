//! A backup in a file.

use std::{
    fs::File,
    io::{BufReader, Seek as _, SeekFrom},
    sync::Arc,
};

use super::{super::FORMAT, item::Items};
use crate::{
    crypto::{
        RootKey,
        backup::{About, BackupError, Header, Opener},
    },
    store::{Change, Entry},
    vault::{
        VaultError,
        stored::{self, META, Meta},
    },
};

/// A backup in a file, whose header was read.
pub struct Archive {
    file: Arc<File>,
    header: Header,
    /// Where its frames begin.
    body: u64,
}

impl Archive {
    /// Reads the header of the backup in `file`. Blocking.
    pub fn open(file: Arc<File>) -> Result<Self, BackupError> {
        let mut from = &*file;
        from.rewind()?;
        let header = Header::read(&mut from)?;
        let body = from.stream_position()?;
        Ok(Self { file, header, body })
    }

    /// Reads all of it, and fails unless it is as it was made. Blocking.
    pub fn verify(&self, root: &RootKey) -> Result<(), VaultError> {
        self.described(root).map(drop)
    }

    /// The same; what the vault that was backed up said of itself.
    pub(super) fn described(&self, root: &RootKey) -> Result<Meta, VaultError> {
        let mut items = self.items(root)?;
        let mut found = None;
        while let Some(change) = items.next()? {
            match change {
                Change::Put(Entry { key, value }) if key == META => found = Some(value),
                Change::Put(_) | Change::Delete(_) => {}
            }
        }
        let bytes = found.ok_or(BackupError::Damaged(None))?;
        let meta: Meta = stored::decode(&bytes)?;
        if meta.format > FORMAT {
            return Err(VaultError::BackupOfLaterFormat(meta.format));
        }
        Ok(meta)
    }

    /// What its header says.
    pub(super) fn about(&self) -> &About {
        &self.header.about
    }

    pub(super) fn items(&self, root: &RootKey) -> Result<Items<BufReader<Arc<File>>>, BackupError> {
        (&*self.file).seek(SeekFrom::Start(self.body))?;
        let from = BufReader::with_capacity(256 * 1024, self.file.clone());
        Ok(Items::new(Opener::new(&self.header, root, from)?))
    }
}
