//! The forms for secrets, for an identity that may not change them.

use axum::response::Response;

use super::frame::failure_page;
use crate::{
    console::{guard::PageRequest, view::Section},
    failure::{Failure, FailureKind},
};

/// Returns the page for a form when this identity may not change the secrets of the workspace, or when nobody can say so.
pub(super) async fn change_refused(visit: &PageRequest, workspace: &str) -> Option<Response> {
    let failure = match visit.app.services.workspace_access(workspace).await {
        Ok(access) if access.may_edit() => return None,
        Ok(_) => Failure::new(
            FailureKind::NotAllowed,
            "this identity may look at the secrets of this workspace, and not change them",
        )
        .hint("the operator of the vault grants roles to identities with its settings --admin and --editor"),
        Err(failure) => failure,
    };
    Some(failure_page(visit, Section::Workspaces, failure))
}
