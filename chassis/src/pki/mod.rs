//! Certificates that programs of this project make: authorities and leaves in memory, and checks whether stored ones may stay.

mod certificate;
mod validity;

pub use certificate::{
    ADMIN_ID, Ca, CaSpec, DEMO_ID, INJECTOR_ID, IssueError, Issued, Leaf, Usage, VAULT_ID, issue,
};
pub use validity::{ca_is_valid, is_same_authority, leaf_is_valid, parse_certificate};
