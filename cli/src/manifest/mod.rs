//! A workspace as one YAML document, for `aerostack export` and `aerostack apply`: the plan, the servers, and the metadata of
//! the secrets. Values are never in a document.
//!
//! ```yaml
//! apiVersion: aerostack/v1
//! kind: Workspace
//! name: my-workspace
//! plan: starter
//! kept_versions: 3
//! secrets:
//! - name: GITHUB_TOKEN
//!   upstream_origins:
//!   - https://api.github.com
//!   labels:
//!     team: a
//!   expires_at: 2027-01-31T00:00:00Z
//! servers:                       # as in the servers file of the injector
//! - name: github
//!   url: https://api.github.com
//!   auth_type: bearer
//!   injections:
//!   - secret: GITHUB_TOKEN
//! ```
//!
//! Every field but the first three may be left out. A document without `plan`, `kept_versions`, `secrets` or `servers` says
//! nothing about them, and an entry without one of its fields states the default of that field.

pub(crate) mod change;
pub(crate) mod difference;
mod document;
mod error;
pub(crate) mod present;
mod secret;

pub(crate) use document::{Manifest, PlanName};
pub(crate) use secret::SecretMetadata;
