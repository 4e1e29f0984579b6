//! The secrets of one workspace in a pass.

use std::collections::BTreeSet;

use proto::{SecretName, Uid};

use super::{CHANGE, OpenWorkspace, StoreWalk, place};
use crate::{
    crypto::record,
    vault::{
        integrity_check::{
            DamageKind, DoubtfulSecrets,
            secret::{self, AuthenticContents, Evidence, SalvagedSecret, Verdict},
        },
        stored::{self, Kind, UseRecord},
    },
};

/// Numbers of the secrets that were found in one workspace.
#[derive(Default)]
struct SecretTally {
    kept: u64,
    /// Number of lost and doubtful secrets.
    others: u64,
}

impl StoreWalk<'_> {
    pub(super) fn check_secrets(&mut self, uid: Uid, workspace: &OpenWorkspace) {
        let salvage = &self.check.salvage;
        let mut names = BTreeSet::new();
        for kind in [Kind::Metadata, Kind::Record, Kind::LastVersion, Kind::OldVersion] {
            let keys = salvage.keys(&kind.of(&uid)).into_iter();
            names.extend(keys.filter_map(|key| place(kind, key)).map(|(_, name)| name));
        }
        let evidence = || names.iter().map(|name| (name, Evidence::of(salvage, uid, name)));
        let alive = evidence().filter(|(_, evidence)| evidence.seems_alive()).count() as u64;
        self.keep_version_floor(uid, workspace);
        let is_counted = self.is_counted(&uid, alive);
        let mut tally = SecretTally::default();
        for (name, evidence) in evidence() {
            let verdict = match evidence.judge(&|record| workspace.decrypt(&uid, name, record)) {
                Verdict::Kept(kept) if !is_counted && evidence.may_be_deleted() => {
                    Verdict::Doubtful(Some(kept))
                }
                verdict => verdict,
            };
            self.keep_secret(uid, workspace, name, &evidence, verdict, &mut tally);
        }
        self.keep_count(uid, workspace, &tally);
    }

    /// Keeps the workspace's version floor: a number that no deleted secret without its own last version number
    /// exceeded. Secrets with unreadable names count too.
    fn keep_version_floor(&mut self, uid: Uid, workspace: &OpenWorkspace) {
        let key = Kind::VersionFloor.of(&uid);
        let stored = self.check.salvage.read(&key);
        let known = stored
            .as_ref()
            .map(|bytes| bytes.as_slice().try_into().map(u64::from_be_bytes));
        if let Some(Err(_)) = known {
            self.report_damage(workspace.name.as_str(), None, None, DamageKind::LastVersion);
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
        let floor = self.check.salvage.read(&Kind::VersionFloor.of(uid));
        self.report.log_damage.lost_nothing() && floor.is_some()
    }

    /// Keeps the sound parts of a secret, and reports its damage.
    fn keep_secret(
        &mut self,
        uid: Uid,
        workspace: &OpenWorkspace,
        name: &SecretName,
        evidence: &Evidence<'_>,
        verdict: Verdict,
        tally: &mut SecretTally,
    ) {
        let shown = workspace.name.as_str();
        let mut seen = 0;
        let kept = match verdict {
            Verdict::Kept(kept) => Some(kept),
            Verdict::Doubtful(kept) => {
                self.report_damage(shown, Some(name.clone()), None, DamageKind::MaybeDeleted);
                tally.others += 1;
                seen = kept.as_ref().map_or(0, |kept| kept.metadata.last_version());
                kept.filter(|_| self.doubtful == DoubtfulSecrets::Keep)
            }
            Verdict::Lost { version, kind } => {
                self.report_damage(shown, Some(name.clone()), version, kind);
                tally.others += 1;
                None
            }
            // The version floor of a workspace stands for the last version numbers of many deleted secrets.
            Verdict::Deleted { is_known: false } if self.has_floor(&uid) => return,
            Verdict::Deleted { is_known } => {
                if !is_known {
                    self.report_damage(shown, Some(name.clone()), None, DamageKind::LastVersion);
                }
                None
            }
        };
        match kept {
            Some(kept) => {
                tally.kept += 1;
                self.keep_version(uid, workspace, name, *kept);
            }
            None => {
                let last_version = evidence.last_version(seen).to_be_bytes();
                self.put(Kind::LastVersion.key(&uid, name), last_version.to_vec());
            }
        }
    }

    fn keep_version(&mut self, uid: Uid, workspace: &OpenWorkspace, name: &SecretName, kept: SalvagedSecret) {
        let SalvagedSecret {
            metadata,
            record,
            older,
            damage,
        } = kept;
        let shown = workspace.name.as_str();
        for (version, kind) in damage {
            self.report_damage(shown, Some(name.clone()), Some(version), kind);
        }
        self.report.secrets += 1;
        self.report.older += older.len() as u64;
        self.put(Kind::Metadata.key(&uid, name), stored::encode(&metadata));
        self.put(Kind::Record.key(&uid, name), record);
        older.into_iter().for_each(&mut *self.keep);
        let key = Kind::Use.key(&uid, name);
        match self.check.salvage.read(&key) {
            None => {}
            Some(value) if stored::decode::<UseRecord>(&value).is_ok() => self.put(key, value),
            Some(_) => self.report_damage(shown, Some(name.clone()), None, DamageKind::UseCounters),
        }
    }

    /// Returns true when the workspace's count of its secrets is up to date and equals `alive`. Then no deletion is
    /// lost, because a deletion changes the count.
    fn is_counted(&self, uid: &Uid, alive: u64) -> bool {
        let count = self.check.salvage.history(&stored::count(uid));
        let is_current = count.is_none_or(|count| !self.check.salvage.may_hide(CHANGE, count.confirmed_at()));
        is_current && self.read_count(uid) == Some(alive)
    }

    fn read_count(&self, uid: &Uid) -> Option<u64> {
        match self.check.salvage.read(&stored::count(uid)) {
            None => Some(0),
            Some(bytes) => bytes.as_slice().try_into().map(u64::from_be_bytes).ok(),
        }
    }

    /// Keeps a count of the kept secrets, and compares the stored count with the secrets that were found.
    fn keep_count(&mut self, uid: Uid, workspace: &OpenWorkspace, tally: &SecretTally) {
        let named = tally.kept + tally.others;
        let is_readable = self.report.log_damage.lost_nothing();
        let shown = workspace.name.as_str();
        match self.read_count(&uid) {
            Some(counted) if counted == named => {}
            Some(counted) if counted > named && !is_readable => {
                self.report_damage(shown, None, None, DamageKind::Nameless(counted - named));
            }
            Some(_) | None => self.report_damage(shown, None, None, DamageKind::Miscounted),
        }
        if tally.kept > 0 {
            self.put(stored::count(&uid), tally.kept.to_be_bytes().to_vec());
        }
        if workspace.rotates {
            self.rotations.push((uid, workspace.name.clone(), tally.kept));
        }
    }
}

impl OpenWorkspace {
    /// Decrypts the record of a secret and returns its contents without the value, which is wiped. Returns `None` when
    /// the record does not authenticate.
    fn decrypt(&self, uid: &Uid, name: &SecretName, bytes: &[u8]) -> Option<AuthenticContents> {
        let id = record::kek_id(bytes).ok()?;
        let kek = self.keks.iter().find(|kek| kek.id() == id)?;
        let record::DecryptedRecord {
            version,
            expiry,
            origins,
            value: _,
        } = record::decrypt(kek, uid, name, bytes).ok()?;
        Some(AuthenticContents {
            version,
            expiry,
            origins,
        })
    }
}
