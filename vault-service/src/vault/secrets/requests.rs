//! Remembered requests, so that a retry with the same `request_id` makes no second version.
//!
//! A caller who may put can send any number of ids, so the vault remembers a bounded number of requests for each
//! workspace. A digest of the id spreads the requests over [`PARTS`] parts, and each part remembers the newest
//! [`PART_REQUESTS`] requests. So the vault needs no count or list of all requests, which every put of a workspace would
//! have to change. With 15,000 requests a day, a request is forgotten before its day is over about once in two years; a
//! retry comes within minutes.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use proto::Principal;
use sha2::{Digest as _, Sha256};

use crate::{
    crypto::{
        fingerprint::Fingerprint,
        record::{Expiry, Terms},
    },
    store::{Batch, Entry, Store},
    vault::{
        VaultError, Writer,
        access::PagedScan,
        labels::Labels,
        stored::{self, RequestRecord, RequestRecords, StoredMetadata},
        workspace::StoredWorkspace,
    },
};

/// Time for which a request is remembered.
pub(in crate::vault) const REMEMBERED: Duration = Duration::from_hours(24);
const MAX_ID: usize = 128;
const PARTS: u16 = 4096;
/// Number of requests that a part remembers, of about 110 bytes each. All parts of a workspace together remember 65,536
/// requests in 7 MiB.
pub(in crate::vault) const PART_REQUESTS: usize = 16;
/// Number of parts that one step of a sweep reads.
const SWEEP_PARTS: usize = 256;

/// The caller's id of a request: any text of 1 to 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Box<str>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request_id has 1 to {MAX_ID} bytes")]
pub struct RequestIdError;

impl RequestId {
    pub fn parse(text: &str) -> Result<Self, RequestIdError> {
        match text.len() {
            1..=MAX_ID => Ok(Self(text.into())),
            _ => Err(RequestIdError),
        }
    }
}

/// Identifies a request within its workspace: the first 16 bytes of `SHA-256(principal 00 id)`.
///
/// An id belongs to the principal that chose it. Otherwise another principal could guess the value that was put: a
/// request with a used id is answered only when it has the same value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::vault) struct RequestDigest([u8; 16]);

impl RequestDigest {
    pub(in crate::vault) fn of(principal: &Principal, RequestId(id): &RequestId) -> Self {
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
    pub(in crate::vault) fn part(self) -> u16 {
        let [high, low, ..] = self.0;
        u16::from_be_bytes([high, low]) % PARTS
    }
}

pub(super) enum RequestLookup {
    /// No request with this id is remembered, or the caller gave no id.
    New(Option<NewRequest>),
    /// An equal request was answered before.
    Repeated(EarlierWrite),
}

/// The version that an earlier, equal request made.
pub(super) struct EarlierWrite {
    pub(super) version: u64,
    pub(super) created: bool,
    uid: Vec<u8>,
    create_time: Timestamp,
    time: Timestamp,
}

impl EarlierWrite {
    /// Returns the metadata of the version from the remembered data and from `terms` and `labels` of the repeated put, which
    /// are equal to those of the earlier one.
    pub(super) fn record_of_put(self, terms: &Terms<'_>, labels: Labels) -> StoredMetadata {
        let Self {
            version,
            created: _,
            uid,
            create_time,
            time,
        } = self;
        StoredMetadata {
            uid,
            version,
            create_time,
            update_time: time,
            upstream_origins: stored::origins(terms.origins),
            expires_at: terms.expiry.map_or(0, Expiry::seconds),
            labels: labels.into_map(),
            kept_from: version,
            last_version: 0,
        }
    }
}

/// A request that was not answered yet.
pub(super) struct NewRequest {
    digest: RequestDigest,
    fingerprint: Fingerprint,
    /// Key of the request's part in the store.
    key: Vec<u8>,
    /// Current value of the entry at `key`.
    bytes: Option<Vec<u8>>,
    /// The other requests of the part.
    others: Vec<RequestRecord>,
}

impl RequestLookup {
    /// Looks up a request by its id. Fails when the id was used for a request with another fingerprint.
    pub(super) fn of(
        store: &Store,
        workspace: &StoredWorkspace,
        principal: &Principal,
        id: &RequestId,
        fingerprint: Fingerprint,
        now: SystemTime,
    ) -> Result<Self, VaultError> {
        let digest = RequestDigest::of(principal, id);
        let key = stored::requests(&workspace.uid, digest.part());
        let bytes = store.read(&key)?;
        let mut others = remembered(bytes.as_deref(), now);
        let Some(at) = others.iter().position(|other| other.id == digest.0) else {
            return Ok(Self::New(Some(NewRequest {
                digest,
                fingerprint,
                key,
                bytes,
                others,
            })));
        };
        let RequestRecord {
            id: _,
            time,
            fingerprint: earlier,
            created,
            uid,
            version,
            create_time,
        } = others.swap_remove(at);
        // A fingerprint under a key that was rotated in the meantime does not match either.
        if !fingerprint.matches(&earlier) {
            return Err(VaultError::RequestIdReused);
        }
        Ok(Self::Repeated(EarlierWrite {
            version,
            created,
            uid,
            create_time,
            time,
        }))
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
        secret: StoredMetadata,
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
        let too_many = (others.len() + 1).saturating_sub(PART_REQUESTS);
        let requests = others.into_iter().skip(too_many).chain([new]).collect();
        let batch = match bytes {
            Some(bytes) => batch.expect_value(key.clone(), bytes),
            None => batch.expect_absent(key.clone()),
        };
        batch.put(key, stored::encode(&RequestRecords { requests }))
    }
}

/// Returns true when `time` is at least [`REMEMBERED`] ago. A time in the future is not outdated, because the clock may have
/// been set back a little.
fn is_outdated(time: Timestamp, now: SystemTime) -> bool {
    match SystemTime::try_from(time) {
        Ok(time) => now.duration_since(time).is_ok_and(|age| age >= REMEMBERED),
        Err(_) => true,
    }
}

impl Writer {
    /// Removes all requests that are too old to be retried.
    pub(in crate::vault) async fn sweep_requests(&self) -> Result<(), VaultError> {
        let mut scan = PagedScan::new(stored::REQUESTS, SWEEP_PARTS);
        loop {
            let (entries, now) = (scan.next_async(&self.store).await?, (self.clock)());
            if entries.is_empty() {
                return Ok(());
            }
            let batch = entries
                .into_iter()
                .fold(Batch::new(), |batch, entry| sweep_part(batch, entry, now));
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
fn sweep_part(batch: Batch, Entry { key, value }: Entry, now: SystemTime) -> Batch {
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
