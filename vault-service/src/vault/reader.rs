//! Decrypting for the holder of a [`DecryptPermit`].
//!
//! A decrypt first tries the store's cache on the calling thread. When a record is not cached, or there is more to do than a
//! thread of the runtime should do at once, a pool thread reads the store, which may wait for the disk.

use std::{sync::Arc, time::SystemTime};

use proto::{OriginPattern, SecretName, SecretValue, ServerName, Uid, vault::v1::ValueFacts};

use super::{
    VaultError,
    clock::Clock,
    keyring::Keyring,
    limits::{ATTEMPTS, MAX_ANSWER, MAX_NAMES},
    stored::{self, Kind},
    use_counts::UseCounters,
    worker_pool::WorkerPool,
    workspace::StoredWorkspace,
};
use crate::{
    authz::DecryptPermit,
    crypto::{DecryptionError, WorkspaceKek, record},
    store::Store,
};

/// Limits of the work on the calling thread, some 200 µs: names, and bytes of their records.
const INLINE_LIMIT: (usize, usize) = (32, 64 * 1024);
/// Number of names, and bytes of their records, after which a pool thread turns to another principal. This work
/// takes a few milliseconds, unless the disk is slow. A single decrypt may exceed the limit.
const TURN_LIMIT: (usize, usize) = (MAX_NAMES, 256 * 1024);

#[derive(Debug)]
pub struct DecryptQuery {
    /// Proof of the authorization; the secrets are those of its workspace.
    pub permit: DecryptPermit,
    /// Uid that the workspace must have; `None` accepts any.
    pub workspace_uid: Option<Uid>,
    /// Names of the secrets, at most [`MAX_NAMES`] and all different.
    pub names: Vec<SecretName>,
    /// True when the caller wants to know only whether the values can be decrypted. Each value is then decrypted and
    /// wiped at once, and the total size of the values is not limited.
    pub check_only: bool,
    /// The server that the values are for, if the injector names one.
    pub server: Option<ServerName>,
}

impl DecryptQuery {
    /// Returns the name of the server, or an empty text.
    pub(crate) fn server_text(&self) -> &str {
        self.server.as_ref().map_or("", ServerName::as_str)
    }
}

#[derive(Debug)]
pub enum DecryptOutcome {
    Value {
        version: u64,
        /// Origins that the value may be sent to; empty means any origin.
        origins: Vec<OriginPattern>,
        /// `None` when the caller asked only for a check.
        value: Option<SecretValue>,
        /// `None` unless the caller asked only for a check.
        facts: Option<ValueFacts>,
    },
    NotFound,
    Expired,
    /// The record is damaged, cannot be read, or belongs to another place.
    DataLoss,
    /// The record needs a KEK that the workspace does not have.
    KeyNotLoaded,
}

impl DecryptOutcome {
    /// Replaces the value by the facts about it, and wipes the value.
    fn checked(self) -> Self {
        match self {
            Self::Value {
                version,
                origins,
                value,
                facts: _,
            } => Self::Value {
                version,
                origins,
                facts: value.map(|value| value.facts()),
                value: None,
            },
            other @ (Self::NotFound | Self::Expired | Self::DataLoss | Self::KeyNotLoaded) => other,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Value {
                value: Some(value), ..
            } => value.expose().len(),
            Self::Value { value: None, .. }
            | Self::NotFound
            | Self::Expired
            | Self::DataLoss
            | Self::KeyNotLoaded => 0,
        }
    }
}

/// Answer to a query: the workspace's uid, and one outcome for each name, in the same order.
type QueryResult = Result<(Uid, Vec<DecryptOutcome>), VaultError>;

enum ReadSource<'b> {
    /// The store, whose reads may wait for the disk. The number counts the bytes that were read.
    Store(&'b mut usize),
    /// The store's cache. The number is the size of the records that may still be read.
    Cache(&'b mut usize),
}

/// Reason for which a query has no answer.
enum ReadFailure {
    /// A record is not in the cache, or the records exceed the limit.
    NotCached,
    /// The workspace was changed between its read and the reads of its records.
    WorkspaceChanged,
    /// The error is the answer.
    Failed(VaultError),
}

impl<E: Into<VaultError>> From<E> for ReadFailure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

enum StoredRecord {
    Record(Arc<[u8]>),
    None,
    /// The store cannot read the record.
    Damaged,
}

/// Decrypts secrets. Clones share the pool threads.
#[derive(Clone)]
pub struct Reader {
    decryptor: Arc<Decryptor>,
    workers: Arc<WorkerPool>,
}

struct Decryptor {
    store: Store,
    keyring: Arc<Keyring>,
    clock: Clock,
    use_counters: Arc<UseCounters>,
}

impl Reader {
    pub(super) fn new(
        store: Store,
        keyring: Arc<Keyring>,
        clock: Clock,
        use_counters: Arc<UseCounters>,
    ) -> Self {
        Self {
            decryptor: Arc::new(Decryptor {
                store,
                keyring,
                clock,
                use_counters,
            }),
            workers: Arc::new(WorkerPool::start("reader")),
        }
    }

    /// Decrypts the first of `queries`, and as many of the following ones as one turn allows: at once when the records
    /// are cached, otherwise on a pool thread. Returns at least one answer, in the order of `queries`; the caller
    /// asks again for the rest. All of `queries` must belong to the same principal.
    pub async fn decrypt(&self, queries: Vec<Arc<DecryptQuery>>) -> Vec<QueryResult> {
        let Some(first) = queries.first().cloned() else {
            return Vec::new();
        };
        let answers = self.decryptor.answer_from_cache(&queries);
        if !answers.is_empty() {
            return answers;
        }
        let decryptor = self.decryptor.clone();
        let turn = move || decryptor.answer_one_turn(&queries);
        let answers = self.workers.run(first.permit.principal(), turn).await;
        answers.unwrap_or_else(|error| vec![Err(error)])
    }
}

impl Decryptor {
    /// Returns the answers before the first query that would need the disk or take too long.
    fn answer_from_cache(&self, queries: &[Arc<DecryptQuery>]) -> Vec<QueryResult> {
        let mut left = INLINE_LIMIT;
        let answers = queries.iter().map_while(|query| self.try_cache(query, &mut left));
        answers.collect()
    }

    /// Returns the first answers, within [`TURN_LIMIT`].
    fn answer_one_turn(&self, queries: &[Arc<DecryptQuery>]) -> Vec<QueryResult> {
        let (mut names, mut bytes) = (0, 0);
        let mut answers = Vec::new();
        for query in queries {
            names += query.names.len();
            answers.push(self.answer(query, &mut bytes));
            if names >= TURN_LIMIT.0 || bytes >= TURN_LIMIT.1 {
                break;
            }
        }
        answers
    }

    /// Answers a query from the store, and adds the number of bytes to `read`.
    fn answer(&self, query: &DecryptQuery, read: &mut usize) -> QueryResult {
        for _ in 0..ATTEMPTS {
            match self.decrypt(ReadSource::Store(read), query) {
                Ok(answer) => return Ok(answer),
                Err(ReadFailure::Failed(error)) => return Err(error),
                // Only reads from the cache fail like this.
                Err(ReadFailure::NotCached) => return Err(VaultError::Stopped),
                Err(ReadFailure::WorkspaceChanged) => {}
            }
        }
        Err(VaultError::Conflict)
    }

    /// Answers a query from the cache; returns `None` when that is not possible, or exceeds the limits that are left.
    fn try_cache(&self, query: &DecryptQuery, (names, bytes): &mut (usize, usize)) -> Option<QueryResult> {
        *names = names.checked_sub(query.names.len())?;
        match self.decrypt(ReadSource::Cache(bytes), query) {
            Ok(answer) => Some(Ok(answer)),
            Err(ReadFailure::Failed(error)) => Some(Err(error)),
            Err(ReadFailure::NotCached | ReadFailure::WorkspaceChanged) => None,
        }
    }

    fn decrypt(
        &self,
        mut source: ReadSource<'_>,
        query: &DecryptQuery,
    ) -> Result<(Uid, Vec<DecryptOutcome>), ReadFailure> {
        let name = query.permit.workspace();
        let Some(found) = self.read(&mut source, &stored::workspace(name))? else {
            return Err(VaultError::NoWorkspace(name.clone()).into());
        };
        let found = StoredWorkspace::decode(name.clone(), found.to_vec())?;
        if query.workspace_uid.is_some_and(|uid| uid != found.uid) {
            return Err(VaultError::WorkspaceReplaced(found.name).into());
        }
        if query.names.is_empty() {
            return Ok((found.uid, Vec::new()));
        }
        let mut records = Vec::with_capacity(query.names.len());
        for name in &query.names {
            let secret = stored::secret(&found.uid, name);
            let record = self.read_record(&mut source, name, &Kind::Record.under(&secret))?;
            records.push((secret, record));
        }
        let kek = self.keyring.open(&found.uid, &found.record.wrapped_kek)?;
        let now = (self.clock)();
        let mut size = 0;
        let mut outcomes = Vec::with_capacity(query.names.len());
        for (name, (_, record)) in query.names.iter().zip(&records) {
            let outcome = match record {
                StoredRecord::Record(record) => {
                    self.decrypt_record(&source, &found, &kek, name, record, now)?
                }
                StoredRecord::None => DecryptOutcome::NotFound,
                StoredRecord::Damaged => DecryptOutcome::DataLoss,
            };
            let outcome = match query.check_only {
                true => outcome.checked(),
                false => outcome,
            };
            size += outcome.size();
            if size > MAX_ANSWER {
                return Err(VaultError::AnswerTooLarge.into());
            }
            outcomes.push(outcome);
        }
        if !query.check_only {
            self.count_uses(query.server_text(), now, &records, &outcomes);
        }
        Ok((found.uid, outcomes))
    }

    fn count_uses<R>(
        &self,
        server: &str,
        now: SystemTime,
        secrets: &[(Vec<u8>, R)],
        outcomes: &[DecryptOutcome],
    ) {
        for ((secret, _), outcome) in secrets.iter().zip(outcomes) {
            match outcome {
                DecryptOutcome::Value { .. } => self.use_counters.count(secret, server, now),
                DecryptOutcome::NotFound
                | DecryptOutcome::Expired
                | DecryptOutcome::DataLoss
                | DecryptOutcome::KeyNotLoaded => {}
            }
        }
    }

    /// Reads a record. Damage of one record does not fail the query, because its other secrets are readable.
    fn read_record(
        &self,
        source: &mut ReadSource<'_>,
        name: &SecretName,
        key: &[u8],
    ) -> Result<StoredRecord, ReadFailure> {
        match self.read(source, key) {
            Ok(Some(record)) => Ok(StoredRecord::Record(record)),
            Ok(None) => Ok(StoredRecord::None),
            Err(ReadFailure::Failed(VaultError::Read(fault))) if fault.is_damage() => {
                tracing::error!(cause = %fault, secret = %name, "a stored record cannot be read");
                Ok(StoredRecord::Damaged)
            }
            Err(failure) => Err(failure),
        }
    }

    fn read(&self, source: &mut ReadSource<'_>, key: &[u8]) -> Result<Option<Arc<[u8]>>, ReadFailure> {
        match source {
            ReadSource::Store(read) => {
                let value = self.store.read_and_cache(key)?;
                **read += value.as_ref().map_or(0, |value| value.len());
                Ok(value)
            }
            ReadSource::Cache(left) => {
                let value = self.store.cached(key).ok_or(ReadFailure::NotCached)?;
                **left = left.checked_sub(value.len()).ok_or(ReadFailure::NotCached)?;
                Ok(Some(value))
            }
        }
    }

    fn decrypt_record(
        &self,
        source: &ReadSource<'_>,
        found: &StoredWorkspace,
        kek: &WorkspaceKek,
        name: &SecretName,
        bytes: &[u8],
        now: SystemTime,
    ) -> Result<DecryptOutcome, ReadFailure> {
        let decrypted = match record::decrypt(kek, &found.uid, name, bytes) {
            Err(DecryptionError::UnknownKey(id)) => match found.retired_kek(id) {
                Some(retired) => {
                    record::decrypt(&*self.keyring.open(&found.uid, retired)?, &found.uid, name, bytes)
                }
                None => return self.unknown_kek(source, found),
            },
            decrypted => decrypted,
        };
        Ok(match decrypted {
            // The expiry is checked at each decrypt, because the cache has only the encrypted record.
            Ok(record::DecryptedRecord {
                expiry: Some(expiry), ..
            }) if expiry.has_passed(now) => DecryptOutcome::Expired,
            Ok(record::DecryptedRecord {
                version,
                expiry: _,
                origins,
                value,
            }) => DecryptOutcome::Value {
                version,
                origins,
                value: Some(value),
                facts: None,
            },
            Err(DecryptionError::UnknownKey(_)) => DecryptOutcome::KeyNotLoaded,
            Err(DecryptionError::Corrupt(cause)) => {
                tracing::error!(%cause, secret = %name, "a stored record is damaged");
                DecryptOutcome::DataLoss
            }
        })
    }

    /// Handles a record under a KEK that `found` does not have. A rotation may have added the KEK since `found` was read.
    fn unknown_kek(
        &self,
        source: &ReadSource<'_>,
        found: &StoredWorkspace,
    ) -> Result<DecryptOutcome, ReadFailure> {
        match source {
            ReadSource::Cache(_) => Err(ReadFailure::NotCached),
            ReadSource::Store(_) => match self.store.read(&stored::workspace(&found.name))? {
                Some(now) if now == found.bytes => Ok(DecryptOutcome::KeyNotLoaded),
                Some(_) | None => Err(ReadFailure::WorkspaceChanged),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::{
        Plan,
        stored::Kind,
        tests::{Fixture, secret},
        workspace,
    };

    /// A decrypt reads the workspace. Then a rotation moves all records to a new KEK, and the decrypt reads the record.
    #[tokio::test]
    async fn a_record_under_a_kek_newer_than_the_workspace_that_was_read_makes_the_decrypt_read_the_workspace_again()
     {
        let vault = Fixture::with_workspace(Plan::Free).await;
        vault.put("T", b"value").await.unwrap();
        let name = proto::WorkspaceName::parse("w").unwrap();
        let store = &vault.writer.store;
        let before = workspace::find(store, &name).unwrap();
        let decryptor = &vault.reader.decryptor;
        let kek = decryptor
            .keyring
            .open(&before.uid, &before.record.wrapped_kek)
            .unwrap();
        let permit = vault.writer.operator_permit().unwrap();
        vault.writer.rotate_workspace_key(&permit, &name).await.unwrap();
        vault.put("T", b"value").await.unwrap();
        let key = Kind::Record.key(&before.uid, &secret("T"));
        let record = store.read(&key).unwrap().unwrap();
        let now = SystemTime::now();
        let decrypt = |source: &ReadSource<'_>, found: &StoredWorkspace| {
            decryptor.decrypt_record(source, found, &kek, &secret("T"), &record, now)
        };
        assert!(matches!(
            decrypt(&ReadSource::Store(&mut 0), &before),
            Err(ReadFailure::WorkspaceChanged)
        ));
        // A decrypt from the cache does not read the workspace again, because the read might wait for the disk.
        let mut left = 0;
        assert!(matches!(
            decrypt(&ReadSource::Cache(&mut left), &before),
            Err(ReadFailure::NotCached)
        ));
        // Read again, the workspace is unchanged, so the KEK that the record needs does not exist.
        let after = workspace::find(store, &name).unwrap();
        assert!(matches!(
            decrypt(&ReadSource::Store(&mut 0), &after),
            Ok(DecryptOutcome::KeyNotLoaded)
        ));
    }
}
