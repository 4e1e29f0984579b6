//! Tests of `aerostack console`: the console as a process, against a real pair, with a client that has no JavaScript.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

#[path = "../support/mod.rs"]
mod support;

mod activity;
mod backups;
mod browser;
mod connections;
mod dev;
mod event_stream;
mod fake_metrics;
mod imports;
mod keys;
mod map;
mod recording_service;
mod safety;
mod secrets;
mod servers;
mod services;
mod sign_in;
mod stalled;
mod token_file;
mod tokens;
mod upstream;
mod user_console;
mod users;
mod vault;
mod viewer;
mod workspaces;
