//! Conclusions about one secret from its entries in the log.
//!
//! A change of a secret is written to several entries, so a partly lost change can be recognized:
//!
//! | metadata `s/` | record `r/` | last version `v/` | conclusion about the secret |
//! |---|---|---|---|
//! | version n | version n | - | exists |
//! | version n | an older version, or none | - | has lost version n; the newest version that authenticates is left |
//! | an older version, or none | version n | - | exists; its metadata is lost |
//! | up to n, or none | up to n, or none | n | is deleted |
//! | version > n | version > n | n | was created again |
//! | deleted | deleted | - | is deleted, and its last version number is lost |
//! | deleted last | exists | - | may be deleted; the same when the record was deleted last |
//!
//! A change can be lost without a trace only when at least as many unreadable messages as the change consists of were
//! written after everything that is known of the secret. Such a secret may be older than acknowledged, or deleted.

use std::{collections::BTreeMap, time::SystemTime};

use prost_types::Timestamp;
use proto::{OriginPattern, SecretName, Uid};

use super::DamageKind;
use crate::{
    crypto::record::Expiry,
    store::{Entry, KeyHistory, LogDamage, SalvageReader},
    vault::stored::{self, Kind, OldVersion, StoredMetadata},
};

/// Minimum number of log messages that a put writes: one for the metadata and one for the record.
const PUT: u64 = 2;
/// Minimum number of log messages that a deletion writes: one for the metadata and one for the record. In a
/// workspace with many deleted secrets, a deletion may write no message for the last version number.
const DELETION: u64 = 2;
/// Number of version numbers to skip when newer versions may be lost, in addition to one for every [`VERSION`]
/// unreadable bytes.
const MARGIN: u64 = 1000;
/// Lower bound of the log bytes that a version takes.
const VERSION: u64 = 128;

/// The contents of an authentic record, without the value.
pub(super) struct AuthenticContents {
    pub(super) version: u64,
    pub(super) expiry: Option<Expiry>,
    pub(super) origins: Vec<OriginPattern>,
}

/// Function that decrypts a record; returns `None` when the record is not authentic for the secret.
pub(super) type Decrypt<'a> = dyn Fn(&[u8]) -> Option<AuthenticContents> + 'a;

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

pub(super) enum Verdict {
    /// The secret is deleted; `is_known` is true when its last version number is known.
    Deleted {
        is_known: bool,
    },
    /// The secret may be deleted; the content is what is left of the secret if it is not.
    Doubtful(Option<Box<SalvagedSecret>>),
    Lost {
        version: Option<u64>,
        kind: DamageKind,
    },
    Kept(Box<SalvagedSecret>),
}

/// A secret of which a version authenticates.
pub(super) struct SalvagedSecret {
    pub(super) metadata: StoredMetadata,
    pub(super) record: Vec<u8>,
    pub(super) older: Vec<Entry>,
    /// Damage of the secret's versions, by version number.
    pub(super) damage: Vec<(u64, DamageKind)>,
}

/// A version that authenticates.
struct Candidate {
    contents: AuthenticContents,
    record: Vec<u8>,
    /// Metadata of the version; `None` for the current version.
    metadata: Option<StoredMetadata>,
}

impl<'a> Evidence<'a> {
    pub(super) fn of(salvage: &'a SalvageReader, uid: Uid, name: &'a SecretName) -> Self {
        let history = |kind: Kind| salvage.history(&kind.key(&uid, name));
        let prefix = [Kind::OldVersion.key(&uid, name).as_slice(), &[0]].concat();
        let older = salvage.keys(&prefix).into_iter().filter_map(|key| {
            let version = key.strip_prefix(prefix.as_slice())?.try_into().ok()?;
            Some((u64::from_be_bytes(version), salvage.history(key)?))
        });
        Self {
            salvage,
            uid,
            name,
            metadata: history(Kind::Metadata),
            record: history(Kind::Record),
            last_version: history(Kind::LastVersion),
            older: older.collect(),
        }
    }

    /// Returns true when the secret has metadata or a record, and no last version number, which only deleted
    /// secrets have.
    pub(super) fn seems_alive(&self) -> bool {
        let is_there =
            |history: &Option<KeyHistory<'_>>| history.is_some_and(|history| !history.is_deleted());
        !is_there(&self.last_version) && (is_there(&self.metadata) || is_there(&self.record))
    }

    /// Returns true when a put of the secret may be lost that came after everything known of it.
    pub(super) fn may_have_changed(&self) -> bool {
        self.salvage.may_hide(PUT, self.confirmed_at())
    }

    /// Returns true when a deletion of the secret may be lost that came after everything known of it.
    pub(super) fn may_be_deleted(&self) -> bool {
        self.salvage.may_hide(DELETION, self.confirmed_at())
    }

    /// Returns the position in the log that last confirms the secret's state. Any existing entry can confirm it,
    /// because puts and deletions change each of these entries.
    fn confirmed_at(&self) -> u64 {
        let changed = [self.metadata, self.record, self.last_version];
        let there = changed
            .into_iter()
            .flatten()
            .filter(|history| !history.is_deleted());
        there.map(KeyHistory::confirmed_at).max().unwrap_or(0)
    }

    pub(super) fn judge(&self, decrypt: &Decrypt<'_>) -> Verdict {
        let current = self.current(decrypt);
        let described = self.described();
        let newest = [
            current.as_ref().map(|found| found.contents.version),
            described.as_ref().map(|it| it.version),
        ];
        let newest = newest.into_iter().flatten().max();
        if self.is_tombstoned(newest) {
            return Verdict::Deleted {
                is_known: self.tombstone().is_some(),
            };
        }
        match (self.deleted_at(self.metadata), self.deleted_at(self.record)) {
            (Some(metadata), Some(record)) => self.both_deleted(metadata.max(record)),
            (Some(deleted), None) | (None, Some(deleted)) if self.is_last(deleted) => {
                match self.find_best(current, described, decrypt) {
                    Verdict::Kept(kept) => Verdict::Doubtful(Some(kept)),
                    Verdict::Deleted { .. } | Verdict::Doubtful(_) | Verdict::Lost { .. } => {
                        Verdict::Doubtful(None)
                    }
                }
            }
            (Some(_), None) | (None, Some(_)) | (None, None) => self.find_best(current, described, decrypt),
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
    fn is_tombstoned(&self, newest: Option<u64>) -> bool {
        let is_there = self.last_version.is_some_and(|history| !history.is_deleted());
        is_there && newest.is_none_or(|newest| self.tombstone().is_some_and(|last| newest <= last))
    }

    /// Returns the position in the log at which the entry was deleted; `None` when the entry is not deleted.
    fn deleted_at(&self, history: Option<KeyHistory<'a>>) -> Option<u64> {
        history
            .filter(|history| history.is_deleted())
            .map(KeyHistory::changed_at)
    }

    /// Returns true when the existing metadata or record was written before `deleted`, the position of the other
    /// one's deletion.
    fn is_last(&self, deleted: u64) -> bool {
        let written = [self.metadata, self.record].into_iter().flatten();
        let mut written = written.filter(|history| !history.is_deleted());
        written.all(|history| history.changed_at() < deleted)
    }

    /// Decides about a secret whose metadata and record are deleted. The secret is lost when its last version number
    /// was deleted later, because only making the secret again deletes that number; otherwise the secret is deleted.
    fn both_deleted(&self, at: u64) -> Verdict {
        match self.deleted_at(self.last_version).is_some_and(|gone| gone > at) {
            true => Verdict::Lost {
                version: None,
                kind: DamageKind::Unreadable,
            },
            false => Verdict::Deleted { is_known: false },
        }
    }

    fn tombstone(&self) -> Option<u64> {
        let history = self.last_version.filter(|history| !history.is_deleted())?;
        decode_number(&history.values().next()?)
    }

    fn described(&self) -> Option<StoredMetadata> {
        let history = self.metadata.filter(|history| !history.is_deleted())?;
        history
            .values_since_deletion()
            .find_map(|bytes| decode_metadata(&bytes))
    }

    fn current(&self, decrypt: &Decrypt<'_>) -> Option<Candidate> {
        let history = self.record.filter(|history| !history.is_deleted())?;
        history.values_since_deletion().find_map(|record| {
            let sound = decrypt(&record)?;
            Some(Candidate {
                contents: sound,
                record,
                metadata: None,
            })
        })
    }

    /// Returns the newest version that authenticates.
    fn find_best(
        &self,
        current: Option<Candidate>,
        described: Option<StoredMetadata>,
        decrypt: &Decrypt<'_>,
    ) -> Verdict {
        let older = || {
            self.older
                .iter()
                .rev()
                .find_map(|(version, history)| self.old_version(*version, *history, decrypt))
        };
        let best = match (current, &described) {
            (Some(current), Some(described)) if current.contents.version >= described.version => {
                Some(current)
            }
            (Some(current), None) => Some(current),
            (Some(current), Some(_)) => match older() {
                Some(older) if older.contents.version > current.contents.version => Some(older),
                Some(_) | None => Some(current),
            },
            (None, _) => older(),
        };
        match (best, described) {
            (Some(best), described) => Verdict::Kept(Box::new(self.salvage_from(best, described, decrypt))),
            (None, Some(described)) => Verdict::Lost {
                version: Some(described.version),
                kind: self.record_damage(),
            },
            (None, None) => Verdict::Lost {
                version: None,
                kind: self.record_damage(),
            },
        }
    }

    fn record_damage(&self) -> DamageKind {
        let is_there = |history: Option<KeyHistory<'_>>| history.is_some_and(|history| !history.is_deleted());
        match (is_there(self.record), is_there(self.metadata)) {
            (true, _) => DamageKind::Unauthentic,
            (false, true) => DamageKind::Unreadable,
            (false, false) => DamageKind::Metadata,
        }
    }

    fn salvage_from(
        &self,
        best: Candidate,
        described: Option<StoredMetadata>,
        decrypt: &Decrypt<'_>,
    ) -> SalvagedSecret {
        let version = best.contents.version;
        let acknowledged = self.acknowledged(described.as_ref()).max(version);
        let mut damage = Vec::new();
        let found = best.metadata.clone().or_else(|| self.metadata_of(version));
        let (mut metadata, is_described) = match found {
            Some(metadata) => (metadata, true),
            None => (
                substitute_metadata(&best.contents, described, self.oldest()),
                false,
            ),
        };
        if acknowledged > version {
            damage.push((version, DamageKind::Older(acknowledged)));
        }
        if !is_described {
            damage.push((version, DamageKind::Undescribed));
        }
        let may_be_older = self.may_have_changed();
        if may_be_older {
            damage.push((version, DamageKind::MaybeOlder));
        }
        if may_be_older || acknowledged > version {
            metadata.last_version = self.beyond(self.highest().max(version));
        }
        let older = self.keep_older(&metadata, decrypt, &mut damage);
        SalvagedSecret {
            metadata,
            record: best.record,
            older,
            damage,
        }
    }

    /// Returns the number of the newest version that was made. Making a version stores the previous one as an older
    /// version, and removes the oldest.
    fn acknowledged(&self, described: Option<&StoredMetadata>) -> u64 {
        let kept = self.older.iter().rev().find(|(_, history)| !history.is_deleted());
        let after_kept = kept.map_or(0, |(version, _)| version + 1);
        let Some(described) = described else {
            return after_kept;
        };
        let since = self.metadata.map_or(0, KeyHistory::changed_at);
        let mut removed = self.older.range(described.kept_from..);
        let is_behind = removed.any(|(_, history)| history.is_deleted() && history.changed_at() > since);
        after_kept.max(described.version.saturating_add(u64::from(is_behind)))
    }

    /// Returns the remembered metadata of a version.
    fn metadata_of(&self, version: u64) -> Option<StoredMetadata> {
        let history = self.metadata?;
        let mut remembered = history
            .values_since_deletion()
            .filter_map(|bytes| decode_metadata(&bytes));
        remembered.find(|metadata| metadata.version == version)
    }

    /// Returns the oldest version that exists.
    fn oldest(&self) -> Option<u64> {
        let mut there = self.older.iter().filter(|(_, history)| !history.is_deleted());
        there.next().map(|(version, _)| *version)
    }

    /// Returns the versions before the kept one that still belong to the secret.
    fn keep_older(
        &self,
        metadata: &StoredMetadata,
        decrypt: &Decrypt<'_>,
        damage: &mut Vec<(u64, DamageKind)>,
    ) -> Vec<Entry> {
        let mut kept = Vec::new();
        for (version, history) in self
            .older
            .range(metadata.kept_from..metadata.version.max(metadata.kept_from))
        {
            if history.is_deleted() {
                continue;
            }
            match self.old_version(*version, *history, decrypt) {
                Some(Candidate {
                    record,
                    metadata: Some(metadata),
                    ..
                }) => kept.push(Entry {
                    key: stored::old_version(&self.uid, self.name, *version),
                    value: stored::encode(&OldVersion { metadata, record }),
                }),
                Some(_) | None => damage.push((*version, self.old_version_damage(*history, decrypt))),
            }
        }
        kept
    }

    /// Returns an older version if it authenticates as that version.
    fn old_version(&self, version: u64, history: KeyHistory<'_>, decrypt: &Decrypt<'_>) -> Option<Candidate> {
        if history.is_deleted() {
            return None;
        }
        history.values_since_deletion().find_map(|bytes| {
            let OldVersion { metadata, record } = stored::decode(&bytes).ok()?;
            let sound = decrypt(&record)?;
            let is_it = (sound.version, metadata.version) == (version, version);
            is_it.then_some(Candidate {
                contents: sound,
                record,
                metadata: Some(metadata),
            })
        })
    }

    fn old_version_damage(&self, history: KeyHistory<'_>, decrypt: &Decrypt<'_>) -> DamageKind {
        let Some(bytes) = history.values_since_deletion().next() else {
            return DamageKind::Unreadable;
        };
        match stored::decode::<OldVersion>(&bytes) {
            Ok(older) => match decrypt(&older.record) {
                Some(sound) => DamageKind::AnotherVersion(sound.version),
                None => DamageKind::Unauthentic,
            },
            Err(_) => DamageKind::Metadata,
        }
    }

    /// Returns a number above every number that a version may have been given.
    fn beyond(&self, known: u64) -> u64 {
        known.saturating_add(margin(&self.salvage.log_damage()))
    }

    /// Returns the highest version number in the log, including deleted versions.
    fn highest(&self) -> u64 {
        let remembered = self.metadata.into_iter().flat_map(KeyHistory::values);
        let described = remembered.filter_map(|bytes| Some(decode_metadata(&bytes)?.last_version()));
        let last = self.last_version.into_iter().flat_map(KeyHistory::values);
        let last = last.filter_map(|bytes| decode_number(&bytes));
        let older = self.older.keys().copied();
        described.chain(last).chain(older).max().unwrap_or(0)
    }
}

/// Returns an upper bound of the number of versions that the lost parts of the log can have held.
pub(super) fn margin(log_damage: &LogDamage) -> u64 {
    let hidden = log_damage.gap_bytes.saturating_add(log_damage.torn_bytes) / VERSION;
    MARGIN
        .saturating_add(hidden)
        .saturating_add(log_damage.missing_groups)
}

/// Decodes the metadata of a secret; returns `None` when `bytes` are not valid.
fn decode_metadata(bytes: &[u8]) -> Option<StoredMetadata> {
    let record: StoredMetadata = stored::decode(bytes).ok()?;
    stored::uid(&record.uid).map(|_| record)
}

fn decode_number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// Makes metadata for a sound value whose metadata is lost or belongs to another version. The record contains
/// everything that a decrypt needs.
fn substitute_metadata(
    contents: &AuthenticContents,
    described: Option<StoredMetadata>,
    oldest: Option<u64>,
) -> StoredMetadata {
    let now = Timestamp::from(SystemTime::now());
    let before = described.unwrap_or_else(|| StoredMetadata {
        uid: Uid::generate().as_bytes().to_vec(),
        create_time: now,
        ..StoredMetadata::default()
    });
    StoredMetadata {
        version: contents.version,
        update_time: now,
        upstream_origins: stored::origins(&contents.origins),
        expires_at: contents.expiry.map_or(0, Expiry::seconds),
        kept_from: oldest.unwrap_or(contents.version).min(contents.version),
        last_version: 0,
        ..before
    }
}
