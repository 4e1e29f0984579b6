//! Rotations: a new key is active at once, and a background task rewraps everything that the old key wraps.
//!
//! A rotation rewraps keys: a record's DEK under another KEK, or a workspace's KEK under another store key. It decrypts
//! no value.
//!
//! The store has one entry for each rotation under way ([`Rotation`]), with a cursor. A step rewraps a page of entries and
//! moves the cursor in one batch, which holds only if each entry is still what was read. So a concurrent write wins over the
//! rotation, and a stop between two steps loses nothing.
//!
//! # When the old KEK of a workspace is destroyed
//! The old KEK is destroyed after a pass over all records that found none under it, and that began when nothing could bring
//! one back. A concurrent write could bring one back: the write may have read a record under the old KEK before the record
//! was rewrapped, to keep it as an older version. But a write is committed only if the workspace is what the write read. So
//! when a pass finds no record under the old KEK, the rotation changes the workspace (`last_pass`), which fails such writes,
//! and only the next pass counts.

mod records;
mod step;
mod store_key;
#[cfg(test)]
mod tests;

use std::time::{Instant, SystemTime};

use proto::WorkspaceName;
use tokio::time;

pub(super) use records::{RecordSet, kek_id};

use super::{
    VaultError, Writer,
    access::with_store,
    deletions,
    key_metrics::{KeyMetrics, RotationLevel},
    keyring::Keyring,
    meta,
    stored::{self, RetiredKek, Rotation},
    workspace::{self, read_count},
};
use crate::{
    authz::VaultPermit,
    crypto::{KeyId, wrapped_kek_id},
    store::{Batch, Entry, Store},
};
pub(super) use step::StepOutcome;

/// Pause after a step, as a multiple of the time that the step took: rotations take at most a quarter of one processor.
const REST: u32 = 3;

impl Writer {
    /// Makes a new KEK for a workspace, and begins the rotation that moves its records to the new KEK. Returns the id of the
    /// new KEK.
    pub(crate) async fn rotate_workspace_key(
        &self,
        _: &VaultPermit,
        name: &WorkspaceName,
    ) -> Result<KeyId, VaultError> {
        let id = self.begin_rotation(name).await?;
        self.keys_changed.notify_one();
        Ok(id)
    }

    pub(super) async fn begin_rotation(&self, name: &WorkspaceName) -> Result<KeyId, VaultError> {
        self.retry_on_conflict(async || {
            let (keyring, name) = (self.keyring.clone(), name.clone());
            let prepare = move |store: &Store| prepare_rotation(store, &keyring, &name);
            let (id, batch) = with_store(&self.store, prepare).await?;
            self.store.commit(batch).await?;
            Ok(id)
        })
        .await
    }

    /// Continues all rotations in turn, until every remaining one has to wait.
    pub(super) async fn continue_rotations(
        &self,
        metrics: &KeyMetrics,
        ended: &impl Fn(Option<&str>),
    ) -> Result<(), VaultError> {
        loop {
            let (mut under_way, mut unreadable, mut goes_on) = (0_i64, 0_u64, false);
            let mut after: Option<Vec<u8>> = None;
            while let Some(entry) = self.rotation_after(after.take()).await? {
                let rotation: Rotation = stored::decode(&entry.value)?;
                let step = self.step(&entry.key, metrics).await.unwrap_or_else(|error| {
                    tracing::warn!(%error, workspace = rotation.workspace, "a rotation stopped; the vault tries it again");
                    StepOutcome::Wait
                });
                if step == StepOutcome::Finished {
                    ended(Some(rotation.workspace.as_str()).filter(|name| !name.is_empty()));
                } else {
                    under_way += 1;
                }
                unreadable += rotation.unreadable.max(rotation.unreadable_before);
                goes_on |= step == StepOutcome::Continue;
                after = Some(entry.key);
            }
            metrics.under_way.set(under_way);
            metrics
                .unreadable
                .set(i64::try_from(unreadable).unwrap_or(i64::MAX));
            if !goes_on {
                return Ok(());
            }
        }
    }

    pub(super) async fn rotation_after(&self, after: Option<Vec<u8>>) -> Result<Option<Entry>, VaultError> {
        let scan = move |store: &Store| store.scan(stored::ROTATIONS, after.as_deref(), 1);
        let mut next = with_store(&self.store, scan).await?;
        Ok(next.pop())
    }

    /// Makes one step of the rotation at `key`, and pauses.
    pub(super) async fn step(&self, key: &[u8], metrics: &KeyMetrics) -> Result<StepOutcome, VaultError> {
        let began = Instant::now();
        let (keyring, key) = (self.keyring.clone(), key.to_vec());
        let step = match with_store(&self.store, move |store| plan_step(store, &keyring, &key)).await? {
            Some(plan) => plan.commit(self, metrics).await?,
            None => StepOutcome::Finished,
        };
        time::sleep(began.elapsed() * REST).await;
        Ok(step)
    }
}

/// Builds the batch that begins a rotation. Returns the id of the new KEK with it.
fn prepare_rotation(
    store: &Store,
    keyring: &Keyring,
    name: &WorkspaceName,
) -> Result<(KeyId, Batch), VaultError> {
    let found = workspace::find(store, name)?;
    let key = stored::workspace_rotation(&found.uid);
    if store.read(&key)?.is_some() {
        return Err(VaultError::RotationUnderWay);
    }
    let (meta_bytes, meta) = meta::read(store)?;
    let now = SystemTime::now().into();
    let wrapped_kek = keyring.make(&found.uid, meta::active_store_key(&meta)?)?;
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
        deleted_since: deletions::oldest(store, &found.uid)?,
        ..Rotation::default()
    };
    // The batch requires that the store key is still the active one, because a rotation does not return to entries that
    // it has passed.
    let batch = found
        .expect_unchanged(Batch::new())
        .expect_value(stored::META, meta_bytes)
        .expect_absent(key.clone())
        .delete(stored::deletion(&found.uid))
        .put(stored::workspace(name), stored::encode(&record))
        .put(key, stored::encode(&rotation));
    Ok((id, batch))
}

/// Plans the next step of the rotation at `key`; `None` when the rotation has ended.
fn plan_step(store: &Store, keyring: &Keyring, key: &[u8]) -> Result<Option<step::StepPlan>, VaultError> {
    let Some(bytes) = store.read(key)? else {
        return Ok(None);
    };
    let rotation: Rotation = stored::decode(&bytes)?;
    let (level, work) = if rotation.workspace.is_empty() {
        (
            RotationLevel::WORKSPACES,
            store_key::plan(store, keyring, rotation)?,
        )
    } else {
        (
            RotationLevel::RECORDS,
            records::plan(store, keyring, key, rotation)?,
        )
    };
    Ok(Some(step::StepPlan {
        level,
        key: key.to_vec(),
        bytes,
        work,
    }))
}
