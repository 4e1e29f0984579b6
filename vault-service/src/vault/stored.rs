//! What stands in the store, and under which keys.
//!
//! ```text
//! key                      value
//! meta                     Meta
//! w/ name                  WorkspaceRecord
//! c/ uid(16)               count of the workspace's secrets, u64, big endian; absent for 0
//! s/ uid(16) secret name   SecretRecord: what lists show of the current version, in clear
//! r/ uid(16) secret name   the encrypted record (crate::crypto::record) of the current version: the value, its version,
//!                          expiry and origins
//! o/ uid(16) secret name 00 version, u64, big endian
//!                          OldVersion: both of an older version that is kept
//! u/ uid(16) secret name   UseRecord: when, for which server and how often the secret was decrypted
//! v/ uid(16) secret name   last version of a deleted secret, u64, big endian
//! f/ uid(16)               a version that deleted secrets without an entry in v/ did not exceed, u64, big endian
//! q/ uid(16) part, u16, big endian
//!                          RequestRecords: what was answered to requests, for their retries
//! g/ uid(16)               empty: a deleted workspace whose entries are still to be removed
//! k/store                  Rotation: workspaces' keys are being moved to another store key
//! k/w/ uid(16)             Rotation: the workspace's records are being moved to another key
//! d/ uid(16)               Deletion: since when secrets or versions were deleted that the workspace's keys still open
//! e/ id(16) uid(16)        DestroyedKeys: keys of a workspace were destroyed, and the store key of this id still unwraps
//!                          what the log keeps of them
//! hold                     while a backup is restored: that nobody else may write (crate::vault::backup)
//! ```
//!
//! The values that have a name here are Protocol Buffers messages. What decrypting relies on is in the encrypted record
//! and authenticated there; `s/` repeats some of it for lists, which have no key.

use std::collections::BTreeMap;

use prost::Message;
use proto::{OriginPattern, SecretName, Uid, WorkspaceName};

use crate::crypto::KeyId;

/// The key of [`Meta`].
pub(super) const META: &[u8] = b"meta";
/// The prefix of all workspaces.
pub(super) const WORKSPACES: &[u8] = b"w/";
/// The prefix of all requests.
pub(super) const REQUESTS: &[u8] = b"q/";
/// The prefix of all deleted workspaces that still have entries.
pub(super) const GARBAGE: &[u8] = b"g/";
/// The prefix of all rotations that are under way.
pub(super) const ROTATIONS: &[u8] = b"k/";
/// The key of the store key's [`Rotation`].
pub(super) const STORE_KEY_ROTATION: &[u8] = b"k/store";
/// The prefix of all [`Deletion`]s.
pub(super) const DELETIONS: &[u8] = b"d/";
/// The prefix of all [`DestroyedKeys`].
pub(super) const DESTROYED: &[u8] = b"e/";

/// What the store says of itself.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Meta {
    #[prost(uint32, tag = "1")]
    pub(super) format: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) vault_uid: Vec<u8>,
    /// The id of the active store key. It wraps every workspace's keys, but for those that its rotation has still to move.
    /// Empty until the vault was unsealed for the first time. The key is in the file `keys`. (3 and 4 held root keys.)
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
    /// KEKs that some records may still be under.
    #[prost(message, repeated, tag = "8")]
    pub(super) retired_keks: Vec<RetiredKek>,
    /// When the active KEK was made; absent for the first one.
    #[prost(message, optional, tag = "9")]
    pub(super) kek_create_time: Option<prost_types::Timestamp>,
    /// Whether the rotation under way looks for the last time: see [`Rotation::last_look`].
    #[prost(bool, tag = "10")]
    pub(super) last_look: bool,
}

/// A KEK that nothing new is put under.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RetiredKek {
    /// The KEK, wrapped by the store key.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) wrapped_kek: Vec<u8>,
    /// When it was made; absent for the first one.
    #[prost(message, optional, tag = "2")]
    pub(super) create_time: Option<prost_types::Timestamp>,
}

/// How far a rotation is.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Rotation {
    /// Name of the workspace whose key is rotated; empty for the store key.
    #[prost(string, tag = "1")]
    pub(super) workspace: String,
    /// The last entry that was looked at in this pass; empty before the first.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) cursor: Vec<u8>,
    /// Whether this pass is the one after which retired keys go.
    #[prost(bool, tag = "3")]
    pub(super) last_look: bool,
    /// Entries looked at in this pass.
    #[prost(uint64, tag = "4")]
    pub(super) done: u64,
    /// Entries that there are, as far as known.
    #[prost(uint64, tag = "5")]
    pub(super) total: u64,
    /// Entries of this pass that could not be moved.
    #[prost(uint64, tag = "6")]
    pub(super) unreadable: u64,
    /// The same of the pass before.
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
    /// Time of the oldest deletion.
    #[prost(message, required, tag = "1")]
    pub(super) since: prost_types::Timestamp,
    /// The workspace's name.
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
pub(super) struct SecretRecord {
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
    /// No older version than this one is kept.
    #[prost(uint64, tag = "8")]
    pub(super) kept_from: u64,
    /// The highest number that a version may have been given; 0 stands for `version`. It is higher in a repaired store
    /// that may have lost newer versions.
    #[prost(uint64, tag = "9")]
    pub(super) last_version: u64,
}

impl SecretRecord {
    /// The highest number that a version of the secret may have been given.
    pub(super) fn last_version(&self) -> u64 {
        self.last_version.max(self.version)
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OldVersion {
    #[prost(message, required, tag = "1")]
    pub(super) metadata: SecretRecord,
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

/// The remembered requests of a workspace whose ids fall into one part.
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
    /// The beginning of a digest of the caller and the caller's id of the request.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) id: Vec<u8>,
    #[prost(message, required, tag = "2")]
    pub(super) time: prost_types::Timestamp,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) fingerprint: Vec<u8>,
    #[prost(bool, tag = "4")]
    pub(super) created: bool,
    /// The uid of the secret.
    #[prost(bytes = "vec", tag = "5")]
    pub(super) uid: Vec<u8>,
    #[prost(uint64, tag = "6")]
    pub(super) version: u64,
    /// The creation time of the secret.
    #[prost(message, required, tag = "7")]
    pub(super) create_time: prost_types::Timestamp,
}

/// Converts origins into their stored form.
pub(super) fn origins(origins: &[OriginPattern]) -> Vec<String> {
    origins.iter().map(|origin| origin.as_str().to_owned()).collect()
}

pub(super) fn encode(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

pub(super) fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, prost::DecodeError> {
    M::decode(bytes)
}

/// A uid as stored; none when the bytes are not one.
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

/// An older version of a secret. No name has a byte 0, so none is the beginning of another's key.
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

/// The kinds of entry in a workspace: what is removed with it.
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
    /// In the order in which they are swept: what is known of uses is added only to secrets whose metadata is there.
    pub(super) const ALL: [Self; 7] = [
        Self::Metadata,
        Self::Record,
        Self::OldVersion,
        Self::Use,
        Self::LastVersion,
        Self::VersionFloor,
        Self::Request,
    ];

    /// The prefix of all entries of this kind in one workspace.
    pub(super) fn of(self, workspace: &Uid) -> Vec<u8> {
        self.under(workspace.as_bytes())
    }

    /// The key of one secret's entry; of its older versions, the beginning of their keys.
    pub(super) fn key(self, workspace: &Uid, name: &SecretName) -> Vec<u8> {
        [self.of(workspace).as_slice(), name.as_str().as_bytes()].concat()
    }

    /// The same, of what [`secret`] gave.
    pub(super) fn under(self, rest: &[u8]) -> Vec<u8> {
        [self.prefix(), rest].concat()
    }

    /// The prefix of all entries of this kind.
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

/// What the keys of all a secret's entries have behind their prefix.
pub(super) fn secret(workspace: &Uid, name: &SecretName) -> Vec<u8> {
    [workspace.as_bytes().as_slice(), name.as_str().as_bytes()].concat()
}
