//! Ids of requests, so that a retry makes no second version.
//!
//! Whoever may put can give as many ids as he likes, so what is remembered of them is bounded for each workspace: its
//! requests are spread over [`PARTS`] parts by a digest of their ids, and each part remembers the newest [`OF_A_PART`]. No
//! count or list of all has to be kept, which every put of a workspace would have to change. With 15,000
//! requests a day, one of them is forgotten before its day is over about once in two years; a retry comes within minutes.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use proto::{SecretName, serve::caller::Principal};
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
/// Parts of a workspace's requests.
const PARTS: u16 = 4096;
/// Requests that a part remembers, of some 110 bytes each. Of all parts that is 65,536 requests and 7 MiB a workspace.
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
/// An id belongs to the principal that chose it. Another one could otherwise find out by trying whether a value is the one
/// that was put: only the same request is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest([u8; 16]);

impl Digest {
    pub(super) fn of(principal: &Principal, RequestId(id): &RequestId) -> Self {
        // No principal has a byte 0.
        let hash: [u8; 32] = Sha256::new()
            .chain_update(principal.to_string())
            .chain_update([0])
            .chain_update(id.as_bytes())
            .finalize()
            .into();
        let (beginning, _) = hash.split_first_chunk().expect("32 bytes are more than 16");
        Self(*beginning)
    }

    /// Which part of its workspace's requests this one belongs to.
    pub(super) fn part(self) -> u16 {
        let [high, low, ..] = self.0;
        u16::from_be_bytes([high, low]) % PARTS
    }
}

/// What became of a request before.
pub(super) enum Before {
    /// Nothing, or it was too long ago, or the caller did not give it an id.
    New(Option<NewRequest>),
    /// It was done.
    Done(Done),
}

/// What a request did that is made again.
pub(super) struct Done {
    /// The version that it made.
    pub(super) version: u64,
    created: bool,
    uid: Vec<u8>,
    create_time: Timestamp,
    time: Timestamp,
}

impl Done {
    /// The answer to a request that says itself what it put.
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

/// A request that was not answered yet: where it is to be remembered, and what tells it from another one of its id.
pub(super) struct NewRequest {
    digest: Digest,
    fingerprint: Fingerprint,
    key: Vec<u8>,
    /// What stands there.
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
            // That of a key which was rotated meanwhile does not match either.
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

/// The requests of one part that are not too old. What does not decode is as good as forgotten: it only makes a retry a
/// second put.
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
    /// Remembers with what the request changes that it did so. The oldest of its part is forgotten when there are too many.
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
                // A request was just remembered with one of them: the next sweep takes the others.
                Ok(()) | Err(VaultError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Forgets what is outdated in one part.
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
