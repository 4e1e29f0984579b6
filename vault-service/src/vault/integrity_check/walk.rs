//! One pass over a whole store, workspace by workspace.

mod secrets;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::SystemTime,
};

use prost_types::Timestamp;
use proto::{SecretName, Uid, WorkspaceName};

use super::{Damage, DamageKind, DoubtfulSecrets, IntegrityCheck, IntegrityReport};
use crate::{
    crypto::WorkspaceKek,
    store::{Entry, KeyHistory},
    vault::{
        VaultError,
        stored::{self, Kind, RequestRecords, Rotation},
        workspace::StoredWorkspace,
    },
};

/// Name that damage lines give to the store key's rotation.
const STORE_KEY: &str = "store key";
/// Minimum number of log messages that a change of a workspace or of a count writes.
const CHANGE: u64 = 1;
/// Minimum number of log messages that a deletion of a workspace writes: one deletes the description, and one names the
/// garbage.
const DELETION: u64 = 2;

/// A workspace whose active KEK was unwrapped.
struct OpenWorkspace {
    name: WorkspaceName,
    /// The active KEK and the retired ones.
    keks: Vec<Arc<WorkspaceKek>>,
    /// True when a rotation still has to move the workspace's records.
    rotates: bool,
}

/// State of the pass.
pub(super) struct StoreWalk<'a> {
    check: &'a IntegrityCheck,
    doubtful: DoubtfulSecrets,
    /// Workspaces that were deleted.
    deleted: HashSet<Uid>,
    /// Names of the workspaces whose active KEK cannot be unwrapped.
    closed: BTreeMap<Uid, WorkspaceName>,
    /// Unfinished rotations of workspaces, each with the workspace's name and number of secrets.
    rotations: Vec<(Uid, WorkspaceName, u64)>,
    report: IntegrityReport,
    damaged: &'a mut dyn FnMut(&Damage),
    keep: &'a mut dyn FnMut(Entry),
}

impl<'a> StoreWalk<'a> {
    pub(super) fn run(
        check: &'a IntegrityCheck,
        doubtful: DoubtfulSecrets,
        damaged: &'a mut dyn FnMut(&Damage),
        keep: &'a mut dyn FnMut(Entry),
    ) -> IntegrityReport {
        let mut walk = StoreWalk {
            check,
            doubtful,
            deleted: HashSet::new(),
            closed: BTreeMap::new(),
            rotations: Vec::new(),
            report: IntegrityReport {
                refusal: check.salvage.refusal().map(ToString::to_string),
                log_damage: check.salvage.log_damage(),
                ..IntegrityReport::default()
            },
            damaged,
            keep,
        };
        let opened = walk.open_workspaces();
        for (uid, workspace) in &opened {
            walk.check_secrets(*uid, workspace);
            walk.keep_requests(*uid, workspace);
        }
        walk.report_strays(&opened);
        walk.report_unreadable_rotations(&opened);
        walk.begin_rotations();
        walk.report
    }

    /// Unwraps the KEKs of all workspaces that were not deleted. Returns the workspaces whose active KEK could be unwrapped.
    fn open_workspaces(&mut self) -> BTreeMap<Uid, OpenWorkspace> {
        let salvage = &self.check.salvage;
        // A workspace with a garbage entry is deleted, whatever the state of its other entries.
        let garbage = salvage.keys(stored::GARBAGE).into_iter();
        self.deleted = garbage
            .filter_map(|key| stored::uid(key.get(stored::GARBAGE.len()..)?))
            .collect();
        let mut opened = BTreeMap::new();
        for key in salvage.keys(stored::WORKSPACES) {
            let Some(history) = salvage.history(key) else {
                continue;
            };
            let shown = String::from_utf8_lossy(key.get(stored::WORKSPACES.len()..).unwrap_or_default());
            match WorkspaceName::parse(&shown) {
                Ok(name) => opened.extend(self.open_workspace(name, history)),
                Err(_) => self.report_damage(&shown, None, None, DamageKind::Metadata),
            }
        }
        opened
    }

    fn open_workspace(
        &mut self,
        name: WorkspaceName,
        history: KeyHistory<'_>,
    ) -> Option<(Uid, OpenWorkspace)> {
        let states = |values: &mut dyn Iterator<Item = Vec<u8>>| -> Vec<_> {
            values
                .map(|bytes| StoredWorkspace::decode(name.clone(), bytes).ok())
                .collect()
        };
        if history.is_deleted() {
            let before = states(&mut history.values());
            self.deleted
                .extend(before.iter().flatten().map(|found| found.uid));
            return None;
        }
        let states = states(&mut history.values_since_deletion());
        let newest = states.iter().flatten().next();
        if newest.is_some_and(|newest| self.deleted.contains(&newest.uid)) {
            return None;
        }
        if let Some(uid) = newest
            .map(|newest| newest.uid)
            .filter(|uid| self.may_be_deleted(uid, history))
        {
            self.report_doubtful(uid, name.as_str());
            if self.doubtful == DoubtfulSecrets::LeaveOut {
                self.deleted.insert(uid);
                return None;
            }
        }
        let mut kind = DamageKind::Metadata;
        for (age, found) in states.into_iter().enumerate() {
            let Some(found) = found else { continue };
            match self.check.keyring.open(&found.uid, &found.record.wrapped_kek) {
                Ok(active) => return Some(self.keep_workspace(found, active, age, history)),
                Err(error) => {
                    self.closed.insert(found.uid, name.clone());
                    if kind == DamageKind::Metadata {
                        kind = key_damage(&error);
                    }
                }
            }
        }
        self.report_damage(name.as_str(), None, None, kind);
        None
    }

    /// Returns true when a deletion of the workspace may be lost. A deletion removes each of the workspace's entries,
    /// so any entry that was confirmed later disproves it.
    fn may_be_deleted(&self, uid: &Uid, history: KeyHistory<'_>) -> bool {
        let salvage = &self.check.salvage;
        let kinds = [Kind::Metadata, Kind::Record].map(|kind| kind.of(uid));
        let kept = kinds.iter().flat_map(|prefix| salvage.live(prefix));
        let kept = kept
            .filter_map(|key| salvage.history(key))
            .map(KeyHistory::confirmed_at);
        let last = kept.max().unwrap_or(0).max(history.confirmed_at());
        salvage.may_hide(DELETION, last)
    }

    /// Reports a workspace that may have been deleted, and all its secrets.
    fn report_doubtful(&mut self, uid: Uid, name: &str) {
        self.report_damage(name, None, None, DamageKind::MaybeDeleted);
        let salvage = &self.check.salvage;
        for key in salvage.live(&Kind::Metadata.of(&uid)) {
            if let Some((_, secret)) = place(Kind::Metadata, key) {
                self.report_damage(name, Some(secret), None, DamageKind::MaybeDeleted);
            }
        }
    }

    /// Keeps a workspace's description: the newest one when `age` is 0, or the one that is `age` states older.
    fn keep_workspace(
        &mut self,
        found: StoredWorkspace,
        active: Arc<WorkspaceKek>,
        age: usize,
        history: KeyHistory<'_>,
    ) -> (Uid, OpenWorkspace) {
        let (uid, name, mut record) = (found.uid, found.name, found.record);
        self.closed.remove(&uid);
        if age > 0 {
            self.report_damage(name.as_str(), None, None, DamageKind::OlderWorkspace);
        } else if self.check.salvage.may_hide(CHANGE, history.confirmed_at()) {
            self.report_damage(name.as_str(), None, None, DamageKind::MaybeOlderWorkspace);
        }
        let mut keks = vec![active];
        for retired in std::mem::take(&mut record.retired_keks) {
            match self.check.keyring.open(&uid, &retired.wrapped_kek) {
                Ok(kek) => {
                    keks.push(kek);
                    record.retired_keks.push(retired);
                }
                Err(VaultError::KeyNotLoaded) => {
                    self.report_damage(name.as_str(), None, None, DamageKind::StoreKeyMissing);
                }
                Err(_) => self.report_damage(name.as_str(), None, None, DamageKind::RetiredKey),
            }
        }
        let rotates = !record.retired_keks.is_empty();
        // The rotation of the workspace begins anew.
        record.last_pass = false;
        self.report.workspaces += 1;
        (self.keep)(Entry {
            key: stored::workspace(&name),
            value: stored::encode(&record),
        });
        (uid, OpenWorkspace { name, keks, rotates })
    }

    fn keep_requests(&mut self, uid: Uid, workspace: &OpenWorkspace) {
        let salvage = &self.check.salvage;
        for key in salvage.live(&Kind::Request.of(&uid)) {
            match salvage.read(key) {
                Some(value) if stored::decode::<RequestRecords>(&value).is_ok() => {
                    self.put(key.to_vec(), value)
                }
                Some(_) | None => {
                    self.report_damage(workspace.name.as_str(), None, None, DamageKind::Request)
                }
            }
        }
    }

    /// Reports secrets of workspaces that are neither open nor deleted.
    fn report_strays(&mut self, opened: &BTreeMap<Uid, OpenWorkspace>) {
        let salvage = &self.check.salvage;
        let mut strays = BTreeSet::new();
        for kind in [Kind::Metadata, Kind::Record, Kind::OldVersion] {
            let places = salvage.live(kind.prefix()).filter_map(|key| place(kind, key));
            strays.extend(places.filter(|(uid, _)| !opened.contains_key(uid) && !self.deleted.contains(uid)));
        }
        for (uid, name) in strays {
            let shown = match self.closed.get(&uid) {
                Some(name) => name.to_string(),
                None => uid.to_string(),
            };
            self.report_damage(&shown, Some(name), None, DamageKind::NoWorkspace);
        }
    }

    fn report_unreadable_rotations(&mut self, opened: &BTreeMap<Uid, OpenWorkspace>) {
        let salvage = &self.check.salvage;
        for key in salvage.live(stored::ROTATIONS) {
            let value = salvage.read(key).unwrap_or_default();
            if stored::decode::<Rotation>(&value).is_ok() {
                continue;
            }
            let shown = match stored::uid_of_rotation(key) {
                Some(uid) => opened
                    .get(&uid)
                    .map_or(uid.to_string(), |workspace| workspace.name.to_string()),
                None => STORE_KEY.to_owned(),
            };
            self.report_damage(&shown, None, None, DamageKind::Rotation);
        }
    }

    /// Starts a new rotation for each workspace with records that are still to be moved.
    fn begin_rotations(&mut self) {
        for (uid, name, secrets) in std::mem::take(&mut self.rotations) {
            self.begin_rotation(stored::workspace_rotation(&uid), name.to_string(), secrets);
        }
    }

    fn begin_rotation(&mut self, key: Vec<u8>, workspace: String, total: u64) {
        let rotation = Rotation {
            workspace,
            total,
            start_time: Timestamp::from(SystemTime::now()),
            ..Rotation::default()
        };
        self.put(key, stored::encode(&rotation));
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        (self.keep)(Entry { key, value });
    }

    fn report_damage(
        &mut self,
        workspace: &str,
        name: Option<SecretName>,
        version: Option<u64>,
        kind: DamageKind,
    ) {
        self.report.count(kind.outcome());
        (self.damaged)(&Damage {
            workspace: workspace.to_owned(),
            name,
            version,
            kind,
        });
    }
}

fn key_damage(error: &VaultError) -> DamageKind {
    match error {
        VaultError::KeyNotLoaded => DamageKind::StoreKeyMissing,
        _ => DamageKind::Key,
    }
}

/// Returns the workspace and the secret that the entry at `key` belongs to; `None` for an invalid key.
fn place(kind: Kind, key: &[u8]) -> Option<(Uid, SecretName)> {
    let (uid, rest) = key.strip_prefix(kind.prefix())?.split_first_chunk::<16>()?;
    let name = match kind {
        Kind::OldVersion => rest.split_last_chunk::<8>()?.0.strip_suffix(&[0])?,
        Kind::Metadata
        | Kind::Record
        | Kind::Use
        | Kind::LastVersion
        | Kind::VersionFloor
        | Kind::Request => rest,
    };
    let name = SecretName::parse(str::from_utf8(name).ok()?).ok()?;
    Some((Uid::from_bytes(*uid), name))
}
