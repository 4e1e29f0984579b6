//! The rights of this identity over the servers of a workspace.

use axum::response::Response;
use maud::{Markup, html};
use proto::WorkspaceName;

use super::{super::frame::failure_page, rows::UnreadableForm};
use crate::{
    console::{guard::PageRequest, view::Section},
    failure::{Failure, FailureKind},
    service_status::client_peer,
};

/// Returns false for an identity that may only look. When the injector does not answer, the page of the change says so.
pub(super) async fn may_change(visit: &PageRequest, workspace: &WorkspaceName) -> bool {
    visit
        .app
        .services
        .may_change_servers(workspace)
        .await
        .unwrap_or(true)
}

/// Says why a page offers no changes.
pub(super) fn looking_only(visit: &PageRequest) -> Markup {
    html! {
        p.looking-only {
            "You may look at servers" @if visit.app.allows_calls() { " and call them" } ", and not add, edit or delete them: "
            (principal(visit)) " is a viewer here. The operator of the injector grants more with its setting "
            code { "--editor" } "."
        }
    }
}

fn principal(visit: &PageRequest) -> Markup {
    use chassis::caller::Peer;
    let name = match client_peer(&visit.app.services.connection) {
        Some(Peer::Known {
            principal,
            not_after: _,
        }) => Some(principal.to_string()),
        Some(Peer::Anonymous | Peer::Unusable(_)) | None => None,
    };
    html! {
        @match &name {
            Some(name) => code { (name) },
            None => "this identity",
        }
    }
}

/// Returns the page for a call when people may not try calls.
pub(super) fn calls_refused(visit: &PageRequest) -> Option<Response> {
    (!visit.app.allows_calls()).then(|| {
        let failure = Failure::new(
            FailureKind::NotAllowed,
            "this console sends no calls for its users",
        );
        let hint = "whoever runs the console allows calls for every user with `--allow-calls`";
        failure_page(visit, Section::Workspaces, failure.hint(hint))
    })
}

/// Returns the page for a change that this identity may not make.
pub(super) fn not_allowed(visit: &PageRequest) -> Response {
    let failure = Failure::new(
        FailureKind::NotAllowed,
        "this identity may look at the servers of this workspace, and not change them",
    );
    let hint =
        "the operator of the injector grants roles to identities with its settings --admin and --editor";
    failure_page(visit, Section::Workspaces, failure.hint(hint))
}

/// Returns the page for a form that the console did not make.
pub(super) fn unreadable_form(visit: &PageRequest, unreadable: &UnreadableForm) -> Response {
    let failure = Failure::new(FailureKind::Usage, unreadable);
    let hint = "nothing was changed: open the page again and repeat what you did";
    failure_page(visit, Section::Workspaces, failure.hint(hint))
}
