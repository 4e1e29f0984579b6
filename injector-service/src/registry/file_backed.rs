//! The servers in memory and the file on the disk, kept in step: an edit of the file changes the servers, and a change
//! through the API is written to the file first.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use chassis::{file_stamp::FileStamp, telemetry::chain};
use tokio::sync::watch;

use super::{
    atomic_file::{self, Contents, StagedFile},
    error::{FileError, RegistryError},
    file_revision::FileRevision,
    reconcile::{Changes, reconcile},
    server::Server,
    server_map::ServerMap,
    servers_file,
};
use crate::address::OwnListeners;

/// The number of tries of a write. A try fails when another process changes the file in its midst.
const WRITE_TRIES: usize = 5;

/// The servers that are in use, which any number of threads read without waiting, and the file that they come from.
pub(super) struct FileBackedServers {
    pub(super) path: PathBuf,
    pub(super) own: OwnListeners,
    pub(super) current: ArcSwap<LoadedServers>,
    /// The reason why the file is not valid now. The servers are then those of the last valid file.
    pub(super) problem: ArcSwapOption<FileError>,
    /// The number of contents of the file that were not used.
    pub(super) rejections: AtomicU64,
    pub(super) changed: watch::Sender<()>,
}

/// The servers of one content of the file.
#[derive(Debug, Default)]
pub(super) struct LoadedServers {
    pub(super) servers: ServerMap,
    pub(super) revision: FileRevision,
}

/// The state of the file at the last read or write. Each read and each write needs exclusive access to this value.
pub(super) struct LastSeen {
    content: FileContent,
    stamp: Option<FileStamp>,
    /// False when the file may change without a change of its stamp.
    is_settled: bool,
}

#[derive(PartialEq)]
enum FileContent {
    Absent,
    Bytes(Arc<[u8]>),
    /// The text is the error.
    Unreadable(String),
}

impl FileBackedServers {
    /// Reads the file for the first time.
    pub(super) fn open(path: PathBuf, own: OwnListeners) -> Result<(Self, LastSeen), RegistryError> {
        let (seen, read) = LastSeen::read(&path);
        let servers = match parse(read, &LoadedServers::default(), &own) {
            Ok(servers) => servers,
            Err(error) => {
                return Err(RegistryError::Invalid {
                    path,
                    source: Arc::new(error),
                });
            }
        };
        tracing::info!(
            file = %path.display(),
            servers = servers.servers.len(),
            revision = %servers.revision,
            "servers file read"
        );
        let servers = Self {
            path,
            own,
            current: ArcSwap::from_pointee(servers),
            problem: ArcSwapOption::empty(),
            rejections: AtomicU64::new(0),
            changed: watch::Sender::new(()),
        };
        servers.warn_of_wildcard_origins();
        Ok((servers, seen))
    }

    /// Reads the file if it may have changed since `seen`, and uses its servers. An error means that the file is not valid
    /// and the servers are the same as before.
    pub(super) fn refresh(&self, seen: &mut LastSeen) -> Result<(), RegistryError> {
        if !(seen.is_settled && self.has_stamp_of(seen)) {
            let (now, read) = LastSeen::read(&self.path);
            let has_changed = now.content != seen.content;
            *seen = now;
            if has_changed {
                self.accept(parse(read, &self.current.load(), &self.own));
            }
        }
        match self.problem.load_full() {
            Some(source) => Err(RegistryError::Invalid {
                path: self.path.clone(),
                source,
            }),
            None => Ok(()),
        }
    }

    /// Makes a change in the file and then in memory. `change` is applied to the servers of the file as it is right before
    /// the write, and may run several times.
    pub(super) fn write<T>(
        &self,
        seen: &mut LastSeen,
        change: impl Fn(&mut ServerMap) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        for _ in 0..WRITE_TRIES {
            self.refresh(seen)?;
            let mut servers = self.current.load().servers.clone();
            let done = change(&mut servers)?;
            let text = servers_file::render(servers.iter().map(|entry| &entry.server))?;
            let staged = StagedFile::write(&self.path, text.as_bytes())?;
            // Checked as late as possible: editors take no lock, so the write would undo a change made in between.
            if !self.has_stamp_of(seen) {
                continue;
            }
            staged.commit()?;
            let revision = FileRevision::of(text.as_bytes());
            // The next refresh reads the file again, in case that somebody replaced it at once.
            *seen = LastSeen {
                content: FileContent::Bytes(text.into_bytes().into()),
                stamp: None,
                is_settled: false,
            };
            self.replace(LoadedServers { servers, revision });
            return Ok(done);
        }
        Err(RegistryError::Contended)
    }

    fn has_stamp_of(&self, seen: &LastSeen) -> bool {
        atomic_file::stamp_of(&self.path).is_ok_and(|stamp| stamp == seen.stamp)
    }

    fn accept(&self, parsed: Result<LoadedServers, FileError>) {
        let file = self.path.display();
        match parsed {
            Ok(loaded) => {
                let revision = loaded.revision.clone();
                let Changes {
                    added,
                    changed,
                    removed,
                } = self.replace(loaded);
                self.problem.store(None);
                tracing::info!(%file, %revision, added, changed, removed, "servers file read again");
                self.warn_if_empty();
                self.warn_of_wildcard_origins();
            }
            Err(error) => {
                self.rejections.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%file, error = chain(&error), "servers file not used: all servers stay as they were");
                self.problem.store(Some(Arc::new(error)));
            }
        }
    }

    pub(super) fn warn_if_empty(&self) {
        if self.current.load().servers.len() == 0 {
            tracing::warn!(file = %self.path.display(), "the servers file names no servers, so all calls are refused");
        }
    }

    /// The API refuses such an origin. A file with one is used all the same, so that an upgrade does not take all servers away.
    fn warn_of_wildcard_origins(&self) {
        for entry in self.current.load().servers.iter() {
            let Server {
                workspace,
                name,
                spec,
                ..
            } = &entry.server;
            for origin in spec.allowed_origins.iter().filter(|origin| origin.has_wildcard()) {
                let origin = origin.as_str();
                tracing::warn!(%workspace, server = %name, origin, "an allowed origin has a wildcard and matches no web page");
            }
        }
    }

    fn replace(&self, loaded: LoadedServers) -> Changes {
        let changes = Changes::between(&self.current.load().servers, &loaded.servers);
        self.current.store(Arc::new(loaded));
        if changes != Changes::default() {
            self.changed.send_replace(());
        }
        changes
    }
}

impl LastSeen {
    fn read(path: &Path) -> (Self, Result<Option<Contents>, FileError>) {
        let read = atomic_file::read(path);
        let seen = match &read {
            Ok(Some(Contents {
                bytes,
                stamp,
                is_settled,
                modified: _,
            })) => Self {
                content: FileContent::Bytes(bytes.clone()),
                stamp: Some(stamp.clone()),
                is_settled: *is_settled,
            },
            Ok(None) => Self {
                content: FileContent::Absent,
                stamp: None,
                is_settled: true,
            },
            Err(error) => Self {
                content: FileContent::Unreadable(chain(error)),
                stamp: None,
                is_settled: false,
            },
        };
        (seen, read)
    }
}

/// Returns the servers of the file, given the servers `before`. A file that never existed has no servers.
fn parse(
    read: Result<Option<Contents>, FileError>,
    LoadedServers { servers: before, .. }: &LoadedServers,
    own: &OwnListeners,
) -> Result<LoadedServers, FileError> {
    match read? {
        Some(Contents { bytes, modified, .. }) => Ok(LoadedServers {
            servers: reconcile(servers_file::parse(&bytes, own)?, before, modified)?,
            revision: FileRevision::of(&bytes),
        }),
        None if before.len() == 0 => Ok(LoadedServers::default()),
        None => Err(FileError::Gone),
    }
}
