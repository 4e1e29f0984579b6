//! Decrypting, for who holds a permit.

use std::{sync::Arc, time::SystemTime};

use proto::{OriginPattern, SecretName, SecretValue, Uid, vault::v1::ValueFacts};

use super::{
    ATTEMPTS, Clock, VaultError,
    keyring::Keyring,
    pool::Pool,
    stored::{self, Kind},
    uses::Uses,
    workspaces::Found,
};
use crate::{
    authz::DecryptPermit,
    crypto::{DecryptionError, WorkspaceKek, record},
    store::Store,
};

/// The most names in one decrypt.
pub const MAX_NAMES: usize = 64;
/// The most bytes of values in one answer.
pub const MAX_ANSWER: usize = 1024 * 1024;

/// What is to be decrypted.
#[derive(Debug)]
pub struct Wanted {
    /// That it may be, and in which workspace.
    pub permit: DecryptPermit,
    /// The workspace that the caller knows; another one of its name does not count.
    pub workspace_uid: Option<Uid>,
    /// The secrets; no two the same, at most [`MAX_NAMES`].
    pub names: Vec<SecretName>,
    /// True when the caller wants to know only whether the values can be decrypted. Each value is then decrypted and
    /// wiped at once, and the total size of the values is not limited.
    pub check_only: bool,
    /// The server that the values are for, as the injector names it.
    pub server: String,
}

/// What became of one name.
#[derive(Debug)]
pub enum Decrypted {
    /// Here it is.
    Value {
        /// The version that it is.
        version: u64,
        /// Where it may be sent; empty means anywhere.
        origins: Vec<OriginPattern>,
        /// The value; `None` when the caller asked only for a check.
        value: Option<SecretValue>,
        /// The facts about the value; only when the caller asked for a check.
        facts: Option<ValueFacts>,
    },
    /// There is no such secret.
    NotFound,
    /// There is one, and it has expired.
    Expired,
    /// The record is damaged, cannot be read any more, or is not where it belongs.
    DataLoss,
    /// The record names a key that is not loaded.
    KeyNotLoaded,
}

impl Decrypted {
    /// Wipes the value, and keeps the facts about it.
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

    /// Returns the size of the value in bytes.
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

/// The most names that are decrypted without a hop, and the most bytes of their records: some 200 µs of a thread that
/// others wait for.
const AT_ONCE: (usize, usize) = (32, 64 * 1024);

/// Number of names, and bytes of their records, after which a reading thread turns to another principal. This work
/// takes a few milliseconds, unless the disk is slow. A single decrypt may exceed the limit.
const UNIT: (usize, usize) = (MAX_NAMES, 256 * 1024);

/// What a decrypt answers: the workspace's uid, and its secrets in the order asked.
type Answer = Result<(Uid, Vec<Decrypted>), VaultError>;

/// Where records are read.
enum From<'b> {
    /// The store, whose reads may wait for the disk. The number counts the bytes that were read.
    Store(&'b mut usize),
    /// From what was read lately, while so many bytes are left.
    Recent(&'b mut usize),
}

/// Why there is no answer.
enum Missed {
    /// A record was not read lately, or there is more to do than may be done at once.
    NotRecent,
    /// The workspace was changed after it was read and before its records were.
    Changed,
    /// The answer is this.
    Failed(VaultError),
}

impl<E: Into<VaultError>> std::convert::From<E> for Missed {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// What the store has of a secret.
enum Stored {
    Record(Arc<[u8]>),
    None,
    /// What cannot be read any more.
    Damaged,
}

/// Decrypts. Clones share the threads.
#[derive(Clone)]
pub struct Reader {
    shelf: Arc<Shelf>,
    pool: Arc<Pool>,
}

struct Shelf {
    store: Store,
    keyring: Arc<Keyring>,
    clock: Clock,
    uses: Arc<Uses>,
}

impl Reader {
    pub(super) fn new(store: Store, keyring: Arc<Keyring>, clock: Clock, uses: Arc<Uses>) -> Self {
        let shelf = Arc::new(Shelf {
            store,
            keyring,
            clock,
            uses,
        });
        Self {
            shelf,
            pool: Arc::new(Pool::start("reader")),
        }
    }

    /// Decrypts the first of `wanted`, and as many of the following ones as one turn allows: at once when the records
    /// are cached, otherwise on a reading thread. Returns at least one answer, in the order of `wanted`; the caller
    /// asks again for the rest. All of `wanted` must belong to the same principal.
    pub async fn decrypt(&self, wanted: Vec<Arc<Wanted>>) -> Vec<Answer> {
        let Some(first) = wanted.first().cloned() else {
            return Vec::new();
        };
        let answers = self.shelf.all_at_once(&wanted);
        if !answers.is_empty() {
            return answers;
        }
        let shelf = self.shelf.clone();
        let unit = move || shelf.unit(&wanted);
        let answers = self.pool.run(first.permit.principal(), unit).await;
        answers.unwrap_or_else(|error| vec![Err(error)])
    }
}

impl Shelf {
    /// Returns the answers up to the first that would need the disk or take too long.
    fn all_at_once(&self, wanted: &[Arc<Wanted>]) -> Vec<Answer> {
        let mut left = AT_ONCE;
        let answers = wanted.iter().map_while(|wanted| self.at_once(wanted, &mut left));
        answers.collect()
    }

    /// Returns the first answers, within the names and bytes of [`UNIT`].
    fn unit(&self, wanted: &[Arc<Wanted>]) -> Vec<Answer> {
        let (mut names, mut bytes) = (0, 0);
        let mut answers = Vec::new();
        for wanted in wanted {
            names += wanted.names.len();
            answers.push(self.waiting(wanted, &mut bytes));
            if names >= UNIT.0 || bytes >= UNIT.1 {
                break;
            }
        }
        answers
    }

    /// The answer, however long it takes.
    fn waiting(&self, wanted: &Wanted, read: &mut usize) -> Answer {
        for _ in 0..ATTEMPTS {
            match self.decrypt(From::Store(read), wanted) {
                Ok(answer) => return Ok(answer),
                Err(Missed::Failed(error)) => return Err(error),
                // Only what was to be there already can be missed.
                Err(Missed::NotRecent) => return Err(VaultError::Stopped),
                Err(Missed::Changed) => {}
            }
        }
        Err(VaultError::Conflict)
    }

    /// The answer, if it takes no disk and not too long; what may still be done at once is `left`.
    fn at_once(&self, wanted: &Wanted, (names, bytes): &mut (usize, usize)) -> Option<Answer> {
        *names = names.checked_sub(wanted.names.len())?;
        match self.decrypt(From::Recent(bytes), wanted) {
            Ok(answer) => Some(Ok(answer)),
            Err(Missed::Failed(error)) => Some(Err(error)),
            Err(Missed::NotRecent | Missed::Changed) => None,
        }
    }

    fn decrypt(&self, mut from: From<'_>, wanted: &Wanted) -> Result<(Uid, Vec<Decrypted>), Missed> {
        let name = wanted.permit.workspace();
        let Some(found) = self.read(&mut from, &stored::workspace(name))? else {
            return Err(VaultError::NoWorkspace(name.clone()).into());
        };
        let found = Found::decode(name.clone(), found.to_vec())?;
        if wanted.workspace_uid.is_some_and(|uid| uid != found.uid) {
            return Err(VaultError::WorkspaceReplaced(found.name).into());
        }
        if wanted.names.is_empty() {
            return Ok((found.uid, Vec::new()));
        }
        let mut records = Vec::with_capacity(wanted.names.len());
        for name in &wanted.names {
            let secret = stored::secret(&found.uid, name);
            let record = self.record(&mut from, name, &Kind::Record.under(&secret))?;
            records.push((secret, record));
        }
        let kek = self.keyring.open(&found.uid, &found.record.wrapped_kek)?;
        let now = (self.clock)();
        let mut size = 0;
        let mut decrypted = Vec::with_capacity(wanted.names.len());
        for (name, (_, record)) in wanted.names.iter().zip(&records) {
            let one = match record {
                Stored::Record(record) => self.one(&from, &found, &kek, name, record, now)?,
                Stored::None => Decrypted::NotFound,
                Stored::Damaged => Decrypted::DataLoss,
            };
            let one = match wanted.check_only {
                true => one.checked(),
                false => one,
            };
            size += one.size();
            if size > MAX_ANSWER {
                return Err(VaultError::AnswerTooLarge.into());
            }
            decrypted.push(one);
        }
        if !wanted.check_only {
            self.count(&wanted.server, now, &records, &decrypted);
        }
        Ok((found.uid, decrypted))
    }

    /// Counts what is given as used.
    fn count<R>(&self, server: &str, now: SystemTime, secrets: &[(Vec<u8>, R)], decrypted: &[Decrypted]) {
        for ((secret, _), one) in secrets.iter().zip(decrypted) {
            match one {
                Decrypted::Value { .. } => self.uses.touch(secret, server, now),
                Decrypted::NotFound | Decrypted::Expired | Decrypted::DataLoss | Decrypted::KeyNotLoaded => {}
            }
        }
    }

    /// Damage costs the secrets that it is in, and not those that are asked for with them.
    fn record(&self, from: &mut From<'_>, name: &SecretName, key: &[u8]) -> Result<Stored, Missed> {
        match self.read(from, key) {
            Ok(Some(record)) => Ok(Stored::Record(record)),
            Ok(None) => Ok(Stored::None),
            Err(Missed::Failed(VaultError::Read(fault))) if fault.is_damage() => {
                tracing::error!(cause = %fault, secret = %name, "a stored record cannot be read");
                Ok(Stored::Damaged)
            }
            Err(missed) => Err(missed),
        }
    }

    fn read(&self, from: &mut From<'_>, key: &[u8]) -> Result<Option<Arc<[u8]>>, Missed> {
        match from {
            From::Store(read) => {
                let value = self.store.read_and_cache(key)?;
                **read += value.as_ref().map_or(0, |value| value.len());
                Ok(value)
            }
            From::Recent(left) => {
                let value = self.store.cached(key).ok_or(Missed::NotRecent)?;
                **left = left.checked_sub(value.len()).ok_or(Missed::NotRecent)?;
                Ok(Some(value))
            }
        }
    }

    fn one(
        &self,
        from: &From<'_>,
        found: &Found,
        kek: &WorkspaceKek,
        name: &SecretName,
        bytes: &[u8],
        now: SystemTime,
    ) -> Result<Decrypted, Missed> {
        let opened = match record::decrypt(kek, &found.uid, name, bytes) {
            Err(DecryptionError::UnknownKey(id)) => match found.retired(id) {
                Some(retired) => {
                    record::decrypt(&*self.keyring.open(&found.uid, retired)?, &found.uid, name, bytes)
                }
                None => return self.unknown(from, found),
            },
            opened => opened,
        };
        Ok(match opened {
            // Looked at every time, whatever was read lately: only the bytes are.
            Ok(record::DecryptedRecord {
                expiry: Some(expiry), ..
            }) if expiry.has_passed(now) => Decrypted::Expired,
            Ok(record::DecryptedRecord {
                version,
                expiry: _,
                origins,
                value,
            }) => Decrypted::Value {
                version,
                origins,
                value: Some(value),
                facts: None,
            },
            Err(DecryptionError::UnknownKey(_)) => Decrypted::KeyNotLoaded,
            Err(DecryptionError::Corrupt(cause)) => {
                tracing::error!(%cause, secret = %name, "a stored record is damaged");
                Decrypted::DataLoss
            }
        })
    }

    /// A record under a key that the workspace did not have when it was read: it may have been given one since.
    fn unknown(&self, from: &From<'_>, found: &Found) -> Result<Decrypted, Missed> {
        match from {
            From::Recent(_) => Err(Missed::NotRecent),
            From::Store(_) => match self.store.read(&stored::workspace(&found.name))? {
                Some(now) if now == found.bytes => Ok(Decrypted::KeyNotLoaded),
                Some(_) | None => Err(Missed::Changed),
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
        workspaces,
    };

    /// What a decrypt finds that read the workspace, and its record only after the workspace was rotated and all of it moved.
    #[tokio::test]
    async fn a_record_under_a_key_that_came_after_the_workspace_was_read_is_read_again_with_it() {
        let vault = Fixture::with_workspace(Plan::Free).await;
        vault.put("T", b"value").await.unwrap();
        let name = proto::WorkspaceName::parse("w").unwrap();
        let store = &vault.writer.store;
        let before = workspaces::find(store, &name).unwrap();
        let shelf = &vault.reader.shelf;
        let kek = shelf
            .keyring
            .open(&before.uid, &before.record.wrapped_kek)
            .unwrap();
        let permit = vault.writer.operator_permit().unwrap();
        vault.writer.rotate_workspace_key(&permit, &name).await.unwrap();
        vault.put("T", b"value").await.unwrap();
        let key = Kind::Record.key(&before.uid, &secret("T"));
        let record = store.read(&key).unwrap().unwrap();
        let now = SystemTime::now();
        let open = |from: &From<'_>, found: &Found| shelf.one(from, found, &kek, &secret("T"), &record, now);
        assert!(matches!(
            open(&From::Store(&mut 0), &before),
            Err(Missed::Changed)
        ));
        // Nothing that may wait for the disk is asked where none may.
        let mut left = 0;
        assert!(matches!(
            open(&From::Recent(&mut left), &before),
            Err(Missed::NotRecent)
        ));
        // Read again, the workspace has no such key either: here, for the one that was handed in is the old one.
        let after = workspaces::find(store, &name).unwrap();
        assert!(matches!(
            open(&From::Store(&mut 0), &after),
            Ok(Decrypted::KeyNotLoaded)
        ));
    }
}
