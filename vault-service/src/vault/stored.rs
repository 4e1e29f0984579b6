//! What stands in the store, and under which keys.
//!
//! ```text
//! key                      value
//! meta                     Meta
//! w/ name                  WorkspaceRecord
//! c/ uid(16)               count of the workspace's secrets, u64, big endian; absent for 0
//! s/ uid(16) secret name   SecretRecord: what lists show, in clear
//! r/ uid(16) secret name   the encrypted record (crate::crypto::record): the value, its version and origins
//! v/ uid(16) secret name   last version of a deleted secret, u64, big endian
//! g/ uid(16)               empty: a deleted workspace whose entries are still to be removed
//! ```
//!
//! Values of the first and second kind are Protocol Buffers messages. What decrypting relies on is in the encrypted
//! record and authenticated there; `s/` repeats some of it for lists, which have no key.

use prost::Message;
use proto::{SecretName, Uid, WorkspaceName};

/// The key of [`Meta`].
pub(super) const META: &[u8] = b"meta";
/// The prefix of all workspaces.
pub(super) const WORKSPACES: &[u8] = b"w/";
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

/// The kinds of entry that each secret has.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Metadata,
    Record,
    LastVersion,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Metadata, Self::Record, Self::LastVersion];

    /// The prefix of all entries of this kind.
    pub(super) fn prefix(self) -> &'static [u8] {
        match self {
            Self::Metadata => b"s/",
            Self::Record => b"r/",
            Self::LastVersion => b"v/",
        }
    }

    /// The prefix of all entries of this kind in one workspace.
    pub(super) fn of(self, workspace: &Uid) -> Vec<u8> {
        [self.prefix(), workspace.as_bytes()].concat()
    }

    pub(super) fn key(self, workspace: &Uid, name: &SecretName) -> Vec<u8> {
        [self.of(workspace).as_slice(), name.as_str().as_bytes()].concat()
    }
}
