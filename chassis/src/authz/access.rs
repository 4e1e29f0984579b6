//! Roles, the RPCs that they may call, and the refusals of all others.

use proto::{Principal, Reason, Refusal};

/// A role that a principal can hold in a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Administers workspaces, secrets and servers.
    Admin,
    /// Edits secrets and servers.
    Editor,
    /// Reads names and metadata.
    Viewer,
    /// Decrypts secrets. A principal with this role cannot hold any other role.
    Injector,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Editor, Self::Viewer, Self::Injector];

    /// Returns the name of the role in settings and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Editor => "editor",
            Self::Viewer => "viewer",
            Self::Injector => "injector",
        }
    }
}

/// The callers that an RPC accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every client, also one without a certificate.
    Anyone,
    /// Every principal that holds a role in any workspace. Such a row is for RPCs about the service itself, whose
    /// duration the client chooses, so one principal may run at most [`MAX_SERVICE_CALLS`] of these calls at a time.
    AnyRole,
    /// Principals that hold one of these roles in the workspace of the request.
    Roles(&'static [Role]),
}

/// Maximum number of running calls of [`Access::AnyRole`] of one principal. A call takes about 10 KiB of memory.
pub const MAX_SERVICE_CALLS: usize = 128;

/// The RPCs of a service by their full path, such as `/vault.v1.KeyService/GetKeyStatus`. An RPC without a row is
/// refused.
pub type AccessTable = &'static [(&'static str, Access)];

pub(super) fn unauthenticated() -> Refusal {
    Refusal::new(
        Reason::Unauthenticated,
        "this call needs a client certificate or a token that is valid now; a certificate names one principal (one URI SAN \
         with a SPIFFE ID, or no URI and one DNS SAN)",
    )
}

/// Returns the refusal of the caller `principal`, who has no suitable role. The text names only the caller, because a more
/// precise text would tell which workspaces exist.
pub fn permission_denied(principal: &Principal) -> Refusal {
    let message = format!("{principal} holds no role that may do this here");
    Refusal::new(Reason::PermissionDenied, message)
}
