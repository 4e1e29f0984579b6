//! The rotation of a workspace's KEK, which rewraps the DEKs of its records.

use proto::{SecretName, Uid, WorkspaceName};

use super::step::{
    NextState, PAGE, ReleasedKeys, Replacement, RewrapFailure, StepWork, UnreadableEntry, next_pass,
    plan_page,
};
use crate::{
    crypto::{KeyId, WorkspaceKek, record},
    store::{Entry, Store},
    vault::{
        VaultError, deletions,
        keyring::Keyring,
        stored::{self, Kind, OldVersion, Rotation, WorkspaceRecord},
        workspace::{self, StoredWorkspace},
    },
};

/// The current or the older records of a workspace. A pass visits the current ones first, because a write turns a current
/// record into an older one and never the reverse.
#[derive(Clone, Copy)]
pub(in crate::vault) enum RecordSet {
    Current,
    Older,
}

impl RecordSet {
    pub(in crate::vault) const ALL: [Self; 2] = [Self::Current, Self::Older];

    pub(in crate::vault) fn prefix(self, workspace: &Uid) -> Vec<u8> {
        match self {
            Self::Current => Kind::Record,
            Self::Older => Kind::OldVersion,
        }
        .of(workspace)
    }

    /// Returns the secret of an entry. `rest` follows the prefix in the entry's key.
    fn secret(self, rest: &[u8]) -> Option<SecretName> {
        let name = match self {
            Self::Current => rest,
            Self::Older => {
                let (name, _version) = rest.split_last_chunk::<8>()?;
                name.strip_suffix(&[0])?
            }
        };
        let text = str::from_utf8(name).ok()?;
        SecretName::parse(text).ok().filter(|name| name.as_str() == text)
    }

    /// Returns the entry with its record replaced by the result of `change`; `None` when `change` returns `None`.
    fn change<E: From<UnreadableEntry>>(
        self,
        value: &[u8],
        change: impl FnOnce(&[u8]) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Option<Vec<u8>>, E> {
        match self {
            Self::Current => change(value),
            Self::Older => {
                let older: OldVersion = stored::decode(value).map_err(|_| UnreadableEntry)?;
                let changed = change(&older.record)?;
                Ok(changed.map(|record| stored::encode(&OldVersion { record, ..older })))
            }
        }
    }
}

/// Returns the id of the KEK of an entry's record; `None` when the entry is damaged.
pub(in crate::vault) fn kek_id(set: RecordSet, value: &[u8]) -> Option<KeyId> {
    let mut id = None;
    let result = set.change(value, |bytes| {
        id = record::kek_id(bytes).ok();
        Ok::<_, UnreadableEntry>(None)
    });
    match result {
        Ok(_) => id,
        Err(UnreadableEntry) => None,
    }
}

pub(super) fn plan(
    store: &Store,
    keyring: &Keyring,
    key: &[u8],
    rotation: Rotation,
) -> Result<StepWork, VaultError> {
    let name = WorkspaceName::parse(&rotation.workspace).map_err(|_| VaultError::Corrupt(None))?;
    let found = match workspace::find(store, &name) {
        Ok(found) if stored::workspace_rotation(&found.uid) == key => found,
        // The workspace was deleted, and perhaps created anew.
        Ok(_) | Err(VaultError::NoWorkspace(_)) => {
            return Ok(StepWork::only(NextState::End(ReleasedKeys::None)));
        }
        Err(error) => return Err(error),
    };
    let Some((set, entries)) = next_records(store, &found.uid, &rotation.cursor)? else {
        return plan_end_of_pass(store, found, rotation);
    };
    let active = keyring.open(&found.uid, &found.record.wrapped_kek)?;
    let prefix = set.prefix(&found.uid).len();
    plan_page(rotation, entries, prefix, |entry| {
        let secret = entry.key.get(prefix..).and_then(|rest| set.secret(rest));
        let secret = secret.ok_or(UnreadableEntry)?;
        set.change(&entry.value, |bytes| {
            rewrap(keyring, &found, &active, &secret, bytes)
        })
    })
}

/// Rewraps the DEK of a record with the active KEK; returns `None` when the active KEK wraps it already.
fn rewrap(
    keyring: &Keyring,
    found: &StoredWorkspace,
    active: &WorkspaceKek,
    secret: &SecretName,
    bytes: &[u8],
) -> Result<Option<Vec<u8>>, RewrapFailure> {
    let id = record::kek_id(bytes).map_err(VaultError::from)?;
    if id == active.id() {
        return Ok(None);
    }
    let retired = found.retired_kek(id).ok_or(UnreadableEntry)?;
    let retired = keyring.open(&found.uid, retired)?;
    Ok(Some(record::rewrap(bytes, &found.uid, secret, &retired, active)?))
}

/// Returns the next entries after the cursor; `None` at the end of the pass.
fn next_records(
    store: &Store,
    workspace: &Uid,
    cursor: &[u8],
) -> Result<Option<(RecordSet, Vec<Entry>)>, VaultError> {
    let at = RecordSet::ALL
        .iter()
        .position(|set| cursor.starts_with(&set.prefix(workspace)));
    for set in RecordSet::ALL.into_iter().skip(at.unwrap_or(0)) {
        let prefix = set.prefix(workspace);
        let after = cursor.starts_with(&prefix).then_some(cursor);
        let entries = store.scan(&prefix, after, PAGE)?;
        if !entries.is_empty() {
            return Ok(Some((set, entries)));
        }
    }
    Ok(None)
}

/// Plans the step after a workspace's last record. A pass with unreadable records waits and is repeated. A pass without any
/// is followed by a last pass, after which the retired KEKs are destroyed.
fn plan_end_of_pass(
    store: &Store,
    found: StoredWorkspace,
    rotation: Rotation,
) -> Result<StepWork, VaultError> {
    let replace_workspace = |record: WorkspaceRecord| Replacement {
        key: stored::workspace(&found.name),
        old: found.bytes.clone(),
        new: stored::encode(&record),
    };
    Ok(match (rotation.unreadable, rotation.last_pass) {
        (0, true) => {
            let record = WorkspaceRecord {
                retired_keks: Vec::new(),
                last_pass: false,
                ..found.record.clone()
            };
            let notes = destroyed_keys(store, &found, &rotation)?;
            let change = replace_workspace(record);
            let end = NextState::End(ReleasedKeys::RetiredKeks(Box::new(found)));
            StepWork::with(change, end).with_notes(notes)
        }
        (0, false) => {
            let record = WorkspaceRecord {
                last_pass: true,
                ..found.record.clone()
            };
            let last_pass = Rotation {
                last_pass: true,
                ..next_pass(rotation)
            };
            StepWork::with(replace_workspace(record), NextState::Continue(last_pass))
        }
        (1.., _) => StepWork::only(NextState::Wait(next_pass(rotation))),
    })
}

/// Makes the notes that the retired KEKs are gone from the store, but not yet from its log.
fn destroyed_keys(
    store: &Store,
    found: &StoredWorkspace,
    rotation: &Rotation,
) -> Result<Vec<Entry>, VaultError> {
    let retired = found.record.retired_keks.iter().map(|kek| &*kek.wrapped_kek);
    let since = rotation.deleted_since.unwrap_or(rotation.start_time);
    deletions::destroyed_keys(store, &found.uid, retired, since)
}
