//! `/w/{workspace}/servers/{name}/delete`

use axum::response::Response;
use maud::html;
use proto::{injector::v1::Server, vault::v1::Secret};

use super::{
    super::{
        frame::{failure_page, render_form, see_other},
        paths::OfServer,
    },
    access::{may_change, not_allowed},
    breadcrumb::server_breadcrumb,
    shown_state::ShownState,
};
use crate::console::{
    guard::{Change, PageRequest},
    view::{FormError, Notice, Section, Submit, chips, error_summary, hidden, submit},
};

pub(in crate::console) async fn confirm(of: OfServer, visit: PageRequest) -> Response {
    match may_change(&visit, &of.workspace).await {
        true => page(&visit, &of, None).await,
        false => not_allowed(&visit),
    }
}

pub(in crate::console) async fn delete(of: OfServer, Change { visit, fields }: Change) -> Response {
    let services = &visit.app.services;
    let present = match services.server(&of.workspace, &of.name).await {
        Ok(present) => present,
        Err(failure) => return failure_page(&visit, Section::Workspaces, failure),
    };
    if let Err(error) = ShownState::of_form(&fields).compare(&present) {
        let error = error.hint("this is its present state: delete it only if you still want to");
        return page(&visit, &of, Some(error)).await;
    }
    match services
        .remove_server(&of.workspace, &of.name, present.revision)
        .await
    {
        Ok(()) => {
            let text = format!("The server `{}` was deleted. Calls under way finish.", of.name);
            visit.session.notify(Notice::done(text));
            see_other(&format!("/w/{}/servers", of.workspace))
        }
        Err(failure) => page(&visit, &of, Some(failure.into())).await,
    }
}

async fn page(visit: &PageRequest, of: &OfServer, error: Option<FormError>) -> Response {
    let server = match visit.app.services.server(&of.workspace, &of.name).await {
        Ok(server) => server,
        Err(failure) => return failure_page(visit, Section::Workspaces, failure),
    };
    let secrets = visit
        .app
        .services
        .secrets(of.workspace.as_str())
        .await
        .unwrap_or_default();
    let name = of.name.as_str();
    let body = html! {
        (server_breadcrumb(of.workspace.as_str(), Some(name)))
        h1 { "Delete " span.mono { (name) } "?" }
        (error_summary(error.as_ref(), &[]))
        p {
            "Programs that call " code { "/" (of.workspace) "/" (name) "/…" } " then get the answer 404. "
            "Calls under way finish."
        }
        (secrets_stay(&server, &secrets))
        form.stack method="post" action={ (of.path()) "/delete" } {
            (hidden(visit.session.csrf.reveal()))
            (ShownState::of(&server).fields())
            (submit(Submit::Danger, "Delete server", &of.path()))
        }
    };
    render_form(
        visit,
        &format!("Delete {name}"),
        Section::Workspaces,
        error.as_ref(),
        &body,
    )
}

/// `secrets` are those of the workspace. A server may also name secrets that do not exist.
fn secrets_stay(server: &Server, secrets: &[Secret]) -> maud::Markup {
    let exists = |name: &&str| secrets.iter().any(|secret| secret.name == **name);
    let stay: Vec<_> = server
        .inject_secrets
        .iter()
        .map(String::as_str)
        .filter(exists)
        .collect();
    html! {
        @if !stay.is_empty() {
            p { "Its secrets stay in the workspace:" }
            (chips(stay))
        }
    }
}
