//! `/w/{workspace}/secrets/{name}/delete`

use axum::response::Response;
use maud::{Markup, html};
use proto::{SecretName, WorkspaceName};

use super::{
    frame::{failure_page, render_form, see_other},
    paths::OfSecret,
    secret::links_to,
    secret_access::change_refused,
    secret_put::secret_breadcrumb,
};
use crate::{
    console::{
        guard::{Change, PageRequest},
        view::{FormError, Notice, Section, Submit, error_summary, hidden, prose, sentence, submit},
    },
    failure::Failure,
};

pub(in crate::console) async fn confirm(
    OfSecret { workspace, name }: OfSecret,
    visit: PageRequest,
) -> Response {
    if let Some(refused) = change_refused(&visit, workspace.as_str()).await {
        return refused;
    }
    page(&visit, &workspace, &name, None).await
}

pub(in crate::console) async fn delete(
    OfSecret { workspace, name }: OfSecret,
    Change { visit, fields }: Change,
) -> Response {
    let services = &visit.app.services;
    match services
        .delete_secret(workspace.as_str(), &name, fields.number("version"))
        .await
    {
        Ok(()) => {
            visit
                .session
                .notify(Notice::done(format!("`{name}` was deleted.")));
            see_other(&format!("/w/{workspace}/secrets"))
        }
        Err(failure) => page(&visit, &workspace, &name, Some(failure.into())).await,
    }
}

async fn page(
    visit: &PageRequest,
    workspace: &WorkspaceName,
    name: &SecretName,
    error: Option<FormError>,
) -> Response {
    let (services, workspace) = (&visit.app.services, workspace.as_str());
    let (secret, servers) = tokio::join!(
        services.secret(workspace, name),
        services.servers_with(workspace, name)
    );
    let secret = match secret {
        Ok(secret) => secret,
        Err(failure) => return failure_page(visit, Section::Workspaces, failure),
    };
    let path = format!("/w/{workspace}/secrets/{name}");
    let body = html! {
        (secret_breadcrumb(workspace, Some(name.as_str())))
        h1 { "Delete " span.mono { (name) } "?" }
        (error_summary(error.as_ref(), &[]))
        p { "The secret is deleted with all its versions. Nothing can bring it back but a backup." }
        (consequences(workspace, &servers))
        form.stack method="post" action={ (path) "/delete" } {
            (hidden(visit.session.csrf.reveal()))
            input type="hidden" name="version" value=(secret.version);
            (submit(Submit::Danger, "Delete secret", &path))
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

/// Says which servers would no longer get the secret.
fn consequences(workspace: &str, servers: &Result<Vec<String>, Failure>) -> Markup {
    html! {
        @match servers {
            Ok(servers) if servers.is_empty() => p { "No server gets it." },
            Ok(servers) => div.notice.warn {
                div {
                    p { "These servers would no longer get it. Calls to them go out without it, or fail where it is required:" }
                    (links_to(workspace, servers))
                }
            }
            Err(failure) => div.notice.warn {
                p { "The servers that get it are not known. " (prose(&sentence(&failure.message))) }
            }
        }
    }
}
