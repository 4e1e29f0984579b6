//! One step of a rotation: a plan, and its commit unless another write came in between.

use crate::{
    crypto::{DecryptionError, record::RewrapError},
    store::{Batch, Entry},
    vault::{
        VaultError, Writer, deletions,
        key_metrics::{KeyMetrics, RotationLevel},
        keyring::Keyring,
        stored::{self, RetiredKek, Rotation},
        workspace::StoredWorkspace,
    },
};

pub(super) const PAGE: usize = 64;
/// Maximum size of a step's entries, in bytes; a single larger entry makes a step of its own.
const PAGE_BYTES: usize = 256 * 1024;

/// The entry cannot be rewrapped: it is damaged, or needs a key that does not exist.
pub(super) struct UnreadableEntry;

/// Reason for which an entry was not rewrapped.
pub(super) enum RewrapFailure {
    /// Only this entry cannot be rewrapped.
    Unreadable,
    /// The step failed, whatever the entry.
    Failed(VaultError),
}

impl From<UnreadableEntry> for RewrapFailure {
    fn from(UnreadableEntry: UnreadableEntry) -> Self {
        Self::Unreadable
    }
}

impl From<VaultError> for RewrapFailure {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Corrupt(_) | VaultError::KeyNotLoaded => Self::Unreadable,
            other => Self::Failed(other),
        }
    }
}

impl From<RewrapError> for RewrapFailure {
    fn from(error: RewrapError) -> Self {
        match error {
            RewrapError::Decrypt(DecryptionError::UnknownKey(_) | DecryptionError::Corrupt(_)) => {
                Self::Unreadable
            }
            RewrapError::NoRandomness(error) => Self::Failed(error.into()),
        }
    }
}

pub(super) struct Replacement {
    pub(super) key: Vec<u8>,
    pub(super) old: Vec<u8>,
    pub(super) new: Vec<u8>,
}

/// A step that only has to be committed.
pub(super) struct StepPlan {
    pub(super) level: RotationLevel,
    pub(super) key: Vec<u8>,
    /// Value of the rotation's entry, as read.
    pub(super) bytes: Vec<u8>,
    pub(super) work: StepWork,
}

/// The changes of a step. A step either rewraps the entries of a page or ends a pass.
pub(super) struct StepWork {
    rewraps: Vec<Replacement>,
    /// Change of the workspace at the end of a pass.
    workspace: Option<Replacement>,
    /// Notes about destroyed keys, which the step's batch also writes.
    notes: Vec<Entry>,
    next: NextState,
}

impl StepWork {
    pub(super) fn only(next: NextState) -> Self {
        Self {
            rewraps: Vec::new(),
            workspace: None,
            notes: Vec::new(),
            next,
        }
    }

    pub(super) fn with(workspace: Replacement, next: NextState) -> Self {
        Self {
            workspace: Some(workspace),
            ..Self::only(next)
        }
    }

    pub(super) fn with_notes(self, notes: Vec<Entry>) -> Self {
        Self { notes, ..self }
    }
}

pub(super) enum NextState {
    Continue(Rotation),
    /// The pass ended with unreadable entries, and the next pass begins after a pause.
    Wait(Rotation),
    End(ReleasedKeys),
}

pub(super) enum ReleasedKeys {
    /// The retired KEKs of a workspace, which are removed from memory.
    RetiredKeks(Box<StoredWorkspace>),
    /// All store keys except the active one, which are removed from the file `keys` before the rotation ends, and from
    /// memory.
    StoreKeys,
    /// No key: the rotation's workspace no longer exists.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vault) enum StepOutcome {
    Continue,
    Wait,
    Finished,
}

/// Returns the rotation at the beginning of its next pass.
pub(super) fn next_pass(rotation: Rotation) -> Rotation {
    Rotation {
        cursor: Vec::new(),
        done: 0,
        unreadable: 0,
        unreadable_before: rotation.unreadable,
        ..rotation
    }
}

/// Plans the rewraps of a page of entries. `rewrap` returns the new value of an entry, or `None` when the active key wraps it
/// already. The name of an entry, for the log, begins at byte `name` of its key.
pub(super) fn plan_page(
    mut rotation: Rotation,
    entries: Vec<Entry>,
    name: usize,
    mut rewrap: impl FnMut(&Entry) -> Result<Option<Vec<u8>>, RewrapFailure>,
) -> Result<StepWork, VaultError> {
    let mut rewraps = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        bytes += entry.value.len();
        if bytes > PAGE_BYTES && !rewraps.is_empty() {
            break;
        }
        match rewrap(&entry) {
            Ok(None) => {}
            Ok(Some(new)) => rewraps.push(Replacement {
                key: entry.key.clone(),
                old: entry.value,
                new,
            }),
            Err(RewrapFailure::Unreadable) => {
                let name = entry.key.get(name..).map(String::from_utf8_lossy);
                tracing::warn!(
                    workspace = rotation.workspace,
                    ?name,
                    "an entry cannot be moved to another key"
                );
                rotation.unreadable += 1;
            }
            Err(RewrapFailure::Failed(error)) => return Err(error),
        }
        rotation.done += 1;
        rotation.total = rotation.total.max(rotation.done);
        rotation.cursor = entry.key;
    }
    Ok(StepWork {
        rewraps,
        ..StepWork::only(NextState::Continue(rotation))
    })
}

impl Replacement {
    fn add_to(&self, batch: Batch) -> Batch {
        batch
            .expect_value(self.key.clone(), self.old.clone())
            .put(self.key.clone(), self.new.clone())
    }
}

impl StepPlan {
    /// Commits the step. When another write came in between, commits each rewrap whose entry is unchanged, and leaves the
    /// others to the next step.
    pub(super) async fn commit(
        self,
        writer: &Writer,
        metrics: &KeyMetrics,
    ) -> Result<StepOutcome, VaultError> {
        let Self {
            level,
            key,
            bytes,
            work:
                StepWork {
                    rewraps,
                    workspace,
                    notes,
                    next,
                },
        } = self;
        if matches!(next, NextState::End(ReleasedKeys::StoreKeys)) && !writer.drop_store_keys().await? {
            return Ok(StepOutcome::Wait);
        }
        let batch = Batch::new().expect_value(key.clone(), bytes.clone());
        let batch = match &next {
            NextState::Continue(rotation) | NextState::Wait(rotation) => {
                batch.put(key.clone(), stored::encode(rotation))
            }
            NextState::End(_) => batch.delete(key.clone()),
        };
        let batch = rewraps
            .iter()
            .chain(&workspace)
            .fold(batch, |batch, one| one.add_to(batch));
        let batch = deletions::put_all(batch, notes);
        match writer.store.commit(batch).await.map_err(VaultError::from) {
            Ok(()) => {}
            Err(VaultError::Conflict) => {
                commit_one_by_one(writer, &key, &bytes, &rewraps, level, metrics).await?;
                return Ok(StepOutcome::Continue);
            }
            Err(error) => return Err(error),
        }
        metrics.add_rewrapped(level, rewraps.len());
        Ok(match next {
            NextState::Continue(_) => StepOutcome::Continue,
            NextState::Wait(_) => StepOutcome::Wait,
            NextState::End(released) => {
                released.forget(&writer.keyring);
                StepOutcome::Finished
            }
        })
    }
}

/// Commits each rewrap whose entry is unchanged. The cursor stays, so that the next step handles the others.
async fn commit_one_by_one(
    writer: &Writer,
    key: &[u8],
    bytes: &[u8],
    rewraps: &[Replacement],
    level: RotationLevel,
    metrics: &KeyMetrics,
) -> Result<(), VaultError> {
    for one in rewraps {
        let batch = Batch::new().expect_value(key, bytes);
        match writer
            .store
            .commit(one.add_to(batch))
            .await
            .map_err(VaultError::from)
        {
            Ok(()) => metrics.add_rewrapped(level, 1),
            Err(VaultError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl ReleasedKeys {
    fn forget(self, keyring: &Keyring) {
        match self {
            Self::RetiredKeks(found) => {
                for RetiredKek { wrapped_kek, .. } in &found.record.retired_keks {
                    keyring.forget(&found.uid, wrapped_kek);
                }
                tracing::info!(workspace = %found.name, "the workspace's old key was destroyed");
            }
            Self::StoreKeys => tracing::info!("the old store key was destroyed"),
            Self::None => {}
        }
    }
}
