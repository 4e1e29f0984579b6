//! The API of Kubernetes, as a program inside a cluster uses it: single objects as JSON, and certificates in Secrets.
//!
//! The programs of this project need five calls on two kinds of objects, Secrets and MutatingWebhookConfigurations. The usual client
//! libraries would add generated types for every kind of object, watches and caches.

mod certificates;
mod client;
mod error;
#[cfg(test)]
mod fake_api;
pub mod members;
mod name;
mod secret;

pub use certificates::{RenewedCertificates, renew_in_one_secret, renew_in_two_secrets, set_ca_bundle};
pub use client::{ApiClient, SERVICE_ACCOUNT_DIR};
pub use error::{ApiError, CertificatesError};
pub use name::{NameError, NamespacedName, ObjectName};
