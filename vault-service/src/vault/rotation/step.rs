//! One step of a rotation: what it is to do, and doing it unless something else wrote in between.

use super::{Level, Progress};
use crate::{
    crypto::{DecryptionError, record::RewrapError},
    store::{Batch, Entry},
    vault::{
        VaultError, Writer, erasure,
        keyring::Keyring,
        stored::{self, RetiredKek, Rotation},
        workspaces::Found,
    },
};

/// The most entries of a step.
pub(super) const PAGE: usize = 64;
/// The most bytes of a step's entries, but for a single one that is larger.
const PAGE_BYTES: usize = 256 * 1024;

/// An entry that cannot be moved: damaged, or under a key that is not there.
pub(super) struct Unreadable;

/// Why an entry is not moved.
pub(super) enum Stuck {
    /// That is this one's fault.
    Unreadable,
    /// None can be.
    Failed(VaultError),
}

impl From<Unreadable> for Stuck {
    fn from(Unreadable: Unreadable) -> Self {
        Self::Unreadable
    }
}

impl From<VaultError> for Stuck {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Corrupt(_) | VaultError::KeyNotLoaded => Self::Unreadable,
            other => Self::Failed(other),
        }
    }
}

impl From<RewrapError> for Stuck {
    fn from(error: RewrapError) -> Self {
        match error {
            RewrapError::Decrypt(DecryptionError::UnknownKey(_) | DecryptionError::Corrupt(_)) => {
                Self::Unreadable
            }
            RewrapError::NoRandomness(error) => Self::Failed(error.into()),
        }
    }
}

/// An entry that is to be exchanged for another one.
pub(super) struct Move {
    pub(super) key: Vec<u8>,
    pub(super) from: Vec<u8>,
    pub(super) to: Vec<u8>,
}

/// What a step is to do.
pub(super) struct Plan {
    pub(super) level: Level,
    /// The rotation's entry, as it was read.
    pub(super) key: Vec<u8>,
    pub(super) before: Vec<u8>,
    pub(super) what: What,
}

/// One of two: to move entries of a page, or to end a pass with a change of what the entries belong to.
pub(super) struct What {
    moves: Vec<Move>,
    with: Option<Move>,
    /// Entries that the step's batch also writes.
    notes: Vec<Entry>,
    then: Then,
}

impl What {
    pub(super) fn only(then: Then) -> Self {
        Self {
            moves: Vec::new(),
            with: None,
            notes: Vec::new(),
            then,
        }
    }

    pub(super) fn with(change: Move, then: Then) -> Self {
        Self {
            with: Some(change),
            ..Self::only(then)
        }
    }

    pub(super) fn and_put(self, notes: Vec<Entry>) -> Self {
        Self { notes, ..self }
    }
}

/// What is to become of the rotation.
pub(super) enum Then {
    /// It goes on so.
    On(Rotation),
    /// The same, but it met what it cannot move, and waits.
    Wait(Rotation),
    /// It is over.
    End(Ended),
}

/// Keys to release at the end of a rotation.
pub(super) enum Ended {
    /// The retired KEKs of a workspace, which are released in memory.
    Workspace(Box<Found>),
    /// All store keys except the active one, which are removed from the file `keys` before the rotation ends, and from
    /// memory.
    StoreKey,
    /// No key: the rotation's workspace no longer exists.
    Gone,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vault) enum Step {
    On,
    Wait,
    Ended,
}

pub(super) fn another_pass(rotation: Rotation) -> Rotation {
    Rotation {
        cursor: Vec::new(),
        done: 0,
        unreadable: 0,
        unreadable_before: rotation.unreadable,
        ..rotation
    }
}

/// The entries of a page that are to be moved, and the rotation behind it. Names stand behind `name` bytes of keys.
pub(super) fn page(
    mut rotation: Rotation,
    entries: Vec<Entry>,
    name: usize,
    mut moved: impl FnMut(&Entry) -> Result<Option<Vec<u8>>, Stuck>,
) -> Result<What, VaultError> {
    let mut moves = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        bytes += entry.value.len();
        if bytes > PAGE_BYTES && !moves.is_empty() {
            break;
        }
        match moved(&entry) {
            Ok(None) => {}
            Ok(Some(to)) => moves.push(Move {
                key: entry.key.clone(),
                from: entry.value,
                to,
            }),
            Err(Stuck::Unreadable) => {
                let name = entry.key.get(name..).map(String::from_utf8_lossy);
                tracing::warn!(
                    workspace = rotation.workspace,
                    ?name,
                    "cannot be moved to another key"
                );
                rotation.unreadable += 1;
            }
            Err(Stuck::Failed(error)) => return Err(error),
        }
        rotation.done += 1;
        rotation.total = rotation.total.max(rotation.done);
        rotation.cursor = entry.key;
    }
    Ok(What {
        moves,
        ..What::only(Then::On(rotation))
    })
}

impl Move {
    fn add_to(&self, batch: Batch) -> Batch {
        batch
            .expect_value(self.key.clone(), self.from.clone())
            .put(self.key.clone(), self.to.clone())
    }
}

impl Plan {
    /// Does it, unless something else wrote in between: then, what can be done of it.
    pub(super) async fn commit(self, writer: &Writer, progress: &Progress) -> Result<Step, VaultError> {
        let Self {
            level,
            key,
            before,
            what:
                What {
                    moves,
                    with,
                    notes,
                    then,
                },
        } = self;
        if matches!(then, Then::End(Ended::StoreKey)) && !writer.drop_store_keys().await? {
            return Ok(Step::Wait);
        }
        let batch = Batch::new().expect_value(key.clone(), before.clone());
        let batch = match &then {
            Then::On(rotation) | Then::Wait(rotation) => batch.put(key.clone(), stored::encode(rotation)),
            Then::End(_) => batch.delete(key.clone()),
        };
        let batch = moves
            .iter()
            .chain(&with)
            .fold(batch, |batch, one| one.add_to(batch));
        let batch = erasure::put_all(batch, notes);
        match writer.store.commit(batch).await.map_err(VaultError::from) {
            Ok(()) => {}
            Err(VaultError::Conflict) => {
                one_by_one(writer, &key, &before, &moves, level, progress).await?;
                return Ok(Step::On);
            }
            Err(error) => return Err(error),
        }
        progress.moved(level, moves.len());
        Ok(match then {
            Then::On(_) => Step::On,
            Then::Wait(_) => Step::Wait,
            Then::End(ended) => {
                ended.forget(&writer.keyring);
                Step::Ended
            }
        })
    }
}

/// Moves each entry that is still what it was. The cursor stays, and the next step sees to the others.
async fn one_by_one(
    writer: &Writer,
    key: &[u8],
    before: &[u8],
    moves: &[Move],
    level: Level,
    progress: &Progress,
) -> Result<(), VaultError> {
    for one in moves {
        let batch = Batch::new().expect_value(key, before);
        match writer
            .store
            .commit(one.add_to(batch))
            .await
            .map_err(VaultError::from)
        {
            Ok(()) => progress.moved(level, 1),
            Err(VaultError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Ended {
    fn forget(self, keyring: &Keyring) {
        match self {
            Self::Workspace(found) => {
                for RetiredKek { wrapped_kek, .. } in &found.record.retired_keks {
                    keyring.forget(&found.uid, wrapped_kek);
                }
                tracing::info!(workspace = %found.name, "the workspace's old key was destroyed");
            }
            Self::StoreKey => tracing::info!("the old store key was destroyed"),
            Self::Gone => {}
        }
    }
}
