//! Folders of certificates that this program makes: those of `aerostack dev`, `aerostack init` and `aerostack pki`, and of tests.
//!
//! The development CA may be put into the trust stores of browsers and tools on the developer's machine. To make a stolen
//! key of little use, name constraints limit the CA to `localhost` and the names beneath it, and the services recognize
//! its organization and refuse it on any address but loopback. The constraints list neither SPIFFE IDs nor IP addresses:
//! rustls-webpki refuses every URI beneath a CA that has URI constraints, and BoringSSL refuses every address beneath a
//! CA that has address constraints.
//!
//! A crash at any line does no harm. Files appear whole, by rename, and a key is always written before its certificate,
//! so the next run detects a missing or mismatched file and makes a new one.

mod authority;
mod development;
mod error;
mod file;
mod files;
#[cfg(test)]
mod tests;

pub use chassis::{
    pki::{ADMIN_ID, Ca, CaSpec, DEMO_ID, INJECTOR_ID, IssueError, Issued, Leaf, Usage, VAULT_ID, issue},
    tls::DEVELOPMENT_ORGANIZATION,
};

pub use self::{authority::Authority, development::DevPki, error::PkiError, file::Owner, files::LeafFiles};
