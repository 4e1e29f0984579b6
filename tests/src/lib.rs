//! Helpers of the end-to-end tests: a certificate authority, a vault and an injector in this process, and upstreams that
//! record what they receive.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test that cannot be set up should say so at once"
)]

pub mod frames;
pub mod issuer;
pub mod pair;
pub mod pki;
pub mod process;
pub mod raw;
pub mod upstream;

pub use issuer::TokenIssuer;
pub use pair::{Injector, Pair, Vault};
pub use pki::Pki;
pub use upstream::{Seen, Upstream};

use std::time::Duration;

/// Time limit for each awaited step of a test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `check` returns true. Fails the test after [`PATIENCE`].
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !check().await {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
