//! The layout of the store: its keys, and the messages in its values.
//!
//! ```text
//! key                      value
//! meta                     Meta
//! w/ name                  WorkspaceRecord
//! c/ uid(16)               number of the workspace's secrets, u64, big endian; absent for 0
//! s/ uid(16) secret name   StoredMetadata: public data of the current version, in clear
//! r/ uid(16) secret name   the encrypted record (crate::crypto::record) of the current version: the value, its version,
//!                          expiry and origins
//! o/ uid(16) secret name 00 version, u64, big endian
//!                          OldVersion: public data and encrypted record of an older version
//! u/ uid(16) secret name   UseRecord: time and server of the last decrypt, and number of decrypts
//! v/ uid(16) secret name   last version of a deleted secret, u64, big endian
//! f/ uid(16)               highest last version of the deleted secrets without an entry in v/, u64, big endian
//! q/ uid(16) part, u16, big endian
//!                          RequestRecords: answered requests, for retries
//! g/ uid(16)               empty: a deleted workspace whose entries are still to be removed
//! k/store                  Rotation of the store key
//! k/w/ uid(16)             Rotation of the workspace's KEK
//! d/ uid(16)               Deletion: the workspace has deleted data that its KEKs still decrypt
//! e/ id(16) uid(16)        DestroyedKeys: KEKs of the workspace were deleted, and the store key with this id still unwraps
//!                          their copies in the log
//! hold                     a backup is being restored, so all other writes fail (crate::vault::backup)
//! ```
//!
//! Values with a type name here are Protocol Buffers messages. All data that a decrypt relies on are authenticated in the
//! encrypted record; `s/` repeats some of them in clear for lists, which do not decrypt.

use std::collections::BTreeMap;

use prost::Message;
use proto::{OriginPattern, SecretName, Uid, WorkspaceName};

use crate::crypto::KeyId;

pub(super) const META: &[u8] = b"meta";
/// Prefix of all [`WorkspaceRecord`]s.
pub(super) const WORKSPACES: &[u8] = b"w/";
/// Prefix of all [`RequestRecords`].
pub(super) const REQUESTS: &[u8] = b"q/";
/// Prefix of the uids of deleted workspaces that still have entries.
pub(super) const GARBAGE: &[u8] = b"g/";
/// Prefix of all [`Rotation`]s.
pub(super) const ROTATIONS: &[u8] = b"k/";
pub(super) const STORE_KEY_ROTATION: &[u8] = b"k/store";
/// Prefix of all [`Deletion`]s.
pub(super) const DELETIONS: &[u8] = b"d/";
/// Prefix of all [`DestroyedKeys`].
pub(super) const DESTROYED: &[u8] = b"e/";

#[derive(Clone, PartialEq, Message)]
pub(super) struct Meta {
    #[prost(uint32, tag = "1")]
    pub(super) format: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) vault_uid: Vec<u8>,
    /// Id of the active store key, which is in the file `keys`. It wraps all KEKs except those that its rotation has still to
    /// rewrap. Empty until the vault was unlocked for the first time.
    #[prost(bytes = "vec", tag = "5")]
    pub(super) store_key_id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WorkspaceRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) uid: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(super) revision: u64,
    #[prost(message, required, tag = "3")]
    pub(super) create_time: prost_types::Timestamp,
    #[prost(message, required, tag = "4")]
    pub(super) update_time: prost_types::Timestamp,
    #[prost(uint32, tag = "5")]
    pub(super) plan: u32,
    /// The workspace's active KEK, wrapped by the store key.
    #[prost(bytes = "vec", tag = "6")]
    pub(super) wrapped_kek: Vec<u8>,
    /// Number of versions of each secret that the vault keeps.
    #[prost(uint32, tag = "7")]
    pub(super) kept_versions: u32,
    /// Earlier KEKs that may still wrap the DEKs of some records.
    #[prost(message, repeated, tag = "8")]
    pub(super) retired_keks: Vec<RetiredKek>,
    /// Creation time of the active KEK; absent for the first KEK, which is as old as the workspace.
    #[prost(message, optional, tag = "9")]
    pub(super) kek_create_time: Option<prost_types::Timestamp>,
    /// True during the last pass of a rotation, as in [`Rotation::last_pass`]. The change of this field fails all writes that
    /// read the workspace before the last pass.
    #[prost(bool, tag = "10")]
    pub(super) last_pass: bool,
}

/// A KEK that new records do not use any more.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RetiredKek {
    /// The KEK, wrapped by the store key.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) wrapped_kek: Vec<u8>,
    /// Creation time; absent for the first KEK of a workspace.
    #[prost(message, optional, tag = "2")]
    pub(super) create_time: Option<prost_types::Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Rotation {
    /// Name of the workspace whose key is rotated; empty for the store key.
    #[prost(string, tag = "1")]
    pub(super) workspace: String,
    /// Key of the last entry that this pass visited; empty before the first.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) cursor: Vec<u8>,
    /// True in the pass after which the retired keys are destroyed.
    #[prost(bool, tag = "3")]
    pub(super) last_pass: bool,
    #[prost(uint64, tag = "4")]
    pub(super) done: u64,
    /// Number of all entries, as far as known.
    #[prost(uint64, tag = "5")]
    pub(super) total: u64,
    #[prost(uint64, tag = "6")]
    pub(super) unreadable: u64,
    /// Number of entries that the previous pass could not rewrap.
    #[prost(uint64, tag = "7")]
    pub(super) unreadable_before: u64,
    #[prost(message, required, tag = "8")]
    pub(super) start_time: prost_types::Timestamp,
    /// Time of the oldest deletion that this rotation erases; absent if there is none.
    #[prost(message, optional, tag = "9")]
    pub(super) deleted_since: Option<prost_types::Timestamp>,
}

/// Record that a workspace has deleted data in the log which its KEKs can still open.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Deletion {
    #[prost(message, required, tag = "1")]
    pub(super) since: prost_types::Timestamp,
    #[prost(string, tag = "2")]
    pub(super) workspace: String,
}

/// Record that a workspace's KEKs were deleted, while the log still has them wrapped by an existing store key.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DestroyedKeys {
    /// Time of the oldest deletion that these keys still open.
    #[prost(message, required, tag = "1")]
    pub(super) since: prost_types::Timestamp,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredMetadata {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) uid: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(super) version: u64,
    #[prost(message, required, tag = "3")]
    pub(super) create_time: prost_types::Timestamp,
    #[prost(message, required, tag = "4")]
    pub(super) update_time: prost_types::Timestamp,
    #[prost(string, repeated, tag = "5")]
    pub(super) upstream_origins: Vec<String>,
    /// Seconds since the Unix epoch; 0 for never.
    #[prost(uint64, tag = "6")]
    pub(super) expires_at: u64,
    #[prost(btree_map = "string, string", tag = "7")]
    pub(super) labels: BTreeMap<String, String>,
    /// Number of the oldest version that is kept.
    #[prost(uint64, tag = "8")]
    pub(super) kept_from: u64,
    /// Highest number that a version may have; 0 stands for `version`. The number is higher than `version` only in a repaired
    /// store that may have lost newer versions.
    #[prost(uint64, tag = "9")]
    pub(super) last_version: u64,
}

impl StoredMetadata {
    /// Returns the highest number that a version of the secret may have.
    pub(super) fn last_version(&self) -> u64 {
        self.last_version.max(self.version)
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OldVersion {
    #[prost(message, required, tag = "1")]
    pub(super) metadata: StoredMetadata,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) record: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct UseRecord {
    #[prost(message, required, tag = "1")]
    pub(super) last_time: prost_types::Timestamp,
    #[prost(string, tag = "2")]
    pub(super) last_server: String,
    #[prost(uint64, tag = "3")]
    pub(super) count: u64,
}

/// The remembered requests of one part of a workspace's requests.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RequestRecords {
    /// The requests, the oldest first.
    #[prost(message, repeated, tag = "1")]
    pub(super) requests: Vec<RequestRecord>,
}

/// The data that recognizes a repeated request and answers it again. The rest of the answer is in the request itself,
/// or in the entry of the version that the request made.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RequestRecord {
    /// Beginning of a digest of the caller and the caller's id of the request.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) id: Vec<u8>,
    #[prost(message, required, tag = "2")]
    pub(super) time: prost_types::Timestamp,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) fingerprint: Vec<u8>,
    #[prost(bool, tag = "4")]
    pub(super) created: bool,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) uid: Vec<u8>,
    #[prost(uint64, tag = "6")]
    pub(super) version: u64,
    #[prost(message, required, tag = "7")]
    pub(super) create_time: prost_types::Timestamp,
}

pub(super) fn origins(origins: &[OriginPattern]) -> Vec<String> {
    origins.iter().map(|origin| origin.as_str().to_owned()).collect()
}

pub(super) fn encode(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

pub(super) fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, prost::DecodeError> {
    M::decode(bytes)
}

/// Decodes a uid; returns `None` when `bytes` are not 16 bytes.
pub(super) fn uid(bytes: &[u8]) -> Option<Uid> {
    bytes.try_into().ok().map(Uid::from_bytes)
}

pub(super) fn workspace(name: &WorkspaceName) -> Vec<u8> {
    [WORKSPACES, name.as_str().as_bytes()].concat()
}

pub(super) fn count(workspace: &Uid) -> Vec<u8> {
    [b"c/".as_slice(), workspace.as_bytes()].concat()
}

pub(super) fn garbage(workspace: &Uid) -> Vec<u8> {
    [GARBAGE, workspace.as_bytes()].concat()
}

pub(super) fn workspace_rotation(workspace: &Uid) -> Vec<u8> {
    [b"k/w/".as_slice(), workspace.as_bytes()].concat()
}

/// Returns the workspace whose rotation is stored at `key`; `None` for the store key's rotation.
pub(super) fn uid_of_rotation(key: &[u8]) -> Option<Uid> {
    uid(key.strip_prefix(b"k/w/")?)
}

pub(super) fn deletion(workspace: &Uid) -> Vec<u8> {
    [DELETIONS, workspace.as_bytes()].concat()
}

pub(super) fn destroyed(store_key: KeyId, workspace: &Uid) -> Vec<u8> {
    [DESTROYED, store_key.as_bytes(), workspace.as_bytes()].concat()
}

/// Returns the store key and the workspace of the [`DestroyedKeys`] at `key`.
pub(super) fn place_of_destroyed(key: &[u8]) -> Option<(KeyId, Uid)> {
    let (store_key, workspace) = key.strip_prefix(DESTROYED)?.split_first_chunk::<16>()?;
    Some((KeyId::from_stored(store_key)?, uid(workspace)?))
}

/// Returns the key of an older version. Names have no byte 0, so the key of one secret is never a prefix of another's.
pub(super) fn old_version(workspace: &Uid, name: &SecretName, version: u64) -> Vec<u8> {
    let mut key = Kind::OldVersion.key(workspace, name);
    key.push(0);
    key.extend_from_slice(&version.to_be_bytes());
    key
}

/// Returns the store's key of the [`RequestRecords`] of one part.
pub(super) fn requests(workspace: &Uid, part: u16) -> Vec<u8> {
    [Kind::Request.of(workspace).as_slice(), &part.to_be_bytes()].concat()
}

/// The kinds of entries that belong to a workspace and are removed with it.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Metadata,
    Record,
    OldVersion,
    Use,
    LastVersion,
    VersionFloor,
    Request,
}

impl Kind {
    /// All kinds, in the order in which a sweep removes them. `Use` comes after `Metadata`, because a flush of use counters
    /// writes only to secrets with metadata.
    pub(super) const ALL: [Self; 7] = [
        Self::Metadata,
        Self::Record,
        Self::OldVersion,
        Self::Use,
        Self::LastVersion,
        Self::VersionFloor,
        Self::Request,
    ];

    /// Returns the prefix of all entries of this kind in one workspace.
    pub(super) fn of(self, workspace: &Uid) -> Vec<u8> {
        self.under(workspace.as_bytes())
    }

    /// Returns the key of a secret's entry, or for `OldVersion` the prefix of its entries.
    pub(super) fn key(self, workspace: &Uid, name: &SecretName) -> Vec<u8> {
        [self.of(workspace).as_slice(), name.as_str().as_bytes()].concat()
    }

    /// Returns the key for `rest`, which is a result of [`secret`] or a workspace's uid.
    pub(super) fn under(self, rest: &[u8]) -> Vec<u8> {
        [self.prefix(), rest].concat()
    }

    pub(super) fn prefix(self) -> &'static [u8] {
        match self {
            Self::Metadata => b"s/",
            Self::Record => b"r/",
            Self::OldVersion => b"o/",
            Self::Use => b"u/",
            Self::LastVersion => b"v/",
            Self::VersionFloor => b"f/",
            Self::Request => REQUESTS,
        }
    }
}

/// Returns the part of a secret's keys after the prefix of the kind.
pub(super) fn secret(workspace: &Uid, name: &SecretName) -> Vec<u8> {
    [workspace.as_bytes().as_slice(), name.as_str().as_bytes()].concat()
}
