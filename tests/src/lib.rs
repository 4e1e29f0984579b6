//! What the end-to-end tests stand on: certificates, both services in this process, upstreams that remember what they
//! received.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test that cannot be set up should say so at once"
)]

pub mod frames;
pub mod pair;
pub mod pki;
pub mod process;
pub mod raw;
pub mod upstream;

pub use pair::{Injector, Pair, Vault};
pub use pki::Pki;
pub use upstream::{Seen, Upstream};

use std::time::Duration;

/// How long anything in a test may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `check` is true; fails the test when it does not become so.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !check().await {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
