//! One reading of a whole store, kind by kind of its entries.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use prost_types::Timestamp;
use proto::{OriginPattern, SecretName, Uid, WorkspaceName};

use super::{Audit, Damage, Report, What};
use crate::{
    crypto::{
        WorkspaceKek,
        record::{self, Expiry},
    },
    store::Entry,
    vault::{
        VaultError,
        stored::{self, Kind, OldVersion, RequestRecords, Rotation, SecretRecord, UseRecord},
        workspaces::Found,
    },
};

/// How damage of the store key's rotation is named.
const STORE_KEY: &str = "store key";

/// A workspace whose key opens.
struct Opened {
    name: WorkspaceName,
    /// The active one, and those that are being rotated.
    keks: Vec<Arc<WorkspaceKek>>,
    /// Whether a rotation has still to move its records.
    rotates: bool,
    secrets: u64,
}

/// Where a secret is.
type Place = (Uid, SecretName);

/// What takes part in one reading.
pub(super) struct Walk<'a> {
    audit: &'a Audit,
    workspaces: HashMap<Uid, Opened>,
    deleted: HashSet<Uid>,
    /// Secrets whose current version is there, and damaged.
    lost: HashSet<Place>,
    /// Secrets in whose place an older version is kept.
    replaced: HashSet<Place>,
    /// The newest version so far of a secret whose current version is lost.
    newest: Option<(Place, OldVersion)>,
    report: Report,
    damaged: &'a mut dyn FnMut(&Damage),
    keep: &'a mut dyn FnMut(Entry),
}

impl<'a> Walk<'a> {
    pub(super) fn over(
        audit: &'a Audit,
        damaged: &'a mut dyn FnMut(&Damage),
        keep: &'a mut dyn FnMut(Entry),
    ) -> Report {
        let mut walk = Walk {
            audit,
            workspaces: HashMap::new(),
            deleted: HashSet::new(),
            lost: HashSet::new(),
            replaced: HashSet::new(),
            newest: None,
            report: Report {
                refusal: audit.salvage.refusal().map(ToString::to_string),
                ..Report::default()
            },
            damaged,
            keep,
        };
        walk.each(stored::WORKSPACES, Walk::workspace);
        walk.each(stored::GARBAGE, Walk::garbage);
        walk.each(Kind::Metadata.prefix(), Walk::secret);
        walk.each(Kind::Record.prefix(), Walk::record_alone);
        walk.each(Kind::OldVersion.prefix(), Walk::older);
        walk.replace();
        walk.each(Kind::Use.prefix(), Walk::uses);
        walk.each(Kind::LastVersion.prefix(), Walk::last_version);
        walk.each(Kind::VersionFloor.prefix(), Walk::version_floor);
        walk.each(Kind::Request.prefix(), Walk::request);
        walk.each(stored::ROTATIONS, Walk::rotation);
        walk.rotations();
        walk.counts();
        walk.report
    }

    fn each(&mut self, prefix: &[u8], mut one: impl FnMut(&mut Self, Entry)) {
        let audit = self.audit;
        let gaps = audit.salvage.each(prefix, |entry| one(self, entry));
        self.report.gaps += gaps;
    }

    fn workspace(&mut self, entry: Entry) {
        let shown = entry.key.get(stored::WORKSPACES.len()..).unwrap_or_default();
        let shown = String::from_utf8_lossy(shown).into_owned();
        let Ok(name) = WorkspaceName::parse(&shown) else {
            return self.lost(&shown, None, None, What::Description);
        };
        let Ok(found) = Found::decode(name.clone(), entry.value) else {
            return self.lost(&shown, None, None, What::Description);
        };
        let (uid, mut record) = (found.uid, found.record);
        let active = match self.audit.keyring.open(&uid, &record.wrapped_kek) {
            Ok(kek) => kek,
            Err(VaultError::KeyNotLoaded) => return self.lost(&shown, None, None, What::StoreKeyMissing),
            Err(_) => return self.lost(&shown, None, None, What::Key),
        };
        let mut keks = vec![active];
        for retired in std::mem::take(&mut record.retired_keks) {
            match self.audit.keyring.open(&uid, &retired.wrapped_kek) {
                Ok(kek) => {
                    keks.push(kek);
                    record.retired_keks.push(retired);
                }
                Err(VaultError::KeyNotLoaded) => self.lost(&shown, None, None, What::StoreKeyMissing),
                Err(_) => self.lost(&shown, None, None, What::RetiredKey),
            }
        }
        let rotates = !record.retired_keks.is_empty();
        // Its rotation begins anew.
        record.last_look = false;
        self.report.workspaces += 1;
        let opened = Opened {
            name,
            keks,
            rotates,
            secrets: 0,
        };
        self.workspaces.insert(uid, opened);
        (self.keep)(Entry {
            key: entry.key,
            value: stored::encode(&record),
        });
    }

    /// What is left of a deleted workspace is nobody's loss, and is not kept.
    fn garbage(&mut self, entry: Entry) {
        let uid = entry.key.get(stored::GARBAGE.len()..).and_then(stored::uid);
        self.deleted.extend(uid);
    }

    fn secret(&mut self, entry: Entry) {
        let Some((uid, name)) = self.place(Kind::Metadata, &entry.key) else {
            return;
        };
        let Some(workspace) = self.workspaces.get(&uid) else {
            return self.lost(&uid.to_string(), Some(name), None, What::NoWorkspace);
        };
        let record = self.audit.salvage.read(&Kind::Record.key(&uid, &name));
        let (metadata, record) = match (described(&entry.value), record) {
            (Some(metadata), Ok(Some(record))) => (metadata, record),
            (Some(metadata), Ok(None) | Err(_)) => {
                return self.secret_lost(uid, name, Some(metadata.version), What::Unreadable);
            }
            (None, Ok(Some(record))) => return self.undescribed(uid, name, record),
            (None, Ok(None) | Err(_)) => return self.secret_lost(uid, name, None, What::Description),
        };
        match workspace.decrypt(&uid, &name, &record) {
            Some(found) if found.version == metadata.version => {
                self.secret_kept(uid, &name, entry.value, record);
            }
            Some(found) => {
                let what = What::AnotherVersion(found.version);
                self.secret_lost(uid, name, Some(metadata.version), what);
            }
            None => self.secret_lost(uid, name, Some(metadata.version), What::Unauthentic),
        }
    }

    fn secret_lost(&mut self, uid: Uid, name: SecretName, version: Option<u64>, what: What) {
        let shown = self.shown(&uid);
        self.lost(&shown, Some(name.clone()), version, what);
        self.lost.insert((uid, name));
    }

    /// Of a record that has its description nothing more is to be said.
    fn record_alone(&mut self, entry: Entry) {
        let Some((uid, name)) = self.place(Kind::Record, &entry.key) else {
            return;
        };
        if let Ok(Some(_)) = self.audit.salvage.read(&Kind::Metadata.key(&uid, &name)) {
            return;
        }
        self.undescribed(uid, name, entry.value);
    }

    /// A value that is fine is worth more than what is known about it.
    fn undescribed(&mut self, uid: Uid, name: SecretName, record: Vec<u8>) {
        let Some(workspace) = self.workspaces.get(&uid) else {
            return self.lost(&uid.to_string(), Some(name), None, What::NoWorkspace);
        };
        let shown = workspace.name.to_string();
        let Some(found) = workspace.decrypt(&uid, &name, &record) else {
            return self.secret_lost(uid, name, None, What::Unauthentic);
        };
        let now = Timestamp::from(SystemTime::now());
        let metadata = SecretRecord {
            uid: Uid::generate().as_bytes().to_vec(),
            version: found.version,
            create_time: now,
            update_time: now,
            upstream_origins: stored::origins(&found.origins),
            expires_at: found.expiry.map_or(0, Expiry::seconds),
            labels: BTreeMap::new(),
            // As far back as any can be.
            kept_from: 1,
        };
        self.secret_kept(uid, &name, stored::encode(&metadata), record);
        self.lost(&shown, Some(name), Some(found.version), What::Undescribed);
    }

    fn secret_kept(&mut self, uid: Uid, name: &SecretName, metadata: Vec<u8>, record: Vec<u8>) {
        self.report.secrets += 1;
        if let Some(workspace) = self.workspaces.get_mut(&uid) {
            workspace.secrets += 1;
        }
        for (kind, value) in [(Kind::Metadata, metadata), (Kind::Record, record)] {
            let key = kind.key(&uid, name);
            (self.keep)(Entry { key, value });
        }
    }

    fn older(&mut self, entry: Entry) {
        let Some((place, version)) = self.place_of_older(&entry.key) else {
            return;
        };
        let (uid, name) = &place;
        let Some(workspace) = self.workspaces.get(uid) else {
            return self.lost(
                &uid.to_string(),
                Some(name.clone()),
                Some(version),
                What::NoWorkspace,
            );
        };
        let shown = workspace.name.to_string();
        let Ok(older) = stored::decode::<OldVersion>(&entry.value) else {
            return self.lost(&shown, Some(name.clone()), Some(version), What::Description);
        };
        let what = match workspace.decrypt(uid, name, &older.record) {
            Some(found) if (found.version, older.metadata.version) == (version, version) => None,
            Some(found) => Some(What::AnotherVersion(found.version)),
            None => Some(What::Unauthentic),
        };
        if let Some(what) = what {
            return self.lost(&shown, Some(name.clone()), Some(version), what);
        }
        if self.has_current(&place) {
            self.report.older += 1;
            return (self.keep)(entry);
        }
        // They come from the oldest to the newest.
        match self.newest.replace((place.clone(), older)) {
            Some((before, older)) if before == place => self.older_kept(&before, &older),
            Some(replaced) => self.replace_by(replaced),
            None => {}
        }
    }

    fn older_kept(&mut self, (uid, name): &Place, older: &OldVersion) {
        self.report.older += 1;
        (self.keep)(Entry {
            key: stored::old_version(uid, name, older.metadata.version),
            value: stored::encode(older),
        });
    }

    /// Of the secret that was looked at last.
    fn replace(&mut self) {
        if let Some(newest) = self.newest.take() {
            self.replace_by(newest);
        }
    }

    /// An older version is better than none.
    fn replace_by(&mut self, ((uid, name), newest): (Place, OldVersion)) {
        let shown = self.shown(&uid);
        let OldVersion { metadata, record } = newest;
        let version = metadata.version;
        self.secret_kept(uid, &name, stored::encode(&metadata), record);
        self.lost(&shown, Some(name.clone()), Some(version), What::Newest);
        self.replaced.insert((uid, name));
    }

    /// Whether the current version of a secret was found, and kept.
    fn has_current(&self, place: &Place) -> bool {
        let (uid, name) = place;
        let found = |kind: Kind| matches!(self.audit.salvage.read(&kind.key(uid, name)), Ok(Some(_)));
        !self.lost.contains(place) && (found(Kind::Record) || found(Kind::Metadata))
    }

    fn uses(&mut self, entry: Entry) {
        let Some(place) = self.place(Kind::Use, &entry.key) else {
            return;
        };
        if !self.replaced.contains(&place) && !self.has_current(&place) {
            return;
        }
        let Some(workspace) = self.workspaces.get(&place.0) else {
            return;
        };
        let shown = workspace.name.to_string();
        match stored::decode::<UseRecord>(&entry.value) {
            Ok(_) => (self.keep)(entry),
            Err(_) => self.lost(&shown, Some(place.1), None, What::Uses),
        }
    }

    fn last_version(&mut self, entry: Entry) {
        let Some((uid, name)) = self.place(Kind::LastVersion, &entry.key) else {
            return;
        };
        let shown = self
            .workspaces
            .get(&uid)
            .map(|workspace| workspace.name.to_string());
        match (shown, entry.value.len() == size_of::<u64>()) {
            (Some(_), true) => (self.keep)(entry),
            (Some(shown), false) => self.lost(&shown, Some(name), None, What::LastVersion),
            // That the workspace is lost was said of what is not deleted.
            (None, true | false) => {}
        }
    }

    fn version_floor(&mut self, entry: Entry) {
        let uid = entry
            .key
            .get(Kind::VersionFloor.prefix().len()..)
            .and_then(stored::uid);
        let workspace = uid.and_then(|uid| self.workspaces.get(&uid));
        let Some(shown) = workspace.map(|workspace| workspace.name.to_string()) else {
            return;
        };
        if entry.value.len() == size_of::<u64>() {
            (self.keep)(entry);
        } else {
            self.lost(&shown, None, None, What::LastVersion);
        }
    }

    fn request(&mut self, entry: Entry) {
        let uid = entry.key.get(stored::REQUESTS.len()..);
        let uid = uid
            .and_then(|rest| rest.first_chunk())
            .map(|uid| Uid::from_bytes(*uid));
        let Some(workspace) = uid.and_then(|uid| self.workspaces.get(&uid)) else {
            return;
        };
        let shown = workspace.name.to_string();
        match stored::decode::<RequestRecords>(&entry.value) {
            Ok(_) => (self.keep)(entry),
            Err(_) => self.lost(&shown, None, None, What::Request),
        }
    }

    fn rotation(&mut self, entry: Entry) {
        if stored::decode::<Rotation>(&entry.value).is_ok() {
            return;
        }
        let shown = match stored::uid_of_rotation(&entry.key) {
            Some(uid) => self.shown(&uid),
            None => STORE_KEY.to_owned(),
        };
        self.lost(&shown, None, None, What::Rotation);
    }

    /// Rotations begin anew where there is still something to be moved.
    fn rotations(&mut self) {
        let start_time = Timestamp::from(SystemTime::now());
        for (uid, workspace) in self.workspaces.iter().filter(|(_, workspace)| workspace.rotates) {
            let rotation = Rotation {
                workspace: workspace.name.to_string(),
                total: workspace.secrets,
                start_time,
                ..Rotation::default()
            };
            (self.keep)(Entry {
                key: stored::workspace_rotation(uid),
                value: stored::encode(&rotation),
            });
        }
    }

    /// Counts are made from what was found, and tell what was not.
    fn counts(&mut self) {
        let found: Vec<_> = self
            .workspaces
            .iter()
            .map(|(uid, workspace)| (*uid, workspace.name.to_string(), workspace.secrets))
            .collect();
        for (uid, shown, secrets) in found {
            let key = stored::count(&uid);
            let stored = match self.audit.salvage.read(&key) {
                Ok(None) => Some(0),
                Ok(Some(bytes)) => bytes.as_slice().try_into().map(u64::from_be_bytes).ok(),
                Err(_) => None,
            };
            match stored {
                Some(stored) if stored == secrets => {}
                Some(stored) if stored > secrets && self.report.gaps > 0 => {
                    self.lost(&shown, None, None, What::Nameless(stored - secrets));
                }
                Some(_) | None => self.lost(&shown, None, None, What::Miscounted),
            }
            if secrets > 0 {
                let value = secrets.to_be_bytes().to_vec();
                (self.keep)(Entry { key, value });
            }
        }
    }

    /// Whose entry this is; none for those of deleted workspaces and for keys that are none of ours.
    fn place(&self, kind: Kind, key: &[u8]) -> Option<Place> {
        let (uid, name) = key.get(kind.prefix().len()..)?.split_first_chunk::<16>()?;
        let uid = Uid::from_bytes(*uid);
        let name = SecretName::parse(str::from_utf8(name).ok()?).ok()?;
        (!self.deleted.contains(&uid)).then_some((uid, name))
    }

    /// The same of an older version, and which it is.
    fn place_of_older(&self, key: &[u8]) -> Option<(Place, u64)> {
        let (name, version) = key.split_last_chunk::<8>()?;
        let place = self.place(Kind::OldVersion, name.strip_suffix(&[0])?)?;
        Some((place, u64::from_be_bytes(*version)))
    }

    /// How a workspace is named.
    fn shown(&self, uid: &Uid) -> String {
        match self.workspaces.get(uid) {
            Some(workspace) => workspace.name.to_string(),
            None => uid.to_string(),
        }
    }

    fn lost(&mut self, workspace: &str, name: Option<SecretName>, version: Option<u64>, what: What) {
        self.report.damaged += 1;
        (self.damaged)(&Damage {
            workspace: workspace.to_owned(),
            name,
            version,
            what,
        });
    }
}

impl Opened {
    /// What a record says that authenticates in this place. What it holds is wiped here.
    fn decrypt(&self, uid: &Uid, name: &SecretName, bytes: &[u8]) -> Option<Sound> {
        let id = record::kek_id(bytes).ok()?;
        let kek = self.keks.iter().find(|kek| kek.id() == id)?;
        let record::Decrypted {
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

/// What an authentic record says beside its value.
struct Sound {
    version: u64,
    expiry: Option<Expiry>,
    origins: Vec<OriginPattern>,
}

/// A secret's description, if it is one.
fn described(bytes: &[u8]) -> Option<SecretRecord> {
    let record: SecretRecord = stored::decode(bytes).ok()?;
    stored::uid(&record.uid).map(|_| record)
}
