//! Certificates that programs of this project make: authorities and leaves in memory, checks whether stored ones may stay, and
//! the renewal of both.

mod certificate;
mod renewal;
mod validity;

pub use certificate::{
    ADMIN_ID, Ca, CaSpec, DEMO_ID, INJECTOR_ID, IssueError, Issued, Leaf, Usage, VAULT_ID, issue,
};
pub use renewal::{AuthorityBundle, BundleError, RenewError, RenewalPlan, only_certificates};
pub use validity::{ca_is_valid, is_same_authority, leaf_is_valid, parse_certificate};
