//! Rotates keys: `/keys/root-key/rotate` and `/keys/workspaces/{workspace}/rotate`.

use axum::response::Response;
use maud::{Markup, html};

use super::{
    frame::{breadcrumb, render_form, see_other},
    paths::InWorkspace,
};
use crate::{
    console::{
        guard::{Change, PageRequest},
        view::{FormError, Notice, Section, Submit, error_summary, hidden, submit},
    },
    failure::{Failure, FailureKind},
};

pub(in crate::console) async fn confirm_workspace(
    InWorkspace(workspace): InWorkspace,
    visit: PageRequest,
) -> Response {
    workspace_page(&visit, workspace.as_str(), None)
}

pub(in crate::console) async fn rotate_workspace(
    InWorkspace(workspace): InWorkspace,
    Change { visit, fields: _ }: Change,
) -> Response {
    let workspace = workspace.as_str();
    match visit.app.services.rotate_workspace_key(workspace).await {
        Ok(key) => {
            visit.session.memory.keep_rotation(workspace, &key);
            visit
                .session
                .notify(Notice::done(format!("`{workspace}` has the new key `{key}`.")));
            see_other(&format!("/keys?rotated={workspace}"))
        }
        Err(failure) => workspace_page(&visit, workspace, Some(&error(failure))),
    }
}

pub(in crate::console) async fn confirm_root(visit: PageRequest) -> Response {
    root_page(&visit, None)
}

pub(in crate::console) async fn rotate_root(Change { visit, fields: _ }: Change) -> Response {
    match visit.app.services.rotate_root_key().await {
        Ok(key) => {
            visit
                .session
                .notify(Notice::done(format!("The vault has the new root key `{key}`.")));
            see_other("/keys")
        }
        Err(failure) => root_page(&visit, Some(&error(failure))),
    }
}

fn error(failure: Failure) -> FormError {
    let is_refusal = failure.kind == FailureKind::Refused;
    let error = FormError::from(failure);
    match is_refusal {
        true => error.hint("go back to the keys: the page shows the present state of each"),
        false => error,
    }
}

fn workspace_page(visit: &PageRequest, workspace: &str, error: Option<&FormError>) -> Response {
    let text = html! {
        p { "The workspace gets a new key at once, which encrypts everything that is put from then on." }
        p {
            "In the background the vault moves all versions to the new key, without decrypting any value, and then destroys the \
             old key. Calls, puts and restores go on meanwhile. Nothing else changes: no program has to know."
        }
    };
    let title = html! { "Rotate the key of " span.mono { (workspace) } "?" };
    let action = format!("/keys/workspaces/{workspace}/rotate");
    page(
        visit,
        &format!("Rotate {workspace}"),
        &title,
        &text,
        &action,
        error,
    )
}

fn root_page(visit: &PageRequest, error: Option<&FormError>) -> Response {
    let text = html! {
        p {
            "The vault makes a new root key and encrypts the store key with it. The old root key exists no more when the page \
             answers, except in backups that were made before."
        }
        p {
            "With a passphrase: write the new passphrase into its file first, if you want to change it. Until the rotation, a \
             restart needs the old one."
        }
    };
    let title = html! { "Rotate the root key?" };
    page(
        visit,
        "Rotate the root key",
        &title,
        &text,
        "/keys/root-key/rotate",
        error,
    )
}

fn page(
    visit: &PageRequest,
    title: &str,
    heading: &Markup,
    text: &Markup,
    action: &str,
    error: Option<&FormError>,
) -> Response {
    let body = html! {
        (breadcrumb(&[("Keys", "/keys")]))
        h1 { (heading) }
        (error_summary(error, &[]))
        div.prose { (text) }
        form.stack method="post" action=(action) {
            (hidden(visit.session.csrf.reveal()))
            (submit(Submit::Primary, "Rotate", "/keys"))
        }
    };
    render_form(visit, title, Section::Keys, error, &body)
}
