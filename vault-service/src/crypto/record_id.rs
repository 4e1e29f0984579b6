//! The identity of a record.

use proto::{SecretName, Uid};

/// Identity of the record of one secret version. A record decrypts only under the identity that it was encrypted for.
#[derive(Clone, Copy, Debug)]
pub struct RecordId<'a> {
    /// The uid rather than the name of the workspace: a workspace that is deleted and created again has another uid.
    pub workspace_uid: &'a Uid,
    pub name: &'a SecretName,
    pub version: u64,
}
