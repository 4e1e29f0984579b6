//! Tests of `aerostack console`: the console as a process, against a real pair, with a client that has no JavaScript.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

#[path = "../support/mod.rs"]
mod support;

mod backups;
mod browser;
mod imports;
mod keys;
mod safety;
mod secrets;
mod sign_in;
mod workspaces;
