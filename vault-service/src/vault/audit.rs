//! Reading a whole store that may be damaged: what is in it and authenticates, and what is lost.
//!
//! Nothing here hands out a value. Records are opened to see whether they open, and what was in them is wiped.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use prost_types::Timestamp;
use proto::{SecretName, Uid, WorkspaceName};
use tokio::runtime::Runtime;

use super::{
    FORMAT, OpenError, hex, initial,
    keyring::Keyring,
    secrets::SecretMetadata,
    stored::{self, Kind, Meta},
    workspaces::Found,
};
use crate::{
    crypto::{self, RootKey, WorkspaceKek, record},
    store::{self, Batch, Entry, Salvage, Store},
};

/// Bytes of entries that are written to the new store at once.
const BATCH: usize = 256 * 1024;

/// Why a store cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Not even a copy of it opens.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// It is not of this root key or release.
    #[error(transparent)]
    Vault(#[from] OpenError),
    /// The new store could not be written.
    #[error("the new store could not be written")]
    Write(#[from] store::CommitError),
}

/// Something that is damaged or gone. Shows as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The workspace: its name or, when that is lost, its uid.
    pub workspace: String,
    /// The secret, unless it is the workspace itself.
    pub name: Option<SecretName>,
    /// The version, if it is known.
    pub version: Option<u64>,
    /// What is the matter.
    pub what: What,
}

/// What is the matter with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum What {
    /// Its description does not decode.
    #[error("its description is damaged")]
    Description,
    /// The key of a workspace.
    #[error("its key does not open: all its secrets are lost")]
    Key,
    /// The record is gone or in a part of the store that cannot be read.
    #[error("its value cannot be read")]
    Unreadable,
    /// The record is not authentic.
    #[error("its value does not authenticate")]
    Unauthentic,
    /// The value belongs to another version than its description.
    #[error("its value is of version {0}")]
    AnotherVersion(u64),
    /// The value is fine.
    #[error("its description is lost, its value is not")]
    Undescribed,
    /// The workspace is gone, and with it the key.
    #[error("its workspace is lost")]
    NoWorkspace,
    /// The last version number of a deleted secret.
    #[error("it is deleted, and its last version number is lost")]
    LastVersion,
    /// More secrets were counted than were found.
    #[error("{0} more secrets were in it, whose names cannot be read")]
    Nameless(u64),
    /// Fewer were counted.
    #[error("its secrets are miscounted")]
    Miscounted,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            workspace,
            name,
            version,
            what,
        } = self;
        f.write_str(workspace)?;
        if let Some(name) = name {
            write!(f, "/{name}")?;
        }
        if let Some(version) = version {
            write!(f, " version {version}")?;
        }
        write!(f, ": {what}")
    }
}

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Workspaces whose keys open.
    pub workspaces: u64,
    /// Secrets whose values authenticate.
    pub secrets: u64,
    /// Lines of damage.
    pub damaged: u64,
    /// Parts of the store that cannot be read.
    pub gaps: u64,
    /// Why the vault would not open the store, if it would not.
    pub refusal: Option<String>,
}

impl Report {
    /// Whether nothing at all is the matter.
    pub fn is_sound(&self) -> bool {
        self.damaged == 0 && self.gaps == 0 && self.refusal.is_none()
    }
}

/// A store to be read, and the key for it.
pub struct Audit {
    salvage: Salvage,
    keyring: Keyring,
    meta: Meta,
}

/// A workspace whose key opens.
struct Opened {
    name: WorkspaceName,
    kek: Arc<WorkspaceKek>,
    secrets: u64,
}

/// What takes part in one reading.
struct Walk<'a> {
    audit: &'a Audit,
    workspaces: HashMap<Uid, Opened>,
    deleted: HashSet<Uid>,
    report: Report,
    damaged: &'a mut dyn FnMut(&Damage),
    keep: &'a mut dyn FnMut(Entry),
}

impl Audit {
    /// Copies the store in `dir` into `scratch` and opens the copy. The store itself stays as it is. Blocking.
    pub fn open(dir: &Path, scratch: &Path, cache_bytes: u64, root: RootKey) -> Result<Self, AuditError> {
        let salvage = Salvage::open(dir, scratch, cache_bytes)?;
        let meta = match salvage.read(stored::META) {
            Ok(Some(bytes)) => check(stored::decode(&bytes).map_err(OpenError::Corrupt)?, &root)?,
            // All else may still be there.
            Ok(None) | Err(_) => initial(&root),
        };
        Ok(Self {
            salvage,
            keyring: Keyring::new(root),
            meta,
        })
    }

    /// Reads everything, and names what is damaged. Blocking.
    pub fn verify(&self, mut damaged: impl FnMut(&Damage)) -> Report {
        self.walk(&mut damaged, &mut |_: Entry| ())
    }

    /// Reads everything, writes what authenticates to `to`, which must be new, and names what is lost; closes `to`. Blocking, and not
    /// from within a runtime.
    pub fn repair(
        &self,
        to: Store,
        runtime: &Runtime,
        mut damaged: impl FnMut(&Damage),
    ) -> Result<Report, AuditError> {
        let mut writing = Writing {
            to: &to,
            runtime,
            batch: Batch::new(),
            bytes: 0,
            failed: None,
        };
        writing.put(Entry {
            key: stored::META.to_vec(),
            value: stored::encode(&self.meta),
        });
        let report = self.walk(&mut damaged, &mut |entry: Entry| writing.put(entry));
        writing.flush();
        if let Some(error) = writing.failed {
            return Err(error.into());
        }
        runtime.block_on(to.close())?;
        Ok(report)
    }

    fn walk(&self, damaged: &mut dyn FnMut(&Damage), keep: &mut dyn FnMut(Entry)) -> Report {
        let mut walk = Walk {
            audit: self,
            workspaces: HashMap::new(),
            deleted: HashSet::new(),
            report: Report {
                refusal: self.salvage.refusal().map(ToString::to_string),
                ..Report::default()
            },
            damaged,
            keep,
        };
        walk.each(stored::WORKSPACES, Walk::workspace);
        walk.each(stored::GARBAGE, Walk::garbage);
        walk.each(Kind::Metadata.prefix(), Walk::secret);
        walk.each(Kind::Record.prefix(), Walk::record_alone);
        walk.each(Kind::LastVersion.prefix(), Walk::last_version);
        walk.counts();
        walk.report
    }
}

/// A newer layout, or one of another key, would only look damaged.
fn check(meta: Meta, root: &RootKey) -> Result<Meta, OpenError> {
    if meta.format != FORMAT {
        return Err(OpenError::Format {
            found: meta.format,
            supported: FORMAT,
        });
    }
    if meta.root_key_id != root.id().as_bytes() {
        return Err(OpenError::OtherRootKey {
            given: root.id().to_string(),
            needed: hex(&meta.root_key_id),
        });
    }
    Ok(meta)
}

impl Walk<'_> {
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
        let Ok(found) = Found::decode(name.clone(), entry.value.clone()) else {
            return self.lost(&shown, None, None, What::Description);
        };
        match self.audit.keyring.open(&found.uid, &found.record.wrapped_kek) {
            Err(_) => self.lost(&shown, None, None, What::Key),
            Ok(kek) => {
                self.report.workspaces += 1;
                let opened = Opened {
                    name,
                    kek,
                    secrets: 0,
                };
                self.workspaces.insert(found.uid, opened);
                (self.keep)(entry);
            }
        }
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
        let shown = workspace.name.to_string();
        let metadata = SecretMetadata::decode(&workspace.name, name.clone(), &entry.value);
        let record = self.audit.salvage.read(&Kind::Record.key(&uid, &name));
        let (metadata, record) = match (metadata, record) {
            (Ok(metadata), Ok(Some(record))) => (metadata, record),
            (Ok(metadata), Ok(None) | Err(_)) => {
                return self.lost(&shown, Some(name), Some(metadata.version), What::Unreadable);
            }
            (Err(_), Ok(Some(record))) => return self.undescribed(uid, name, record),
            (Err(_), Ok(None) | Err(_)) => return self.lost(&shown, Some(name), None, What::Description),
        };
        match version(&workspace.kek, &uid, &name, &record) {
            Ok(version) if version == metadata.version => self.secret_kept(uid, &name, entry.value, record),
            Ok(version) => {
                self.lost(
                    &shown,
                    Some(name),
                    Some(metadata.version),
                    What::AnotherVersion(version),
                );
            }
            Err(_) => self.lost(&shown, Some(name), Some(metadata.version), What::Unauthentic),
        }
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
        let opened = record::decrypt(&workspace.kek, &uid, &name, &record);
        let Ok(record::Decrypted {
            version,
            origins,
            value: _,
        }) = opened
        else {
            return self.lost(&shown, Some(name), None, What::Unauthentic);
        };
        let now = Timestamp::from(SystemTime::now());
        let metadata = SecretMetadata {
            workspace: workspace.name.clone(),
            name: name.clone(),
            uid: Uid::generate(),
            version,
            create_time: now,
            update_time: now,
            upstream_origins: origins.iter().map(|origin| origin.as_str().to_owned()).collect(),
        };
        self.secret_kept(uid, &name, metadata.encode(), record);
        self.lost(&shown, Some(name), Some(version), What::Undescribed);
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
    fn place(&self, kind: Kind, key: &[u8]) -> Option<(Uid, SecretName)> {
        let (uid, name) = key.get(kind.prefix().len()..)?.split_first_chunk::<16>()?;
        let uid = Uid::from_bytes(*uid);
        let name = SecretName::parse(str::from_utf8(name).ok()?).ok()?;
        (!self.deleted.contains(&uid)).then_some((uid, name))
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

/// The version of a record that authenticates in this place. What it holds is wiped here.
fn version(
    kek: &WorkspaceKek,
    workspace: &Uid,
    name: &SecretName,
    record: &[u8],
) -> Result<u64, crypto::OpenError> {
    Ok(record::decrypt(kek, workspace, name, record)?.version)
}

/// Entries on their way into the new store.
struct Writing<'a> {
    to: &'a Store,
    runtime: &'a Runtime,
    batch: Batch,
    bytes: usize,
    failed: Option<store::CommitError>,
}

impl Writing<'_> {
    fn put(&mut self, Entry { key, value }: Entry) {
        self.bytes += key.len() + value.len();
        self.batch = std::mem::take(&mut self.batch).put(key, value);
        if self.bytes >= BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if self.failed.is_none() {
            self.failed = self.runtime.block_on(self.to.commit(batch)).err();
        }
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
