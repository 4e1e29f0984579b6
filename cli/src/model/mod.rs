//! The objects that `--output json` prints, and from which the tables are made.
//!
//! `cli/README.md` documents the JSON. A release may add members, but never renames or removes one.

mod backup;
mod catalog;
mod enum_name;
mod explanation;
mod injection;
pub(crate) mod keys;
mod secret;
mod server;
mod warning;
mod workspace;

pub(crate) use self::{
    backup::RestoredBackup,
    catalog::CatalogEntry,
    explanation::Explanation,
    secret::{Secret, SecretVersion, expires},
    server::Server,
    warning::Warning,
    workspace::Workspace,
};
