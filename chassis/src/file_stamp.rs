//! The metadata by which a change of a file is noticed.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

/// Two changes within this time may leave the same timestamps, because clocks of file systems are coarse.
const TIMESTAMP_GRANULARITY: Duration = Duration::from_secs(2);

/// The metadata of a file. A file whose stamp differs was replaced or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    /// Reads the stamp of the file at `path`, through symbolic links. Kubernetes changes the files of a volume by replacing a
    /// link in their paths, which gives the path another inode.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }

    /// Returns false when the file is so new at `now` that another change might leave the same stamp.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let (seconds, _) = self.modified;
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        now.duration_since(modified)
            .is_ok_and(|age| age > TIMESTAMP_GRANULARITY)
    }
}

impl From<&Metadata> for FileStamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
