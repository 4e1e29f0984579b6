//! The records of a workspace, moved to another KEK.

use proto::{SecretName, Uid, WorkspaceName};

use super::step::{Ended, Move, PAGE, Stuck, Then, Unreadable, What, another_pass, page};
use crate::{
    crypto::{KeyId, WorkspaceKek, record},
    store::{Entry, Store},
    vault::{
        VaultError, erasure,
        keyring::Keyring,
        stored::{self, Kind, OldVersion, Rotation, WorkspaceRecord},
        workspaces::{self, Found},
    },
};

/// Where the records of a workspace are. In this order: a put makes an older version of a current one, never the reverse.
#[derive(Clone, Copy)]
pub(in crate::vault) enum Records {
    Current,
    Older,
}

impl Records {
    pub(in crate::vault) const ALL: [Self; 2] = [Self::Current, Self::Older];

    pub(in crate::vault) fn prefix(self, workspace: &Uid) -> Vec<u8> {
        match self {
            Self::Current => Kind::Record,
            Self::Older => Kind::OldVersion,
        }
        .of(workspace)
    }

    /// The secret that an entry belongs to, from what follows the prefix in its key.
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

    /// The entry with its record exchanged for what `change` makes of it; none when it is to stay.
    fn change<E: From<Unreadable>>(
        self,
        value: &[u8],
        change: impl FnOnce(&[u8]) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Option<Vec<u8>>, E> {
        match self {
            Self::Current => change(value),
            Self::Older => {
                let older: OldVersion = stored::decode(value).map_err(|_| Unreadable)?;
                let changed = change(&older.record)?;
                Ok(changed.map(|record| stored::encode(&OldVersion { record, ..older })))
            }
        }
    }
}

/// The id of the KEK that an entry's record is under; none when it is damaged.
pub(in crate::vault) fn kek_id(records: Records, value: &[u8]) -> Option<KeyId> {
    let mut id = None;
    let noted = records.change(value, |bytes| {
        id = record::kek_id(bytes).ok();
        Ok::<_, Unreadable>(None)
    });
    match noted {
        Ok(_) => id,
        Err(Unreadable) => None,
    }
}

/// The next step of a workspace's rotation.
pub(super) fn next(
    store: &Store,
    keyring: &Keyring,
    key: &[u8],
    rotation: Rotation,
) -> Result<What, VaultError> {
    let name = WorkspaceName::parse(&rotation.workspace).map_err(|_| VaultError::Corrupt(None))?;
    let found = match workspaces::find(store, &name) {
        Ok(found) if stored::workspace_rotation(&found.uid) == key => found,
        // Deleted, and perhaps made anew.
        Ok(_) | Err(VaultError::NoWorkspace(_)) => return Ok(What::only(Then::End(Ended::Gone))),
        Err(error) => return Err(error),
    };
    let Some((records, entries)) = next_records(store, &found.uid, &rotation.cursor)? else {
        return end_of_pass(store, found, rotation);
    };
    let active = keyring.open(&found.uid, &found.record.wrapped_kek)?;
    let prefix = records.prefix(&found.uid).len();
    page(rotation, entries, prefix, |entry| {
        let secret = entry.key.get(prefix..).and_then(|rest| records.secret(rest));
        let secret = secret.ok_or(Unreadable)?;
        records.change(&entry.value, |bytes| {
            rewrapped(keyring, &found, &active, &secret, bytes)
        })
    })
}

/// The record under the active KEK; none when it is already.
fn rewrapped(
    keyring: &Keyring,
    found: &Found,
    active: &WorkspaceKek,
    secret: &SecretName,
    bytes: &[u8],
) -> Result<Option<Vec<u8>>, Stuck> {
    let id = record::kek_id(bytes).map_err(VaultError::from)?;
    if id == active.id() {
        return Ok(None);
    }
    let retired = found.retired(id).ok_or(Unreadable)?;
    let retired = keyring.open(&found.uid, retired)?;
    Ok(Some(record::rewrap(bytes, &found.uid, secret, &retired, active)?))
}

/// The records behind the cursor; none at the end.
fn next_records(
    store: &Store,
    workspace: &Uid,
    cursor: &[u8],
) -> Result<Option<(Records, Vec<Entry>)>, VaultError> {
    let at = Records::ALL
        .iter()
        .position(|records| cursor.starts_with(&records.prefix(workspace)));
    for records in Records::ALL.into_iter().skip(at.unwrap_or(0)) {
        let prefix = records.prefix(workspace);
        let after = cursor.starts_with(&prefix).then_some(cursor);
        let entries = store.scan(&prefix, after, PAGE)?;
        if !entries.is_empty() {
            return Ok(Some((records, entries)));
        }
    }
    Ok(None)
}

/// After a workspace's last record.
fn end_of_pass(store: &Store, found: Found, rotation: Rotation) -> Result<What, VaultError> {
    let changed = |record: WorkspaceRecord| Move {
        key: stored::workspace(&found.name),
        from: found.bytes.clone(),
        to: stored::encode(&record),
    };
    Ok(match (rotation.unreadable, rotation.last_look) {
        (0, true) => {
            let record = WorkspaceRecord {
                retired_keks: Vec::new(),
                last_look: false,
                ..found.record.clone()
            };
            let notes = destroyed(store, &found, &rotation)?;
            What::with(changed(record), Then::End(Ended::Workspace(Box::new(found)))).and_put(notes)
        }
        (0, false) => {
            let record = WorkspaceRecord {
                last_look: true,
                ..found.record.clone()
            };
            let again = Rotation {
                last_look: true,
                ..another_pass(rotation)
            };
            What::with(changed(record), Then::On(again))
        }
        (1.., _) => What::only(Then::Wait(another_pass(rotation))),
    })
}

/// Notes that the retired KEKs are destroyed in the store, but not yet in its log.
fn destroyed(store: &Store, found: &Found, rotation: &Rotation) -> Result<Vec<Entry>, VaultError> {
    let retired = found.record.retired_keks.iter().map(|kek| &*kek.wrapped_kek);
    let since = rotation.deleted_since.unwrap_or(rotation.start_time);
    erasure::destroyed(store, &found.uid, retired, since)
}
