//! Tests of the administrative commands: `aerostack` as a process, against running services.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

#[path = "../support/mod.rs"]
mod support;

mod backups;
mod calls;
mod completion;
mod connection;
mod contexts;
mod documented;
mod documents;
mod imports;
mod keys;
mod secrets;
mod servers;
mod shell;
mod terminal;
mod upstream;
mod workspaces;
