//! What is served, and how it follows the file and the file follows it.

use std::{path::PathBuf, sync::Arc};

use arc_swap::{ArcSwap, ArcSwapOption};
use chassis::telemetry::chain;
use tokio::sync::watch;

use super::{
    carry::{Changes, carry},
    disk::{self, Contents, Staged, Stamp},
    error::{FileError, RegistryError},
    file,
    servers::Servers,
};
use crate::address::OwnListeners;

/// How often a write begins anew because others changed the file meanwhile.
const WRITE_TRIES: usize = 5;

/// What is served, for any number of readers.
pub(super) struct State {
    pub(super) path: PathBuf,
    pub(super) own: OwnListeners,
    pub(super) servers: ArcSwap<Servers>,
    /// Why the file as it is now is not what is served.
    pub(super) problem: ArcSwapOption<FileError>,
    pub(super) changed: watch::Sender<()>,
}

/// The file when it was last looked at; with whoever may look at it or write it now.
pub(super) struct Seen {
    content: Content,
    stamp: Option<Stamp>,
    /// Whether every change since shows in the stamp.
    settled: bool,
}

#[derive(PartialEq)]
enum Content {
    Absent,
    Bytes(Arc<[u8]>),
    /// For this reason.
    Unreadable(String),
}

impl State {
    /// Reads the file for the first time.
    pub(super) fn open(path: PathBuf, own: OwnListeners) -> Result<(Self, Seen), RegistryError> {
        let (seen, read) = Seen::now(&path);
        let servers = match judge(read, &Servers::default(), &own) {
            Ok(servers) => servers,
            Err(error) => {
                return Err(RegistryError::Invalid {
                    path,
                    source: Arc::new(error),
                });
            }
        };
        tracing::info!(file = %path.display(), servers = servers.len(), "servers file read");
        let state = Self {
            path,
            own,
            servers: ArcSwap::from_pointee(servers),
            problem: ArcSwapOption::empty(),
            changed: watch::Sender::new(()),
        };
        Ok((state, seen))
    }

    /// Takes over what the file says, when it says something else than before. An error says that it is not valid now,
    /// and that all stays as it was.
    pub(super) fn refresh(&self, seen: &mut Seen) -> Result<(), RegistryError> {
        if !(seen.settled && self.is_as(seen)) {
            let (now, read) = Seen::now(&self.path);
            let other = now.content != seen.content;
            *seen = now;
            if other {
                self.conclude(judge(read, &self.servers.load(), &self.own));
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

    /// Makes a change in the file, then in what is served. `change` may run more than once: it is made to what the
    /// file says right before.
    pub(super) fn write<T>(
        &self,
        seen: &mut Seen,
        change: impl Fn(&mut Servers) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        for _ in 0..WRITE_TRIES {
            self.refresh(seen)?;
            let mut servers = Servers::clone(&self.servers.load());
            let done = change(&mut servers)?;
            let text = file::render(servers.iter().map(|entry| &entry.server))?;
            let staged = Staged::write(&self.path, text.as_bytes())?;
            // An editor's change of the last instant would be lost. There is no lock that editors would heed.
            if !self.is_as(seen) {
                continue;
            }
            staged.commit()?;
            // Not settled: whether it is still ours, the next look will tell.
            *seen = Seen {
                content: Content::Bytes(text.into_bytes().into()),
                stamp: None,
                settled: false,
            };
            self.serve(servers);
            return Ok(done);
        }
        Err(RegistryError::Contended)
    }

    fn is_as(&self, seen: &Seen) -> bool {
        Stamp::of(&self.path).is_ok_and(|stamp| stamp == seen.stamp)
    }

    fn conclude(&self, judged: Result<Servers, FileError>) {
        let file = self.path.display();
        match judged {
            Ok(servers) => {
                let Changes {
                    added,
                    changed,
                    removed,
                } = self.serve(servers);
                self.problem.store(None);
                tracing::info!(%file, added, changed, removed, "servers file read again");
            }
            Err(error) => {
                tracing::warn!(%file, error = chain(&error), "servers file not used: all servers stay as they were");
                self.problem.store(Some(Arc::new(error)));
            }
        }
    }

    fn serve(&self, servers: Servers) -> Changes {
        let changes = Changes::between(&self.servers.load(), &servers);
        if changes != Changes::default() {
            self.servers.store(Arc::new(servers));
            self.changed.send_replace(());
        }
        changes
    }
}

impl Seen {
    /// The file now, and what was read of it.
    fn now(path: &std::path::Path) -> (Self, Result<Option<Contents>, FileError>) {
        let read = disk::read(path);
        let seen = match &read {
            Ok(Some(Contents {
                bytes,
                stamp,
                settled,
                modified: _,
            })) => Self {
                content: Content::Bytes(bytes.clone()),
                stamp: Some(stamp.clone()),
                settled: *settled,
            },
            Ok(None) => Self {
                content: Content::Absent,
                stamp: None,
                settled: true,
            },
            Err(error) => Self {
                content: Content::Unreadable(chain(error)),
                stamp: None,
                settled: false,
            },
        };
        (seen, read)
    }
}

/// The servers of a file, given those of before.
fn judge(
    read: Result<Option<Contents>, FileError>,
    before: &Servers,
    own: &OwnListeners,
) -> Result<Servers, FileError> {
    match read? {
        Some(Contents { bytes, modified, .. }) => carry(file::parse(&bytes, own)?, before, modified),
        None if before.len() == 0 => Ok(Servers::default()),
        None => Err(FileError::Gone),
    }
}
