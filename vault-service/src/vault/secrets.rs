//! Secrets: put, listed, deleted. Nothing here can decrypt.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::SystemTime,
};

use prost_types::Timestamp;

use proto::{OriginPattern, Principal, SecretName, SecretValue, Uid, WorkspaceName, page::Page};

use super::{
    VaultError, Writer, blocking,
    labels::Labels,
    requests::{Before, RequestId},
    stored::{self, Kind, SecretRecord},
    uses::LastUse,
    versions::{Current, Successor},
    workspaces::{self, Found},
};
use crate::{
    authz::{ReadPermit, WritePermit},
    crypto::{
        WorkspaceKek,
        fingerprint::{Fingerprint, Fingerprinter},
        record::{self, Expiry, Terms},
    },
    store::{Batch, CommitError, Entry, Store},
};

/// The most origins that a value may be bound to.
pub const MAX_ORIGINS: usize = 16;
/// The most bytes of metadata on a page of secrets.
const PAGE_BYTES: usize = 1024 * 1024;
/// Entries that are read together for a page.
const TOGETHER: usize = 64;

/// What is put.
pub struct NewSecret {
    /// Its name.
    pub name: SecretName,
    /// Its value.
    pub value: SecretValue,
    /// Where the value may be sent, at most [`MAX_ORIGINS`]; empty means anywhere.
    pub upstream_origins: Vec<OriginPattern>,
    /// To sort secrets by.
    pub labels: Labels,
    /// When the value is gone; none means never.
    pub expiry: Option<Expiry>,
    /// The version that is to be replaced, 0 for none; any when it is not given.
    pub expected_version: Option<u64>,
    /// What the caller calls this put, when it may be tried again.
    pub request_id: Option<RequestId>,
}

/// What may be known of a secret, or of one of its versions.
#[derive(Debug, Clone, PartialEq)]
pub struct SecretMetadata {
    /// The workspace it is in.
    pub workspace: WorkspaceName,
    /// Its name.
    pub name: SecretName,
    /// Tells it from an earlier one of its name.
    pub uid: Uid,
    /// Counts up with every put.
    pub version: u64,
    /// When the name was first put.
    pub create_time: Timestamp,
    /// When this version was put.
    pub update_time: Timestamp,
    /// Where the value may be sent.
    pub upstream_origins: Vec<String>,
    /// To sort secrets by.
    pub labels: Labels,
    /// When this version is gone.
    pub expiry: Option<Expiry>,
    /// Whether it is already.
    pub expired: bool,
    /// What is known of its uses; none when it was never decrypted, and in the answer to a write.
    pub last_use: Option<LastUse>,
}

/// What a put or restore did.
#[derive(Debug, Clone, PartialEq)]
pub struct Put {
    /// The secret as it is now.
    pub secret: SecretMetadata,
    /// Whether the name is new.
    pub created: bool,
}

/// Whose request it is, and where.
#[derive(Clone)]
pub(super) struct Author {
    pub(super) workspace: WorkspaceName,
    pub(super) principal: Principal,
}

/// A write that only has to be committed, or was before.
pub(super) enum Prepared {
    /// This was answered to the same request.
    Answered(Put),
    /// This is to be done.
    Write {
        put: Put,
        batch: Batch,
        limit: Option<u64>,
    },
}

impl SecretMetadata {
    pub(super) fn new(
        workspace: &WorkspaceName,
        name: &SecretName,
        record: SecretRecord,
        now: SystemTime,
    ) -> Result<Self, VaultError> {
        let SecretRecord {
            uid,
            version,
            create_time,
            update_time,
            upstream_origins,
            expires_at,
            labels,
            kept_from: _,
            last_version: _,
        } = record;
        let uid = stored::uid(&uid).ok_or(VaultError::Corrupt(None))?;
        let expiry = Expiry::from_seconds(expires_at);
        Ok(Self {
            workspace: workspace.clone(),
            name: name.clone(),
            uid,
            version,
            create_time,
            update_time,
            upstream_origins,
            labels: Labels::stored(labels),
            expiry,
            expired: expiry.is_some_and(|expiry| expiry.has_passed(now)),
            last_use: None,
        })
    }
}

impl Author {
    pub(super) fn of(permit: &WritePermit) -> Self {
        Self {
            workspace: permit.workspace().clone(),
            principal: permit.principal().clone(),
        }
    }
}

impl NewSecret {
    /// Of all that makes one put another than the next.
    fn fingerprint(&self, kek: &WorkspaceKek) -> Fingerprint {
        let Self {
            name,
            value,
            upstream_origins,
            labels,
            expiry,
            expected_version,
            request_id: _,
        } = self;
        let mut print = Fingerprinter::new(kek)
            .field(b"put")
            .field(name.as_str().as_bytes())
            .value(value)
            .field(&expiry.map_or(0, Expiry::seconds).to_be_bytes())
            .field(&expected(*expected_version))
            .field(&(upstream_origins.len() as u64).to_be_bytes());
        for origin in upstream_origins {
            print = print.field(origin.as_str().as_bytes());
        }
        for (key, value) in labels.iter() {
            print = print.field(key.as_bytes()).field(value.as_bytes());
        }
        print.finish()
    }
}

/// An expected version as a field of a fingerprint.
pub(super) fn expected(version: Option<u64>) -> Vec<u8> {
    version.map_or_else(Vec::new, |version| version.to_be_bytes().to_vec())
}

impl Writer {
    /// Makes a secret, or a new version of it.
    pub async fn put_secret(&self, permit: &WritePermit, new: NewSecret) -> Result<Put, VaultError> {
        let (author, name) = (Author::of(permit), new.name.clone());
        self.make_version(permit, &name, move |writer| writer.prepare(&author, &new))
            .await
    }

    /// Runs what makes a version until it commits.
    pub(super) async fn make_version(
        &self,
        permit: &WritePermit,
        name: &SecretName,
        prepare: impl Fn(&Self) -> Result<Prepared, VaultError> + Send + Sync + 'static,
    ) -> Result<Put, VaultError> {
        let prepare = Arc::new(prepare);
        let _turn = self.turn(permit.workspace(), name).await;
        self.retrying(async || {
            let (writer, prepare) = (self.clone(), prepare.clone());
            let prepared = self.pool.run(permit.principal(), move || prepare(&writer));
            let (put, batch, limit) = match prepared.await?? {
                Prepared::Answered(put) => return Ok(put),
                Prepared::Write { put, batch, limit } => (put, batch, limit),
            };
            match self.store.commit(batch).await {
                Ok(()) => Ok(put),
                Err(CommitError::LimitReached) => Err(VaultError::PlanLimit {
                    workspace: permit.workspace().clone(),
                    limit: limit.unwrap_or(u64::MAX),
                }),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    fn prepare(&self, author: &Author, new: &NewSecret) -> Result<Prepared, VaultError> {
        let (store, now) = (&self.store, (self.clock)());
        let found = workspaces::find(store, &author.workspace)?;
        let kek = self.keyring.open(&found.uid, &found.record.wrapped_kek)?;
        let request = new.request_id.as_ref().map(|id| (id, new.fingerprint(&kek)));
        let terms = Terms {
            origins: &new.upstream_origins,
            expiry: new.expiry,
        };
        let request = match Before::of(store, &found, author, request, now)? {
            Before::Done(done) => {
                let put = done.answer(&found, &new.name, &terms, new.labels.clone(), now)?;
                return Ok(Prepared::Answered(put));
            }
            Before::New(request) => request,
        };
        let before = Current::read(store, &found, &new.name)?;
        let version = before.as_ref().map_or(0, Current::version);
        check_version(version, new.expected_version)?;
        check_expiry(new.expiry, now)?;
        let successor = Successor::of(store, &found, &new.name, before)?;
        let encrypted = record::encrypt(&kek, &successor.place(), &terms, &new.value)?;
        successor.write(encrypted, &terms, new.labels.clone(), request, now)
    }

    /// Shows what may be known of a secret.
    pub async fn secret(&self, permit: &ReadPermit, name: &SecretName) -> Result<SecretMetadata, VaultError> {
        let _still = self.uses.still().await;
        let (writer, workspace, name) = (self.clone(), permit.workspace().clone(), name.clone());
        blocking(move || {
            let found = workspaces::find(&writer.store, &workspace)?;
            match writer.store.read(&Kind::Metadata.key(&found.uid, &name))? {
                Some(bytes) => writer.shown(&found, &name, &bytes),
                None => Err(VaultError::NoSecret(workspace, name)),
            }
        })
        .await
    }

    /// A page of a workspace's secrets, and whether more follow.
    pub async fn secrets(
        &self,
        permit: &ReadPermit,
        page: Page,
    ) -> Result<(Vec<SecretMetadata>, bool), VaultError> {
        let _still = self.uses.still().await;
        let (writer, workspace) = (self.clone(), permit.workspace().clone());
        blocking(move || {
            let found = workspaces::find(&writer.store, &workspace)?;
            let prefix = Kind::Metadata.of(&found.uid);
            let after = page
                .after
                .as_ref()
                .map(|name| [prefix.as_slice(), name.as_bytes()].concat());
            let (entries, more) = scan_page(&writer.store, &prefix, after.as_deref(), page.size)?;
            let shown = entries.into_iter().map(|entry| {
                let name = entry
                    .key
                    .get(prefix.len()..)
                    .and_then(|name| str::from_utf8(name).ok());
                let name = name
                    .and_then(|name| SecretName::parse(name).ok())
                    .ok_or(VaultError::Corrupt(None))?;
                writer.shown(&found, &name, &entry.value)
            });
            Ok((shown.collect::<Result<_, _>>()?, more))
        })
        .await
    }

    fn shown(&self, found: &Found, name: &SecretName, bytes: &[u8]) -> Result<SecretMetadata, VaultError> {
        let record = stored::decode(bytes)?;
        Ok(SecretMetadata {
            last_use: self.uses.of(&self.store, &found.uid, name)?,
            ..SecretMetadata::new(&found.name, name, record, (self.clock)())?
        })
    }

    /// Deletes a secret with all its versions, and keeps its last version number, so that it is not used again.
    pub async fn delete_secret(
        &self,
        permit: &WritePermit,
        name: &SecretName,
        expected_version: Option<u64>,
    ) -> Result<(), VaultError> {
        let _turn = self.turn(permit.workspace(), name).await;
        let _still = self.uses.still().await;
        self.retrying(async || {
            let (store, workspace, name) = (self.store.clone(), permit.workspace().clone(), name.clone());
            let now = (self.clock)();
            let (uid, batch) = blocking({
                let name = name.clone();
                move || {
                    let found = workspaces::find(&store, &workspace)?;
                    let Some(current) = Current::read(&store, &found, &name)? else {
                        return Err(VaultError::NoSecret(workspace, name));
                    };
                    check_version(current.version(), expected_version)?;
                    let batch = current.delete(&store, &found, &name, now)?;
                    Ok((found.uid, batch))
                }
            })
            .await?;
            self.store.commit(batch).await?;
            self.uses.forget(&uid, &name);
            Ok(())
        })
        .await
    }

    /// Waits for other writes of the same secret. Only saves them failing each other's compare-and-set.
    async fn turn(
        &self,
        workspace: &WorkspaceName,
        name: &SecretName,
    ) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        (workspace, name).hash(&mut hasher);
        let stripe = usize::try_from(hasher.finish() % 1024).unwrap_or(0);
        match self.stripes.get(stripe) {
            Some(lock) => Some(lock.lock().await),
            None => None,
        }
    }
}

/// The version is the one that the caller knows, if he says so.
pub(super) fn check_version(current: u64, expected: Option<u64>) -> Result<(), VaultError> {
    match expected {
        Some(expected) if expected != current => Err(VaultError::VersionMismatch { current, expected }),
        Some(_) | None => Ok(()),
    }
}

/// A version that is gone at once would be a mistake.
pub(super) fn check_expiry(expiry: Option<Expiry>, now: SystemTime) -> Result<(), VaultError> {
    match expiry {
        Some(expiry) if expiry.has_passed(now) => Err(VaultError::AlreadyExpired),
        Some(_) | None => Ok(()),
    }
}

/// Returns the entries of a page of at most `size`, and true when more entries follow. Uses little more memory than the
/// page, however large the entries are that do not fit.
fn scan_page(
    store: &Store,
    prefix: &[u8],
    after: Option<&[u8]>,
    size: usize,
) -> Result<(Vec<Entry>, bool), VaultError> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let limit = (size + 1 - entries.len()).min(TOGETHER);
        let after = entries.last().map(|entry| entry.key.as_slice()).or(after);
        let read = store.scan(prefix, after, limit)?;
        let is_end = read.len() < limit;
        entries.extend(read);
        let fit = fitting(&entries).min(size);
        let more = entries.len() > fit;
        if more || is_end {
            entries.truncate(fit);
            return Ok((entries, more));
        }
    }
}

/// How many entries fit on one page: one always does.
fn fitting(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let fit = entries
        .iter()
        .take_while(|entry| {
            bytes += entry.key.len() + entry.value.len();
            bytes <= PAGE_BYTES
        })
        .count();
    fit.max(1)
}
