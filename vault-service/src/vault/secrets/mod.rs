//! Secrets: put, restored, listed and deleted.
//!
//! Every put and every restore makes one new version on the same path, [`write_version`]: read the current state, decide,
//! build one batch, commit it, and start again when another write came in between. `put` and `restore` only say which value
//! and which terms the new version gets.

mod current;
mod delete;
mod list;
mod metadata;
mod numbering;
mod put;
pub(super) mod requests;
mod restore;
mod write_version;

pub use metadata::SecretMetadata;
pub use put::{MAX_ORIGINS, NewSecret};
pub use requests::{RequestId, RequestIdError};
pub(crate) use restore::{RestoreOverrides, RestoredExpiry, VersionRestore};
pub use write_version::WrittenVersion;
