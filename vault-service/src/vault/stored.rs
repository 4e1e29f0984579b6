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
//! q/ uid(16) principal 00 request id
//!                          RequestRecord: what was answered to a request, for its retries
//! g/ uid(16)               empty: a deleted workspace whose entries are still to be removed
//! ```
//!
//! The values that have a name here are Protocol Buffers messages. What decrypting relies on is in the encrypted record
//! and authenticated there; `s/` repeats some of it for lists, which have no key.
//!
//! Format 1 of this layout has fewer kinds of entry, and fewer fields in them.

use std::collections::BTreeMap;

use prost::Message;
use proto::{SecretName, Uid, WorkspaceName};

/// The key of [`Meta`].
pub(super) const META: &[u8] = b"meta";
/// The prefix of all workspaces.
pub(super) const WORKSPACES: &[u8] = b"w/";
/// The prefix of all requests.
pub(super) const REQUESTS: &[u8] = b"q/";
/// The prefix of all deleted workspaces that still have entries.
pub(super) const GARBAGE: &[u8] = b"g/";

/// What the store says of itself.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Meta {
    #[prost(uint32, tag = "1")]
    pub(super) format: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) vault_uid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) root_key_id: Vec<u8>,
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
    /// The workspace's KEK, wrapped by the root key.
    #[prost(bytes = "vec", tag = "6")]
    pub(super) wrapped_kek: Vec<u8>,
    /// How many versions of each secret are kept; 0 in records of format 1, which stands for the default.
    #[prost(uint32, tag = "7")]
    pub(super) kept_versions: u32,
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
    /// No older version than this one is kept; 0 in records of format 1, which have none.
    #[prost(uint64, tag = "8")]
    pub(super) kept_from: u64,
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

#[derive(Clone, PartialEq, Message)]
pub(super) struct RequestRecord {
    #[prost(message, required, tag = "1")]
    pub(super) time: prost_types::Timestamp,
    /// The key that the fingerprint was made with.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) kek_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) fingerprint: Vec<u8>,
    #[prost(bool, tag = "4")]
    pub(super) created: bool,
    /// The secret as it was answered.
    #[prost(message, required, tag = "5")]
    pub(super) secret: SecretRecord,
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

/// An older version of a secret. No name has a byte 0, so none is the beginning of another's key.
pub(super) fn old_version(workspace: &Uid, name: &SecretName, version: u64) -> Vec<u8> {
    let mut key = Kind::OldVersion.key(workspace, name);
    key.push(0);
    key.extend_from_slice(&version.to_be_bytes());
    key
}

/// A request. No principal has a byte 0.
pub(super) fn request(workspace: &Uid, principal: &str, id: &str) -> Vec<u8> {
    let of = Kind::Request.of(workspace);
    [of.as_slice(), principal.as_bytes(), &[0], id.as_bytes()].concat()
}

/// The kinds of entry in a workspace: what is removed with it.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Metadata,
    Record,
    OldVersion,
    Use,
    LastVersion,
    Request,
}

impl Kind {
    /// In the order in which they are swept: what is known of uses is added only to secrets whose metadata is there.
    pub(super) const ALL: [Self; 6] = [
        Self::Metadata,
        Self::Record,
        Self::OldVersion,
        Self::Use,
        Self::LastVersion,
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

    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Metadata => b"s/",
            Self::Record => b"r/",
            Self::OldVersion => b"o/",
            Self::Use => b"u/",
            Self::LastVersion => b"v/",
            Self::Request => REQUESTS,
        }
    }
}

/// What the keys of all a secret's entries have behind their prefix.
pub(super) fn secret(workspace: &Uid, name: &SecretName) -> Vec<u8> {
    [workspace.as_bytes().as_slice(), name.as_str().as_bytes()].concat()
}
