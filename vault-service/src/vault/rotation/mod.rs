//! Rotations: a new key at once, and in the background everything that is under the old one moved to it.
//!
//! A rotation rewraps keys: a record's DEK under another KEK, or a workspace's KEK under another store key. It decrypts
//! no value.
//!
//! A rotation is an entry of the store ([`Rotation`]), with a cursor, and goes on step by step from what that says. A step
//! moves a page of entries and the cursor in one batch, which holds only if each entry is still what was read: whatever
//! else writes one wins, and a stop between two steps loses nothing.
//!
//! # When the old KEK of a workspace is destroyed
//! After a pass over all its records that found none under another key than the active one, and that began when nothing
//! could bring one back. Something could: a write may have read a record under the old KEK, to keep it as an older version,
//! before that record was moved. But all writes hold only if the workspace is what it was when they read it. So when a pass
//! found none, the workspace is changed (`last_look`), which ends such writes, and only the next pass counts.

mod records;
mod step;
mod store_key;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant, SystemTime};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use proto::WorkspaceName;
use tokio::time;

pub(super) use records::{Records, kek_id};

use super::{
    VaultError, Writer, blocking,
    erasure::{self, NextStep, PendingErasure},
    keyring::Keyring,
    roots, store_keys,
    stored::{self, RetiredKek, Rotation},
    workspaces::{self, read_count},
};
use crate::{
    authz::VaultPermit,
    crypto::{KeyId, wrapped_kek_id},
    store::{Batch, Entry, Store},
};
pub(super) use step::Step;

/// How much longer than a step took the next one waits: rotations take no more than a quarter of one processor.
const REST: u32 = 3;
/// Pause before the next look at rotations when there was nothing to do, or only entries that cannot be moved.
/// Rotations that a full disk stopped continue earlier, as soon as the disk has room.
pub(super) const RETRY: Duration = Duration::from_secs(300);

/// What rotations show in `/metrics`.
#[derive(Clone, Default)]
pub struct Progress {
    /// Records and workspaces that were moved to another key.
    pub rewrapped: Family<Level, Counter>,
    /// Rotations that are under way.
    pub under_way: Gauge,
    /// Records and workspaces that the rotations under way could not move when they last looked.
    pub unreadable: Gauge,
    /// Number of workspaces with deleted data that a holder of the store's files and the root key can still decrypt.
    pub unerased: Gauge,
    /// Time of the oldest of these deletions, in seconds since 1970; 0 if there is none.
    pub unerased_since: Gauge,
}

/// What is under the key that is rotated.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Level {
    /// Its name.
    pub level: &'static str,
}

const RECORDS: Level = Level { level: "record" };
const WORKSPACES: Level = Level { level: "workspace" };

impl Progress {
    fn moved(&self, level: Level, count: usize) {
        self.rewrapped
            .get_or_create(&level)
            .inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    pub(super) fn pending(&self, pending: &PendingErasure) {
        let PendingErasure { workspaces, since } = pending;
        self.unerased.set(i64::try_from(*workspaces).unwrap_or(i64::MAX));
        self.unerased_since.set(since.map_or(0, |since| since.seconds));
    }
}

impl Writer {
    /// Makes a new KEK for a workspace, and has all its records moved to it; the new key's id.
    pub async fn rotate_workspace_key(
        &self,
        _: &VaultPermit,
        name: &WorkspaceName,
    ) -> Result<KeyId, VaultError> {
        let id = self.begin_rotation(name).await?;
        self.rotate.notify_one();
        Ok(id)
    }

    pub(super) async fn begin_rotation(&self, name: &WorkspaceName) -> Result<KeyId, VaultError> {
        self.retrying(async || {
            let (store, keyring, name) = (self.store.clone(), self.keyring.clone(), name.clone());
            let (id, batch) = blocking(move || begin(&store, &keyring, &name)).await?;
            self.store.commit(batch).await?;
            Ok(id)
        })
        .await
    }

    /// Continues all rotations, step by step and in turn, and begins rotations that erase data deleted longer than
    /// `erase_after` ago. Never returns. Calls `ended` at the end of each rotation, with the name of the workspace, or
    /// with `None` for the store key.
    pub async fn take_rotations_further(
        &self,
        progress: &Progress,
        erase_after: Duration,
        ended: impl Fn(Option<&str>),
    ) {
        loop {
            let pause = match self.further(progress, erase_after, &ended).await {
                Ok(NextStep::Begun) => continue,
                Ok(NextStep::In(pause)) => pause,
                Err(error) => {
                    tracing::warn!(%error, "the rotations of keys do not go on; they are tried again");
                    RETRY
                }
            };
            // After each of these events a rotation may have work to do.
            tokio::select! {
                () = self.rotate.notified() => {}
                () = self.store.wait_for_room() => {}
                () = time::sleep(pause) => {}
            }
        }
    }

    pub(super) async fn further(
        &self,
        progress: &Progress,
        erase_after: Duration,
        ended: &impl Fn(Option<&str>),
    ) -> Result<NextStep, VaultError> {
        self.rotations(progress, ended).await?;
        self.erase(erase_after, progress).await
    }

    /// Until there are none but those that have to wait.
    async fn rotations(&self, progress: &Progress, ended: &impl Fn(Option<&str>)) -> Result<(), VaultError> {
        loop {
            let (mut under_way, mut unreadable, mut goes_on) = (0_i64, 0_u64, false);
            let mut after: Option<Vec<u8>> = None;
            while let Some(entry) = self.rotation_after(after.take()).await? {
                let rotation: Rotation = stored::decode(&entry.value)?;
                let step = self.step(&entry.key, progress).await.unwrap_or_else(|error| {
                    // The others go on.
                    tracing::warn!(%error, workspace = rotation.workspace, "a rotation does not go on");
                    Step::Wait
                });
                if step == Step::Ended {
                    ended(Some(rotation.workspace.as_str()).filter(|name| !name.is_empty()));
                } else {
                    under_way += 1;
                }
                unreadable += rotation.unreadable.max(rotation.unreadable_before);
                goes_on |= step == Step::On;
                after = Some(entry.key);
            }
            progress.under_way.set(under_way);
            progress
                .unreadable
                .set(i64::try_from(unreadable).unwrap_or(i64::MAX));
            if !goes_on {
                return Ok(());
            }
        }
    }

    pub(super) async fn rotation_after(&self, after: Option<Vec<u8>>) -> Result<Option<Entry>, VaultError> {
        let store = self.store.clone();
        let mut next = blocking(move || store.scan(stored::ROTATIONS, after.as_deref(), 1)).await?;
        Ok(next.pop())
    }

    /// One step, and a rest from it.
    pub(super) async fn step(&self, key: &[u8], progress: &Progress) -> Result<Step, VaultError> {
        let began = Instant::now();
        let (store, keyring) = (self.store.clone(), self.keyring.clone());
        let key = key.to_vec();
        let step = match blocking(move || plan(&store, &keyring, &key)).await? {
            Some(plan) => plan.commit(self, progress).await?,
            None => Step::Ended,
        };
        time::sleep(began.elapsed() * REST).await;
        Ok(step)
    }
}

/// A rotation that only has to be committed, and the id of the new KEK.
fn begin(store: &Store, keyring: &Keyring, name: &WorkspaceName) -> Result<(KeyId, Batch), VaultError> {
    let found = workspaces::find(store, name)?;
    let key = stored::workspace_rotation(&found.uid);
    if store.read(&key)?.is_some() {
        return Err(VaultError::RotationUnderWay);
    }
    let (meta_bytes, meta) = roots::read_meta(store)?;
    let now = SystemTime::now().into();
    let wrapped_kek = keyring.make(&found.uid, store_keys::active(&meta)?)?;
    let id = wrapped_kek_id(&wrapped_kek)?;
    let mut record = found.record.clone();
    record.retired_keks.push(RetiredKek {
        wrapped_kek: std::mem::replace(&mut record.wrapped_kek, wrapped_kek),
        create_time: record.kek_create_time.replace(now),
    });
    let rotation = Rotation {
        workspace: name.to_string(),
        total: read_count(store, &found.uid)?,
        start_time: now,
        deleted_since: erasure::noted(store, &found.uid)?,
        ..Rotation::default()
    };
    // The batch requires that the store key is still the active one, because a rotation does not return to entries that
    // it has passed.
    let batch = found
        .unchanged(Batch::new())
        .expect_value(stored::META, meta_bytes)
        .expect_absent(key.clone())
        .delete(stored::deletion(&found.uid))
        .put(stored::workspace(name), stored::encode(&record))
        .put(key, stored::encode(&rotation));
    Ok((id, batch))
}

/// What a step of the rotation at `key` is to do; none when it is over.
fn plan(store: &Store, keyring: &Keyring, key: &[u8]) -> Result<Option<step::Plan>, VaultError> {
    let Some(before) = store.read(key)? else {
        return Ok(None);
    };
    let rotation: Rotation = stored::decode(&before)?;
    let (level, what) = if rotation.workspace.is_empty() {
        (WORKSPACES, store_key::next(store, keyring, rotation)?)
    } else {
        (RECORDS, records::next(store, keyring, key, rotation)?)
    };
    Ok(Some(step::Plan {
        level,
        key: key.to_vec(),
        before,
        what,
    }))
}
