//! Authorization of RPCs: an [`AccessTable`] per service says which roles may call which RPC, and a [`Policy`] from the
//! settings says which principal holds which role in which workspaces.
//!
//! [`AuthzLayer`] runs before every handler. It refuses a call that the table or the policy does not allow, and puts an
//! [`Authorized`] into the extensions of any other request. A handler asks the `Authorized` for a permit for the
//! workspace that the request names. The code that reads or changes data takes that permit as an argument and works on
//! the permit's workspace, so the data that was authorized is the data that is used.

mod access;
mod layer;
mod permit;
mod policy;

pub use access::{Access, AccessTable, MAX_SERVICE_CALLS, Role, permission_denied};
pub(crate) use layer::RefusedToken;
pub use layer::{AuthzLayer, AuthzService};
pub use permit::{AdminPermit, Authorized, DecryptPermit, Permit, ReadPermit, WritePermit};
pub use policy::{Binding, InjectorRoleConflict, Policy, Scope};
