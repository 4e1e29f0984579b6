//! Ids of requests, so that a retry makes no second version.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use proto::SecretName;

use super::{
    VaultError, Writer, blocking,
    secrets::{Author, Put, SecretMetadata},
    stored::{self, RequestRecord, SecretRecord},
    workspaces::Found,
};
use crate::{
    crypto::fingerprint::Fingerprint,
    store::{Batch, Entry, Store},
};

/// How long an answer is kept for retries.
pub(super) const REMEMBERED: Duration = Duration::from_hours(24);
/// The longest id, in bytes.
const MAX_ID: usize = 128;
/// Entries that are looked at together when they are swept.
const SWEEP: usize = 512;

/// What a caller calls a request, so that it can be told from another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Box<str>);

/// The id is empty or too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request_id has 1 to {MAX_ID} bytes")]
pub struct RequestIdError;

impl RequestId {
    /// Any text of 1 to 128 bytes.
    pub fn parse(text: &str) -> Result<Self, RequestIdError> {
        match text.len() {
            1..=MAX_ID => Ok(Self(text.into())),
            _ => Err(RequestIdError),
        }
    }
}

/// What became of a request before.
pub(super) enum Before {
    /// Nothing, or it was too long ago, or the caller did not give it an id.
    New(Option<NewRequest>),
    /// This was answered to it.
    Answered(Put),
}

/// A request that was not answered yet: where its answer is to be kept, and what tells it from another one of its id.
pub(super) struct NewRequest {
    key: Vec<u8>,
    fingerprint: Fingerprint,
    outdated: Option<Vec<u8>>,
}

impl Before {
    /// Looks whether the request was answered before. Another request of its id is refused.
    ///
    /// An id belongs to the principal that chose it. Another one could otherwise find out by trying whether a value is
    /// the one that was put: only the same request is answered.
    pub(super) fn of(
        store: &Store,
        found: &Found,
        name: &SecretName,
        author: &Author,
        request: Option<(&RequestId, Fingerprint)>,
        now: SystemTime,
    ) -> Result<Self, VaultError> {
        let Some((RequestId(id), fingerprint)) = request else {
            return Ok(Self::New(None));
        };
        let mut new = NewRequest {
            key: stored::request(&found.uid, &author.principal.to_string(), id),
            fingerprint,
            outdated: None,
        };
        let Some(bytes) = store.read(&new.key)? else {
            return Ok(Self::New(Some(new)));
        };
        let RequestRecord {
            time,
            kek_id,
            fingerprint,
            created,
            secret,
        } = stored::decode(&bytes)?;
        if is_outdated(time, now) {
            new.outdated = Some(bytes);
            return Ok(Self::New(Some(new)));
        }
        let same_key = new.fingerprint.key().as_bytes() == kek_id.as_slice();
        if !same_key || !new.fingerprint.matches(&fingerprint) {
            return Err(VaultError::RequestIdReused);
        }
        let secret = SecretMetadata::new(&found.name, name, secret, now)?;
        Ok(Self::Answered(Put { secret, created }))
    }
}

impl NewRequest {
    /// Keeps the answer with what the request changes.
    pub(super) fn remember(
        self,
        batch: Batch,
        secret: SecretRecord,
        created: bool,
        now: SystemTime,
    ) -> Batch {
        let Self {
            key,
            fingerprint,
            outdated,
        } = self;
        let record = RequestRecord {
            time: now.into(),
            kek_id: fingerprint.key().as_bytes().to_vec(),
            fingerprint: fingerprint.to_bytes().to_vec(),
            created,
            secret,
        };
        let batch = match outdated {
            Some(bytes) => batch.expect_value(key.clone(), bytes),
            None => batch.expect_absent(key.clone()),
        };
        batch.put(key, stored::encode(&record))
    }
}

/// What comes from the future does not: the clock was set back a little.
fn is_outdated(time: Timestamp, now: SystemTime) -> bool {
    match SystemTime::try_from(time) {
        Ok(time) => now.duration_since(time).is_ok_and(|age| age >= REMEMBERED),
        Err(_) => true,
    }
}

impl Writer {
    /// Forgets requests that are too old to be retried.
    pub(super) async fn sweep_requests(&self) -> Result<(), VaultError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let (store, now, from) = (self.store.clone(), (self.clock)(), after.take());
            let entries = blocking(move || store.scan(stored::REQUESTS, from.as_deref(), SWEEP)).await?;
            let Some(last) = entries.last() else {
                return Ok(());
            };
            after = Some(last.key.clone());
            let outdated = entries.into_iter().filter(|entry| {
                stored::decode::<RequestRecord>(&entry.value)
                    .map_or(true, |record| is_outdated(record.time, now))
            });
            let batch = outdated.fold(Batch::new(), |batch, Entry { key, value }| {
                batch.expect_value(key.clone(), value).delete(key)
            });
            match self.store.commit(batch).await.map_err(VaultError::from) {
                // One of the ids was just used again: the next sweep takes the others.
                Ok(()) | Err(VaultError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
