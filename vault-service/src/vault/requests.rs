//! Ids of requests, so that a retry makes no second version.
//!
//! A caller who may put can send any number of ids, so the vault remembers a bounded number of requests for each
//! workspace. A digest of the id spreads the requests over [`PARTS`] parts, and each part remembers the newest
//! [`OF_A_PART`] requests. So the vault needs no count or list of all requests, which every put of a workspace would
//! have to change. With 15,000 requests a day, a request is forgotten before its day is over about once in two years; a
//! retry comes within minutes.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

use proto::{Principal, SecretName};
use sha2::{Digest as _, Sha256};

use super::{
    VaultError, Writer, blocking,
    labels::Labels,
    secrets::{Author, Put, SecretMetadata},
    stored::{self, RequestRecord, RequestRecords, SecretRecord},
    workspaces::Found,
};
use crate::{
    crypto::{
        fingerprint::Fingerprint,
        record::{Expiry, Terms},
    },
    store::{Batch, Entry, Store},
};

/// How long an answer is kept for retries.
pub(super) const REMEMBERED: Duration = Duration::from_hours(24);
/// The longest id, in bytes.
const MAX_ID: usize = 128;
/// Number of parts of a workspace's requests.
const PARTS: u16 = 4096;
/// Number of requests that a part remembers, of about 110 bytes each. All parts of a workspace together remember 65,536
/// requests in 7 MiB.
pub(super) const OF_A_PART: usize = 16;
/// Entries that are looked at together when they are swept.
const SWEEP: usize = 256;

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

/// Tells the requests of a workspace from one another: the beginning of `SHA-256(principal 00 id)`.
///
/// An id belongs to the principal that chose it. Otherwise another principal could guess the value that was put: a
/// request with a used id is answered only when it has the same value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest([u8; 16]);

impl Digest {
    pub(super) fn of(principal: &Principal, RequestId(id): &RequestId) -> Self {
        // The byte 0 is an unambiguous separator, because no principal contains it.
        let hash: [u8; 32] = Sha256::new()
            .chain_update(principal.to_string())
            .chain_update([0])
            .chain_update(id.as_bytes())
            .finalize()
            .into();
        let (beginning, _) = hash.split_first_chunk().expect("32 bytes are more than 16");
        Self(*beginning)
    }

    /// Returns the number of the part that this request belongs to.
    pub(super) fn part(self) -> u16 {
        let [high, low, ..] = self.0;
        u16::from_be_bytes([high, low]) % PARTS
    }
}

/// What became of a request before.
pub(super) enum Before {
    /// Nothing, or it was too long ago, or the caller did not give it an id.
    New(Option<NewRequest>),
    /// The request was done before.
    Done(Done),
}

/// The effect of an earlier request that is made again.
pub(super) struct Done {
    /// The version that the request made.
    pub(super) version: u64,
    created: bool,
    uid: Vec<u8>,
    create_time: Timestamp,
    time: Timestamp,
}

impl Done {
    /// Makes the answer to a repeated put from the stored effect and the terms that the request itself contains.
    pub(super) fn answer(
        self,
        found: &Found,
        name: &SecretName,
        terms: &Terms<'_>,
        labels: Labels,
        now: SystemTime,
    ) -> Result<Put, VaultError> {
        let Self {
            version,
            created,
            uid,
            create_time,
            time,
        } = self;
        let record = SecretRecord {
            uid,
            version,
            create_time,
            update_time: time,
            upstream_origins: stored::origins(terms.origins),
            expires_at: terms.expiry.map_or(0, Expiry::seconds),
            labels: labels.into_map(),
            kept_from: version,
            last_version: 0,
        };
        let secret = SecretMetadata::new(&found.name, name, record, now)?;
        Ok(Put { secret, created })
    }
}

/// A request that was not answered yet, with its place in the store and the fingerprint that tells it from other
/// requests of the same id.
pub(super) struct NewRequest {
    digest: Digest,
    fingerprint: Fingerprint,
    key: Vec<u8>,
    /// Current value of the entry at `key`.
    bytes: Option<Vec<u8>>,
    others: Vec<RequestRecord>,
}

impl Before {
    /// Looks whether the request was answered before. Another request of its id is refused.
    pub(super) fn of(
        store: &Store,
        found: &Found,
        author: &Author,
        request: Option<(&RequestId, Fingerprint)>,
        now: SystemTime,
    ) -> Result<Self, VaultError> {
        let Some((id, fingerprint)) = request else {
            return Ok(Self::New(None));
        };
        let digest = Digest::of(&author.principal, id);
        let key = stored::requests(&found.uid, digest.part());
        let bytes = store.read(&key)?;
        let mut others = remembered(bytes.as_deref(), now);
        if let Some(at) = others.iter().position(|other| other.id == digest.0) {
            let RequestRecord {
                id: _,
                time,
                fingerprint: of_done,
                created,
                uid,
                version,
                create_time,
            } = others.swap_remove(at);
            // A fingerprint under a key that was rotated in the meantime does not match either.
            if !fingerprint.matches(&of_done) {
                return Err(VaultError::RequestIdReused);
            }
            return Ok(Self::Done(Done {
                version,
                created,
                uid,
                create_time,
                time,
            }));
        }
        Ok(Self::New(Some(NewRequest {
            digest,
            fingerprint,
            key,
            bytes,
            others,
        })))
    }
}

/// Returns the requests of one part that are not too old. Requests that do not decode count as forgotten: a retry of
/// such a request makes a second version.
fn remembered(bytes: Option<&[u8]>, now: SystemTime) -> Vec<RequestRecord> {
    let decoded = bytes.map(stored::decode::<RequestRecords>);
    let mut requests = match decoded {
        Some(Ok(RequestRecords { requests })) => requests,
        Some(Err(_)) | None => Vec::new(),
    };
    requests.retain(|request| !is_outdated(request.time, now));
    requests
}

impl NewRequest {
    /// Adds the request to the batch that makes its change, so that both are stored together. A full part forgets its
    /// oldest request.
    pub(super) fn remember(
        self,
        batch: Batch,
        secret: SecretRecord,
        created: bool,
        now: SystemTime,
    ) -> Batch {
        let Self {
            digest,
            fingerprint,
            key,
            bytes,
            others,
        } = self;
        let new = RequestRecord {
            id: digest.0.to_vec(),
            time: now.into(),
            fingerprint: fingerprint.to_bytes().to_vec(),
            created,
            uid: secret.uid,
            version: secret.version,
            create_time: secret.create_time,
        };
        let too_many = (others.len() + 1).saturating_sub(OF_A_PART);
        let requests = others.into_iter().skip(too_many).chain([new]).collect();
        let batch = match bytes {
            Some(bytes) => batch.expect_value(key.clone(), bytes),
            None => batch.expect_absent(key.clone()),
        };
        batch.put(key, stored::encode(&RequestRecords { requests }))
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
            let batch = entries
                .into_iter()
                .fold(Batch::new(), |batch, entry| swept(batch, entry, now));
            match self.store.commit(batch).await.map_err(VaultError::from) {
                // A conflict means that a new request has just changed one of the parts; the next sweep handles the
                // others.
                Ok(()) | Err(VaultError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Removes outdated requests from one part.
fn swept(batch: Batch, Entry { key, value }: Entry, now: SystemTime) -> Batch {
    let requests = remembered(Some(&value), now);
    let left = stored::encode(&RequestRecords { requests });
    if left == value {
        return batch;
    }
    let batch = batch.expect_value(key.clone(), value);
    if left.is_empty() {
        batch.delete(key)
    } else {
        batch.put(key, left)
    }
}
