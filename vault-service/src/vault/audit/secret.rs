//! Conclusions about one secret from the entries that the log has of it.
//!
//! A change of a secret is written to several entries, so a partly lost change can be recognized:
//!
//! | description `s/` | record `r/` | last version `v/` | the secret |
//! |---|---|---|---|
//! | version n | version n | - | is there |
//! | version n | an older one, or none | - | has lost version n; the newest that authenticates is left |
//! | an older one, or none | version n | - | is there; its description is lost |
//! | up to n, or none | up to n, or none | n | is deleted |
//! | version > n | version > n | n | was made again |
//! | deleted | deleted | - | is deleted, and its last version number is lost |
//! | deleted last | there | - | may be deleted, and so the other way round |
//!
//! A change can be lost without a trace only when at least as many unreadable messages as the change consists of were
//! written after everything that is known of the secret. Such a secret may be older than acknowledged, or deleted.

use std::{collections::BTreeMap, time::SystemTime};

use prost_types::Timestamp;
use proto::{OriginPattern, SecretName, Uid};

use super::What;
use crate::{
    crypto::record::Expiry,
    store::{Entry, KeyHistory, LogDamage, SalvageReader},
    vault::stored::{self, Kind, OldVersion, SecretRecord},
};

/// Minimum number of log messages that a put writes: one for the description and one for the record.
const PUT: u64 = 2;
/// Minimum number of log messages that a deletion writes: one for the description and one for the record. In a
/// workspace with many deleted secrets, a deletion may write no message for the last version number.
const DELETION: u64 = 2;
/// Number of version numbers to skip when newer versions may be lost, in addition to one for every [`VERSION`]
/// unreadable bytes.
const MARGIN: u64 = 1000;
/// Lower bound of the log bytes that a version takes.
const VERSION: u64 = 128;

/// The contents of an authentic record, without the value.
pub(super) struct Sound {
    pub(super) version: u64,
    pub(super) expiry: Option<Expiry>,
    pub(super) origins: Vec<OriginPattern>,
}

/// Function that decrypts a record; returns `None` when the record is not authentic for the secret.
pub(super) type Decrypt<'a> = dyn Fn(&[u8]) -> Option<Sound> + 'a;

/// Everything that the log has of one secret.
pub(super) struct Evidence<'a> {
    salvage: &'a SalvageReader,
    uid: Uid,
    name: &'a SecretName,
    metadata: Option<KeyHistory<'a>>,
    record: Option<KeyHistory<'a>>,
    last_version: Option<KeyHistory<'a>>,
    older: BTreeMap<u64, KeyHistory<'a>>,
}

/// Conclusion about a secret.
pub(super) enum Verdict {
    /// The secret is deleted; `is_known` is true when its last version number is known.
    Deleted {
        is_known: bool,
    },
    /// The secret may be deleted; the content is what is left of the secret if it is not.
    Doubtful(Option<Box<Kept>>),
    /// No version of the secret is left.
    Lost {
        version: Option<u64>,
        what: What,
    },
    Kept(Box<Kept>),
}

/// A secret of which a version authenticates.
pub(super) struct Kept {
    pub(super) metadata: SecretRecord,
    pub(super) record: Vec<u8>,
    pub(super) older: Vec<Entry>,
    /// Damage of the secret's versions, by version number.
    pub(super) damage: Vec<(u64, What)>,
}

/// A version that authenticates.
struct Candidate {
    sound: Sound,
    record: Vec<u8>,
    /// Description of the version; `None` for the current version.
    metadata: Option<SecretRecord>,
}

impl<'a> Evidence<'a> {
    pub(super) fn of(salvage: &'a SalvageReader, uid: Uid, name: &'a SecretName) -> Self {
        let trace = |kind: Kind| salvage.history(&kind.key(&uid, name));
        let prefix = [Kind::OldVersion.key(&uid, name).as_slice(), &[0]].concat();
        let older = salvage.keys(&prefix).into_iter().filter_map(|key| {
            let version = key.strip_prefix(prefix.as_slice())?.try_into().ok()?;
            Some((u64::from_be_bytes(version), salvage.history(key)?))
        });
        Self {
            salvage,
            uid,
            name,
            metadata: trace(Kind::Metadata),
            record: trace(Kind::Record),
            last_version: trace(Kind::LastVersion),
            older: older.collect(),
        }
    }

    /// Returns true when the secret has a description or a record, and no last version number, which only deleted
    /// secrets have.
    pub(super) fn seems_alive(&self) -> bool {
        let is_there = |trace: &Option<KeyHistory<'_>>| trace.is_some_and(|trace| !trace.is_deleted());
        !is_there(&self.last_version) && (is_there(&self.metadata) || is_there(&self.record))
    }

    /// Returns true when a put of the secret may be lost that came after everything known of it.
    pub(super) fn may_have_changed(&self) -> bool {
        self.salvage.may_hide(PUT, self.confirmed())
    }

    /// Returns true when a deletion of the secret may be lost that came after everything known of it.
    pub(super) fn may_be_deleted(&self) -> bool {
        self.salvage.may_hide(DELETION, self.confirmed())
    }

    /// Returns the position in the log that last confirms the secret's state. Any existing entry can confirm it,
    /// because puts and deletions change each of these entries.
    fn confirmed(&self) -> u64 {
        let changed = [self.metadata, self.record, self.last_version];
        let there = changed.into_iter().flatten().filter(|trace| !trace.is_deleted());
        there.map(KeyHistory::confirmed_at).max().unwrap_or(0)
    }

    pub(super) fn judge(&self, decrypt: &Decrypt<'_>) -> Verdict {
        let current = self.current(decrypt);
        let described = self.described();
        let newest = [
            current.as_ref().map(|found| found.sound.version),
            described.as_ref().map(|it| it.version),
        ];
        let newest = newest.into_iter().flatten().max();
        if self.is_outlived(newest) {
            return Verdict::Deleted {
                is_known: self.tombstone().is_some(),
            };
        }
        match (self.ended(self.metadata), self.ended(self.record)) {
            (Some(metadata), Some(record)) => self.both_deleted(metadata.max(record)),
            (Some(deleted), None) | (None, Some(deleted)) if self.is_last(deleted) => {
                match self.best(current, described, decrypt) {
                    Verdict::Kept(kept) => Verdict::Doubtful(Some(kept)),
                    Verdict::Deleted { .. } | Verdict::Doubtful(_) | Verdict::Lost { .. } => {
                        Verdict::Doubtful(None)
                    }
                }
            }
            (Some(_), None) | (None, Some(_)) | (None, None) => self.best(current, described, decrypt),
        }
    }

    /// Returns the last version number to store for a secret without a kept version. `seen` is a number that a version
    /// had.
    pub(super) fn last_version(&self, seen: u64) -> u64 {
        let highest = self.highest().max(seen);
        match self.tombstone() {
            Some(last) if !self.may_have_changed() && last >= highest => last,
            Some(_) | None => self.beyond(highest),
        }
    }

    /// Returns true when the secret has a last version number, which only deleted secrets have, and no newer version.
    fn is_outlived(&self, newest: Option<u64>) -> bool {
        let is_there = self.last_version.is_some_and(|trace| !trace.is_deleted());
        is_there && newest.is_none_or(|newest| self.tombstone().is_some_and(|last| newest <= last))
    }

    /// Returns the position in the log at which the entry was deleted; `None` when the entry is not deleted.
    fn ended(&self, trace: Option<KeyHistory<'a>>) -> Option<u64> {
        trace
            .filter(|trace| trace.is_deleted())
            .map(KeyHistory::changed_at)
    }

    /// Returns true when the existing description or record was written before `deleted`, the position of the other
    /// one's deletion.
    fn is_last(&self, deleted: u64) -> bool {
        let written = [self.metadata, self.record].into_iter().flatten();
        let mut written = written.filter(|trace| !trace.is_deleted());
        written.all(|trace| trace.changed_at() < deleted)
    }

    /// Decides about a secret whose description and record are deleted. The secret is lost when its last version number
    /// was deleted later, because only making the secret again deletes that number; otherwise the secret is deleted.
    fn both_deleted(&self, at: u64) -> Verdict {
        match self.ended(self.last_version).is_some_and(|gone| gone > at) {
            true => Verdict::Lost {
                version: None,
                what: What::Unreadable,
            },
            false => Verdict::Deleted { is_known: false },
        }
    }

    /// Returns the last version number of a deleted secret.
    fn tombstone(&self) -> Option<u64> {
        let trace = self.last_version.filter(|trace| !trace.is_deleted())?;
        number(&trace.values().next()?)
    }

    /// Returns the newest description.
    fn described(&self) -> Option<SecretRecord> {
        let trace = self.metadata.filter(|trace| !trace.is_deleted())?;
        trace.values_since_deletion().find_map(|bytes| described(&bytes))
    }

    /// Returns the newest record that authenticates.
    fn current(&self, decrypt: &Decrypt<'_>) -> Option<Candidate> {
        let trace = self.record.filter(|trace| !trace.is_deleted())?;
        trace.values_since_deletion().find_map(|record| {
            let sound = decrypt(&record)?;
            Some(Candidate {
                sound,
                record,
                metadata: None,
            })
        })
    }

    /// Returns the newest version that authenticates.
    fn best(
        &self,
        current: Option<Candidate>,
        described: Option<SecretRecord>,
        decrypt: &Decrypt<'_>,
    ) -> Verdict {
        let older = || {
            self.older
                .iter()
                .rev()
                .find_map(|(version, trace)| self.old(*version, *trace, decrypt))
        };
        let best = match (current, &described) {
            (Some(current), Some(described)) if current.sound.version >= described.version => Some(current),
            (Some(current), None) => Some(current),
            (Some(current), Some(_)) => match older() {
                Some(older) if older.sound.version > current.sound.version => Some(older),
                Some(_) | None => Some(current),
            },
            (None, _) => older(),
        };
        match (best, described) {
            (Some(best), described) => Verdict::Kept(Box::new(self.kept(best, described, decrypt))),
            (None, Some(described)) => Verdict::Lost {
                version: Some(described.version),
                what: self.why_lost(),
            },
            (None, None) => Verdict::Lost {
                version: None,
                what: self.why_lost(),
            },
        }
    }

    fn why_lost(&self) -> What {
        let is_there = |trace: Option<KeyHistory<'_>>| trace.is_some_and(|trace| !trace.is_deleted());
        match (is_there(self.record), is_there(self.metadata)) {
            (true, _) => What::Unauthentic,
            (false, true) => What::Unreadable,
            (false, false) => What::Description,
        }
    }

    fn kept(&self, best: Candidate, described: Option<SecretRecord>, decrypt: &Decrypt<'_>) -> Kept {
        let version = best.sound.version;
        let acknowledged = self.acknowledged(described.as_ref()).max(version);
        let mut damage = Vec::new();
        let found = best.metadata.clone().or_else(|| self.description_of(version));
        let (mut metadata, is_described) = match found {
            Some(metadata) => (metadata, true),
            None => (made_up(&best.sound, described, self.oldest()), false),
        };
        if acknowledged > version {
            damage.push((version, What::Older(acknowledged)));
        }
        if !is_described {
            damage.push((version, What::Undescribed));
        }
        let may_be_older = self.may_have_changed();
        if may_be_older {
            damage.push((version, What::MaybeOlder));
        }
        if may_be_older || acknowledged > version {
            metadata.last_version = self.beyond(self.highest().max(version));
        }
        let older = self.keep_older(&metadata, decrypt, &mut damage);
        Kept {
            metadata,
            record: best.record,
            older,
            damage,
        }
    }

    /// Returns the number of the newest version that was made. Making a version stores the previous one as an older
    /// version, and removes the oldest.
    fn acknowledged(&self, described: Option<&SecretRecord>) -> u64 {
        let kept = self.older.iter().rev().find(|(_, trace)| !trace.is_deleted());
        let after_kept = kept.map_or(0, |(version, _)| version + 1);
        let Some(described) = described else {
            return after_kept;
        };
        let since = self.metadata.map_or(0, KeyHistory::changed_at);
        let mut removed = self.older.range(described.kept_from..);
        let is_behind = removed.any(|(_, trace)| trace.is_deleted() && trace.changed_at() > since);
        after_kept.max(described.version.saturating_add(u64::from(is_behind)))
    }

    /// Returns the remembered description of a version.
    fn description_of(&self, version: u64) -> Option<SecretRecord> {
        let trace = self.metadata?;
        let mut descriptions = trace
            .values_since_deletion()
            .filter_map(|bytes| described(&bytes));
        descriptions.find(|metadata| metadata.version == version)
    }

    /// Returns the oldest version that exists.
    fn oldest(&self) -> Option<u64> {
        let mut there = self.older.iter().filter(|(_, trace)| !trace.is_deleted());
        there.next().map(|(version, _)| *version)
    }

    /// Returns the versions before the kept one that still belong to the secret.
    fn keep_older(
        &self,
        metadata: &SecretRecord,
        decrypt: &Decrypt<'_>,
        damage: &mut Vec<(u64, What)>,
    ) -> Vec<Entry> {
        let mut kept = Vec::new();
        for (version, trace) in self
            .older
            .range(metadata.kept_from..metadata.version.max(metadata.kept_from))
        {
            if trace.is_deleted() {
                continue;
            }
            match self.old(*version, *trace, decrypt) {
                Some(Candidate {
                    record,
                    metadata: Some(metadata),
                    ..
                }) => kept.push(Entry {
                    key: stored::old_version(&self.uid, self.name, *version),
                    value: stored::encode(&OldVersion { metadata, record }),
                }),
                Some(_) | None => damage.push((*version, self.why_not(*trace, decrypt))),
            }
        }
        kept
    }

    /// Returns an older version if it authenticates as that version.
    fn old(&self, version: u64, trace: KeyHistory<'_>, decrypt: &Decrypt<'_>) -> Option<Candidate> {
        if trace.is_deleted() {
            return None;
        }
        trace.values_since_deletion().find_map(|bytes| {
            let OldVersion { metadata, record } = stored::decode(&bytes).ok()?;
            let sound = decrypt(&record)?;
            let is_it = (sound.version, metadata.version) == (version, version);
            is_it.then_some(Candidate {
                sound,
                record,
                metadata: Some(metadata),
            })
        })
    }

    fn why_not(&self, trace: KeyHistory<'_>, decrypt: &Decrypt<'_>) -> What {
        let Some(bytes) = trace.values_since_deletion().next() else {
            return What::Unreadable;
        };
        match stored::decode::<OldVersion>(&bytes) {
            Ok(older) => match decrypt(&older.record) {
                Some(sound) => What::AnotherVersion(sound.version),
                None => What::Unauthentic,
            },
            Err(_) => What::Description,
        }
    }

    /// Returns a number above every number that a version may have been given.
    fn beyond(&self, known: u64) -> u64 {
        known.saturating_add(margin(&self.salvage.log_damage()))
    }

    /// Returns the highest version number in the log, including deleted versions.
    fn highest(&self) -> u64 {
        let descriptions = self.metadata.into_iter().flat_map(KeyHistory::values);
        let described = descriptions.filter_map(|bytes| Some(described(&bytes)?.last_version()));
        let last = self.last_version.into_iter().flat_map(KeyHistory::values);
        let last = last.filter_map(|bytes| number(&bytes));
        let older = self.older.keys().copied();
        described.chain(last).chain(older).max().unwrap_or(0)
    }
}

/// Returns an upper bound of the number of versions that the lost parts of the log can have held.
pub(super) fn margin(log_damage: &LogDamage) -> u64 {
    let hidden = log_damage.bytes.saturating_add(log_damage.torn) / VERSION;
    MARGIN
        .saturating_add(hidden)
        .saturating_add(log_damage.missing_groups)
}

/// Decodes a secret's description; returns `None` when `bytes` are not a valid one.
fn described(bytes: &[u8]) -> Option<SecretRecord> {
    let record: SecretRecord = stored::decode(bytes).ok()?;
    stored::uid(&record.uid).map(|_| record)
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// Makes a description for a sound value whose description is lost or does not fit: the record contains everything that
/// decrypting needs.
fn made_up(sound: &Sound, described: Option<SecretRecord>, oldest: Option<u64>) -> SecretRecord {
    let now = Timestamp::from(SystemTime::now());
    let before = described.unwrap_or_else(|| SecretRecord {
        uid: Uid::generate().as_bytes().to_vec(),
        create_time: now,
        ..SecretRecord::default()
    });
    SecretRecord {
        version: sound.version,
        update_time: now,
        upstream_origins: sound
            .origins
            .iter()
            .map(|origin| origin.as_str().to_owned())
            .collect(),
        expires_at: sound.expiry.map_or(0, Expiry::seconds),
        kept_from: oldest.unwrap_or(sound.version).min(sound.version),
        last_version: 0,
        ..before
    }
}
