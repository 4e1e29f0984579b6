//! One reading of a whole store, workspace by workspace.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::SystemTime,
};

use prost_types::Timestamp;
use proto::{SecretName, Uid, WorkspaceName};

use super::{
    Audit, Damage, Doubtful, Report, What,
    secret::{self, Evidence, Kept, Sound, Verdict},
};
use crate::{
    crypto::{WorkspaceKek, record},
    store::{Entry, KeyHistory},
    vault::{
        VaultError,
        stored::{self, Kind, RequestRecords, Rotation, UseRecord},
        workspaces::Found,
    },
};

/// Name that damage lines give to the store key's rotation.
const STORE_KEY: &str = "store key";
/// Minimum number of log messages that a change of a workspace or of a count writes.
const CHANGE: u64 = 1;
/// Minimum number of log messages that a deletion of a workspace writes: one deletes the description, and one names the
/// garbage.
const DELETION: u64 = 2;

/// A workspace whose key opens.
struct Opened {
    name: WorkspaceName,
    /// The active one, and those that are being rotated.
    keks: Vec<Arc<WorkspaceKek>>,
    /// True when a rotation still has to move the workspace's records.
    rotates: bool,
}

/// What takes part in one reading.
pub(super) struct Walk<'a> {
    audit: &'a Audit,
    doubtful: Doubtful,
    /// Workspaces that were deleted.
    deleted: HashSet<Uid>,
    /// Names of the workspaces whose keys do not open.
    closed: BTreeMap<Uid, WorkspaceName>,
    /// Unfinished rotations of workspaces, each with the workspace's name and number of secrets.
    rotations: Vec<(Uid, WorkspaceName, u64)>,
    report: Report,
    damaged: &'a mut dyn FnMut(&Damage),
    keep: &'a mut dyn FnMut(Entry),
}

impl<'a> Walk<'a> {
    pub(super) fn over(
        audit: &'a Audit,
        doubtful: Doubtful,
        damaged: &'a mut dyn FnMut(&Damage),
        keep: &'a mut dyn FnMut(Entry),
    ) -> Report {
        let mut walk = Walk {
            audit,
            doubtful,
            deleted: HashSet::new(),
            closed: BTreeMap::new(),
            rotations: Vec::new(),
            report: Report {
                refusal: audit.salvage.refusal().map(ToString::to_string),
                log_damage: audit.salvage.log_damage(),
                ..Report::default()
            },
            damaged,
            keep,
        };
        let opened = walk.workspaces();
        for (uid, workspace) in &opened {
            walk.secrets(*uid, workspace);
            walk.requests(*uid, workspace);
        }
        walk.strays(&opened);
        walk.unreadable_rotations(&opened);
        walk.begin_rotations();
        walk.report
    }

    /// Finds the workspaces that were not deleted and whose keys open.
    fn workspaces(&mut self) -> BTreeMap<Uid, Opened> {
        let salvage = &self.audit.salvage;
        // A workspace with a garbage entry is deleted, whatever the state of its other entries.
        let garbage = salvage.keys(stored::GARBAGE).into_iter();
        self.deleted = garbage
            .filter_map(|key| stored::uid(key.get(stored::GARBAGE.len()..)?))
            .collect();
        let mut opened = BTreeMap::new();
        for key in salvage.keys(stored::WORKSPACES) {
            let Some(trace) = salvage.history(key) else {
                continue;
            };
            let shown = String::from_utf8_lossy(key.get(stored::WORKSPACES.len()..).unwrap_or_default());
            match WorkspaceName::parse(&shown) {
                Ok(name) => opened.extend(self.workspace(name, trace)),
                Err(_) => self.lost(&shown, None, None, What::Description),
            }
        }
        opened
    }

    fn workspace(&mut self, name: WorkspaceName, trace: KeyHistory<'_>) -> Option<(Uid, Opened)> {
        let states = |values: &mut dyn Iterator<Item = Vec<u8>>| -> Vec<_> {
            values
                .map(|bytes| Found::decode(name.clone(), bytes).ok())
                .collect()
        };
        if trace.is_deleted() {
            let before = states(&mut trace.values());
            self.deleted
                .extend(before.iter().flatten().map(|found| found.uid));
            return None;
        }
        let states = states(&mut trace.values_since_deletion());
        let newest = states.iter().flatten().next();
        if newest.is_some_and(|newest| self.deleted.contains(&newest.uid)) {
            return None;
        }
        if let Some(uid) = newest
            .map(|newest| newest.uid)
            .filter(|uid| self.may_be_deleted(uid, trace))
        {
            self.name_doubtful(uid, name.as_str());
            if self.doubtful == Doubtful::LeftOut {
                self.deleted.insert(uid);
                return None;
            }
        }
        let mut refused = What::Description;
        for (age, found) in states.into_iter().enumerate() {
            let Some(found) = found else { continue };
            match self.audit.keyring.open(&found.uid, &found.record.wrapped_kek) {
                Ok(active) => return Some(self.opened(found, active, age, trace)),
                Err(error) => {
                    self.closed.insert(found.uid, name.clone());
                    if refused == What::Description {
                        refused = why_closed(&error);
                    }
                }
            }
        }
        self.lost(name.as_str(), None, None, refused);
        None
    }

    /// Returns true when a deletion of the workspace may be lost. A deletion removes each of the workspace's entries,
    /// so any entry that was confirmed later disproves it.
    fn may_be_deleted(&self, uid: &Uid, trace: KeyHistory<'_>) -> bool {
        let salvage = &self.audit.salvage;
        let kinds = [Kind::Metadata, Kind::Record].map(|kind| kind.of(uid));
        let kept = kinds.iter().flat_map(|prefix| salvage.live(prefix));
        let kept = kept
            .filter_map(|key| salvage.history(key))
            .map(KeyHistory::confirmed_at);
        let last = kept.max().unwrap_or(0).max(trace.confirmed_at());
        salvage.may_hide(DELETION, last)
    }

    /// Names a workspace that may have been deleted, and all that is in it.
    fn name_doubtful(&mut self, uid: Uid, name: &str) {
        self.lost(name, None, None, What::MaybeDeleted);
        let salvage = &self.audit.salvage;
        for key in salvage.live(&Kind::Metadata.of(&uid)) {
            if let Some((_, secret)) = place(Kind::Metadata, key) {
                self.lost(name, Some(secret), None, What::MaybeDeleted);
            }
        }
    }

    /// Keeps a workspace's description: the newest one when `age` is 0, or the one that is `age` states older.
    fn opened(
        &mut self,
        found: Found,
        active: Arc<WorkspaceKek>,
        age: usize,
        trace: KeyHistory<'_>,
    ) -> (Uid, Opened) {
        let (uid, name, mut record) = (found.uid, found.name, found.record);
        self.closed.remove(&uid);
        if age > 0 {
            self.lost(name.as_str(), None, None, What::OlderWorkspace);
        } else if self.audit.salvage.may_hide(CHANGE, trace.confirmed_at()) {
            self.lost(name.as_str(), None, None, What::MaybeOlderWorkspace);
        }
        let mut keks = vec![active];
        for retired in std::mem::take(&mut record.retired_keks) {
            match self.audit.keyring.open(&uid, &retired.wrapped_kek) {
                Ok(kek) => {
                    keks.push(kek);
                    record.retired_keks.push(retired);
                }
                Err(VaultError::KeyNotLoaded) => {
                    self.lost(name.as_str(), None, None, What::StoreKeyMissing);
                }
                Err(_) => self.lost(name.as_str(), None, None, What::RetiredKey),
            }
        }
        let rotates = !record.retired_keks.is_empty();
        // Its rotation begins anew.
        record.last_look = false;
        self.report.workspaces += 1;
        (self.keep)(Entry {
            key: stored::workspace(&name),
            value: stored::encode(&record),
        });
        (uid, Opened { name, keks, rotates })
    }

    fn secrets(&mut self, uid: Uid, workspace: &Opened) {
        let salvage = &self.audit.salvage;
        let mut names = BTreeSet::new();
        for kind in [Kind::Metadata, Kind::Record, Kind::LastVersion, Kind::OldVersion] {
            let keys = salvage.keys(&kind.of(&uid)).into_iter();
            names.extend(keys.filter_map(|key| place(kind, key)).map(|(_, name)| name));
        }
        let evidence = || names.iter().map(|name| (name, Evidence::of(salvage, uid, name)));
        let alive = evidence().filter(|(_, evidence)| evidence.seems_alive()).count() as u64;
        self.version_floor(uid, workspace);
        let is_counted = self.is_counted(&uid, alive);
        let mut tally = Tally::default();
        for (name, evidence) in evidence() {
            let verdict = match evidence.judge(&|record| workspace.decrypt(&uid, name, record)) {
                Verdict::Kept(kept) if !is_counted && evidence.may_be_deleted() => {
                    Verdict::Doubtful(Some(kept))
                }
                verdict => verdict,
            };
            self.secret(uid, workspace, name, &evidence, verdict, &mut tally);
        }
        self.count(uid, workspace, &tally);
    }

    /// Keeps the workspace's version floor: a number that no deleted secret without its own last version number
    /// exceeded. Secrets with unreadable names count too.
    fn version_floor(&mut self, uid: Uid, workspace: &Opened) {
        let key = Kind::VersionFloor.of(&uid);
        let stored = self.audit.salvage.read(&key);
        let known = stored
            .as_ref()
            .map(|bytes| bytes.as_slice().try_into().map(u64::from_be_bytes));
        if let Some(Err(_)) = known {
            self.lost(workspace.name.as_str(), None, None, What::LastVersion);
        }
        let floor = known.and_then(Result::ok);
        let floor = match self.report.log_damage.lost_nothing() {
            true => floor,
            false => Some(
                floor
                    .unwrap_or(0)
                    .saturating_add(secret::margin(&self.report.log_damage)),
            ),
        };
        if let Some(floor) = floor {
            self.put(key, floor.to_be_bytes().to_vec());
        }
    }

    fn has_floor(&self, uid: &Uid) -> bool {
        let floor = self.audit.salvage.read(&Kind::VersionFloor.of(uid));
        self.report.log_damage.lost_nothing() && floor.is_some()
    }

    /// Keeps the sound parts of a secret, and reports its damage.
    fn secret(
        &mut self,
        uid: Uid,
        workspace: &Opened,
        name: &SecretName,
        evidence: &Evidence<'_>,
        verdict: Verdict,
        tally: &mut Tally,
    ) {
        let shown = workspace.name.as_str();
        let mut seen = 0;
        let kept = match verdict {
            Verdict::Kept(kept) => Some(kept),
            Verdict::Doubtful(kept) => {
                self.lost(shown, Some(name.clone()), None, What::MaybeDeleted);
                tally.others += 1;
                seen = kept.as_ref().map_or(0, |kept| kept.metadata.last_version());
                kept.filter(|_| self.doubtful == Doubtful::Kept)
            }
            Verdict::Lost { version, what } => {
                self.lost(shown, Some(name.clone()), version, what);
                tally.others += 1;
                None
            }
            // The version floor of a workspace stands for the last version numbers of many deleted secrets.
            Verdict::Deleted { is_known: false } if self.has_floor(&uid) => return,
            Verdict::Deleted { is_known } => {
                if !is_known {
                    self.lost(shown, Some(name.clone()), None, What::LastVersion);
                }
                None
            }
        };
        match kept {
            Some(kept) => {
                tally.kept += 1;
                self.kept(uid, workspace, name, *kept);
            }
            None => {
                let last_version = evidence.last_version(seen).to_be_bytes();
                self.put(Kind::LastVersion.key(&uid, name), last_version.to_vec());
            }
        }
    }

    fn kept(&mut self, uid: Uid, workspace: &Opened, name: &SecretName, kept: Kept) {
        let Kept {
            metadata,
            record,
            older,
            damage,
        } = kept;
        let shown = workspace.name.as_str();
        for (version, what) in damage {
            self.lost(shown, Some(name.clone()), Some(version), what);
        }
        self.report.secrets += 1;
        self.report.older += older.len() as u64;
        self.put(Kind::Metadata.key(&uid, name), stored::encode(&metadata));
        self.put(Kind::Record.key(&uid, name), record);
        older.into_iter().for_each(&mut *self.keep);
        let key = Kind::Use.key(&uid, name);
        match self.audit.salvage.read(&key) {
            None => {}
            Some(value) if stored::decode::<UseRecord>(&value).is_ok() => self.put(key, value),
            Some(_) => self.lost(shown, Some(name.clone()), None, What::Uses),
        }
    }

    /// Returns true when the workspace's count of its secrets is up to date and equals `alive`. Then no deletion is
    /// lost, because a deletion changes the count.
    fn is_counted(&self, uid: &Uid, alive: u64) -> bool {
        let count = self.audit.salvage.history(&stored::count(uid));
        let is_current = count.is_none_or(|count| !self.audit.salvage.may_hide(CHANGE, count.confirmed_at()));
        is_current && self.counted(uid) == Some(alive)
    }

    fn counted(&self, uid: &Uid) -> Option<u64> {
        match self.audit.salvage.read(&stored::count(uid)) {
            None => Some(0),
            Some(bytes) => bytes.as_slice().try_into().map(u64::from_be_bytes).ok(),
        }
    }

    /// Keeps a count of the kept secrets, and compares the stored count with the secrets that were found.
    fn count(&mut self, uid: Uid, workspace: &Opened, tally: &Tally) {
        let named = tally.kept + tally.others;
        let is_readable = self.report.log_damage.lost_nothing();
        let shown = workspace.name.as_str();
        match self.counted(&uid) {
            Some(counted) if counted == named => {}
            Some(counted) if counted > named && !is_readable => {
                self.lost(shown, None, None, What::Nameless(counted - named));
            }
            Some(_) | None => self.lost(shown, None, None, What::Miscounted),
        }
        if tally.kept > 0 {
            self.put(stored::count(&uid), tally.kept.to_be_bytes().to_vec());
        }
        if workspace.rotates {
            self.rotations.push((uid, workspace.name.clone(), tally.kept));
        }
    }

    fn requests(&mut self, uid: Uid, workspace: &Opened) {
        let salvage = &self.audit.salvage;
        for key in salvage.live(&Kind::Request.of(&uid)) {
            match salvage.read(key) {
                Some(value) if stored::decode::<RequestRecords>(&value).is_ok() => {
                    self.put(key.to_vec(), value)
                }
                Some(_) | None => self.lost(workspace.name.as_str(), None, None, What::Request),
            }
        }
    }

    /// Reports secrets of workspaces that are neither open nor deleted.
    fn strays(&mut self, opened: &BTreeMap<Uid, Opened>) {
        let salvage = &self.audit.salvage;
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
            self.lost(&shown, Some(name), None, What::NoWorkspace);
        }
    }

    fn unreadable_rotations(&mut self, opened: &BTreeMap<Uid, Opened>) {
        let salvage = &self.audit.salvage;
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
            self.lost(&shown, None, None, What::Rotation);
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

    /// Reports one damage line.
    fn lost(&mut self, workspace: &str, name: Option<SecretName>, version: Option<u64>, what: What) {
        self.report.count(what.outcome());
        (self.damaged)(&Damage {
            workspace: workspace.to_owned(),
            name,
            version,
            what,
        });
    }
}

/// Numbers of the secrets that were found in one workspace.
#[derive(Default)]
struct Tally {
    kept: u64,
    /// Number of lost and doubtful secrets.
    others: u64,
}

impl Opened {
    /// Decrypts the record of a secret and returns its contents without the value, which is wiped. Returns `None` when
    /// the record does not authenticate.
    fn decrypt(&self, uid: &Uid, name: &SecretName, bytes: &[u8]) -> Option<Sound> {
        let id = record::kek_id(bytes).ok()?;
        let kek = self.keks.iter().find(|kek| kek.id() == id)?;
        let record::DecryptedRecord {
            version,
            expiry,
            origins,
            value: _,
        } = record::decrypt(kek, uid, name, bytes).ok()?;
        Some(Sound {
            version,
            expiry,
            origins,
        })
    }
}

fn why_closed(error: &VaultError) -> What {
    match error {
        VaultError::KeyNotLoaded => What::StoreKeyMissing,
        _ => What::Key,
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
