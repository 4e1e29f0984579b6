//! `/w/{workspace}/add-server/form`: the form for a new server, empty or filled from the catalog.

use axum::response::Response;
use maud::html;
use proto::{
    Warning, WarningKind, WorkspaceName,
    injector::v1::{AuthType, CatalogEntry, Server},
};

use super::{
    super::{
        frame::{breadcrumb, failure_page, render_form, see_other},
        paths::InWorkspace,
    },
    access::{may_change, not_allowed, unreadable_form},
    explained::add_path,
    form::ServerForm,
    form_view::{FormContext, form_view},
    message::refusal,
    rows::PlaceRow,
    step::FormStep,
};
use crate::{
    console::{
        fields::Fields,
        guard::{Change, PageRequest, QueryFields},
        sign_in::Session,
        view::{FormError, Notice, Section, prose, sentence},
    },
    failure::{Failure, FailureKind},
};

pub(in crate::console) async fn new(
    InWorkspace(workspace): InWorkspace,
    QueryFields(query): QueryFields,
    visit: PageRequest,
) -> Response {
    if !may_change(&visit, &workspace).await {
        return not_allowed(&visit);
    }
    let form = match entry(&visit, query.text("entry")).await {
        Ok(Some(entry)) => ServerForm::of_entry(&entry).with_secret(query.text("secret")),
        Ok(None) => filled(&visit, &workspace, &query).await,
        Err(failure) => return failure_page(&visit, Section::Workspaces, failure),
    };
    page(&visit, &workspace, &form, None, "").await
}

/// Returns the form without an entry. A page about a secret names the secret, and the choice of servers the demo upstream.
async fn filled(visit: &PageRequest, workspace: &WorkspaceName, query: &Fields) -> ServerForm {
    let mut form = ServerForm::new().with_secret(query.text("secret"));
    if let Some(upstream) = visit.app.demo_upstream
        && query.is_set("demo")
    {
        let servers = visit.app.services.servers(workspace.as_str()).await;
        form.name = free_name("echo", &servers.unwrap_or_default());
        form.url = format!("http://{upstream}");
    }
    form
}

/// Returns `name`, or `name-2` and so on when the workspace has a server of this name.
fn free_name(name: &str, servers: &[Server]) -> String {
    let mut free = name.to_owned();
    let mut number = 2;
    while servers.iter().any(|server| server.name == free) {
        free = format!("{name}-{number}");
        number += 1;
    }
    free
}

pub(in crate::console) async fn add(
    InWorkspace(workspace): InWorkspace,
    Change { visit, fields }: Change,
) -> Response {
    let mut form = match ServerForm::of(&fields) {
        Ok(form) => form,
        Err(unreadable) => return unreadable_form(&visit, &unreadable),
    };
    if let Some(step) = FormStep::of(&fields) {
        let focus = step.apply(&mut form);
        return page(&visit, &workspace, &form, None, &focus).await;
    }
    form.remove_blank_rows();
    match send(&visit, &workspace, &form).await {
        Ok((server, warnings)) => {
            let name = &server.name;
            visit.session.notify(added(&visit, &server, &warnings));
            warn(&visit.session, workspace.as_str(), warnings);
            see_other(&format!("/w/{workspace}/servers/{name}"))
        }
        Err(error) => {
            form.forget_pasted_credentials(None);
            page(&visit, &workspace, &form, Some(&error), "").await
        }
    }
}

/// Says that a server was added, and what to do next: put a secret that calls miss, or else try a call.
fn added(visit: &PageRequest, server: &Server, warnings: &[Warning]) -> Notice {
    let name = &server.name;
    let added = format!("The server `{name}` was added.");
    let absent = warnings.iter().find(|warning| {
        matches!(
            warning.kind(),
            WarningKind::SecretMissing | WarningKind::SecretExpired
        )
    });
    match absent {
        Some(warning) if warning.kind() == WarningKind::SecretMissing => {
            let secret = &warning.secret;
            Notice::done(format!(
                "{added} It gets the secret `{secret}`, which does not exist yet."
            ))
            .link(add_path(server, secret), format!("Add {secret}"))
        }
        Some(warning) => {
            let secret = &warning.secret;
            let path = format!("/w/{}/secrets/{secret}/replace", server.workspace);
            Notice::done(format!(
                "{added} It gets the secret `{secret}`, which has expired."
            ))
            .link(path, "Replace its value")
        }
        None if visit.app.allows_calls() => {
            let path = format!("/w/{}/servers/{name}/call", server.workspace);
            Notice::done(added).link(path, "Try a call to see it work")
        }
        None => Notice::done(added),
    }
}

/// Keeps warnings for the next page, which is that of the server. It shows the state of each secret by itself. The injector's
/// warning of a secret without origins names the API and the command line, so the console has words of its own.
pub(super) fn warn(session: &Session, workspace: &str, warnings: Vec<Warning>) {
    let is_of_secret = |warning: &Warning| {
        matches!(
            warning.kind(),
            WarningKind::SecretMissing
                | WarningKind::SecretExpired
                | WarningKind::ValueUnfit
                | WarningKind::SecretUnreadable
                | WarningKind::NotChecked
        )
    };
    for warning in warnings.into_iter().filter(|warning| !is_of_secret(warning)) {
        session.notify(match warning.kind() {
            WarningKind::SecretUnbound => {
                let secret = &warning.secret;
                Notice::warning(format!(
                    "`{secret}` may be sent to any origin: everybody who may edit servers can have it sent to a server of their own. \
                     Replace its value with `Send only to` filled in to prevent this."
                ))
                .link(format!("/w/{workspace}/secrets/{secret}"), format!("See {secret}"))
            }
            _ => Notice::warning(sentence(&warning.message)),
        });
    }
}

async fn send(
    visit: &PageRequest,
    workspace: &WorkspaceName,
    form: &ServerForm,
) -> Result<(Server, Vec<Warning>), FormError> {
    form.check(None)?;
    let entry = entry(visit, &form.entry).await.map_err(FormError::from)?;
    let (server, catalog_entry) = with_entry(form.server(workspace.as_str()), entry.as_ref());
    let added = visit.app.services.add_server(server, catalog_entry).await;
    added.map_err(|failure| refusal(failure, form.credential_field()))
}

/// Returns the server as it is sent, and the name of the entry that completes it; empty when no entry does.
fn with_entry(mut server: Server, entry: Option<&CatalogEntry>) -> (Server, String) {
    let Some(entry) = entry else {
        return (server, String::new());
    };
    // Only a server at the URL of the entry gets the entry's TLS settings, and only a request without a URL says so.
    let is_at_url = server.url == entry.url && server.tls.is_none() && !server.allow_plaintext;
    let names_secrets = !server.inject_secrets.is_empty() || !server.injections.is_empty();
    // The injector gives all secrets of the entry to a server that names none. The picture showed only those in the URL.
    let has_only_url = || {
        let shown = ServerForm::of_entry(entry);
        entry.auth_type() == AuthType::Custom && shown.places.iter().all(PlaceRow::is_blank)
    };
    let wants_secrets_of_url = is_at_url && server.auth_type() == AuthType::Unspecified && has_only_url();
    if !names_secrets && !wants_secrets_of_url {
        return (server, String::new());
    }
    if is_at_url {
        server.url.clear();
    }
    (server, entry.name.clone())
}

/// Returns the entry of the catalog with this name, and `None` for an empty name.
async fn entry(visit: &PageRequest, name: &str) -> Result<Option<CatalogEntry>, Failure> {
    if name.is_empty() {
        return Ok(None);
    }
    let entries = visit.app.services.catalog().await?;
    let entry = entries.into_iter().find(|entry| entry.name == name);
    entry.map(Some).ok_or_else(|| {
        Failure::new(
            FailureKind::NotFound,
            format_args!("the catalog has no entry {name}"),
        )
        .hint("choose another entry, or add the server by its URL")
    })
}

async fn page(
    visit: &PageRequest,
    workspace: &WorkspaceName,
    form: &ServerForm,
    error: Option<&FormError>,
    focus: &str,
) -> Response {
    let (secrets, entry) = tokio::join!(
        visit.app.services.secrets(workspace.as_str()),
        entry(visit, &form.entry)
    );
    let secrets = match secrets {
        Ok(secrets) => Some(secrets),
        // The workspace does not exist, or this identity may not see it.
        Err(failure) if matches!(failure.kind, FailureKind::NotFound) => {
            return failure_page(visit, Section::Workspaces, failure);
        }
        Err(_) => None,
    };
    let entry = entry.ok().flatten();
    let example = entry
        .as_ref()
        .filter(|entry| entry.needs_url)
        .map(|entry| entry.url.as_str());
    let context = FormContext {
        workspace: workspace.as_str(),
        action: format!("/w/{workspace}/add-server/form"),
        back: format!("/w/{workspace}/servers"),
        button: "Add server",
        edited: None,
        secrets: secrets.as_deref(),
        url_example: example.unwrap_or_default(),
        csrf: visit.session.csrf.reveal(),
        focus,
    };
    let (list, choose) = (
        format!("/w/{workspace}/servers"),
        format!("/w/{workspace}/add-server"),
    );
    let body = html! {
        (breadcrumb(&[("Workspaces", "/"), (workspace.as_str(), &list), ("Add server", &choose)]))
        h1 { @if let Some(entry) = &entry { "Add " span.mono { (entry.name) } } @else { "Add a server by its URL" } }
        @if let Some(entry) = &entry { (about(entry)) }
        (form_view(&context, form, error))
    };
    render_form(
        visit,
        &format!("Add a server to {workspace}"),
        Section::Workspaces,
        error,
        &body,
    )
}

fn about(entry: &CatalogEntry) -> maud::Markup {
    html! {
        p.quiet {
            (prose(&sentence(&entry.description)))
            @if entry.documentation_url.starts_with("https://") {
                " "
                a href=(entry.documentation_url) rel="noopener noreferrer external" {
                    "The vendor’s page about its credential"
                }
                "."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::injector::v1::{HeaderPlacement, Injection, PathPlacement, injection::Placement};

    use super::*;

    fn entry(url: &str, placements: Vec<Placement>) -> CatalogEntry {
        let injection = |placement| Injection {
            required: true,
            placement: Some(placement),
        };
        CatalogEntry {
            name: "@a/b".to_owned(),
            url: url.to_owned(),
            auth_type: AuthType::Custom.into(),
            injections: placements.into_iter().map(injection).collect(),
            ..Default::default()
        }
    }

    fn header() -> Placement {
        Placement::Header(HeaderPlacement {
            name: "x-key".to_owned(),
            value: "${A}".to_owned(),
        })
    }

    fn path() -> Placement {
        let variable = "P".to_owned();
        Placement::Path(PathPlacement { variable })
    }

    #[test]
    fn an_entry_adds_no_secret_that_the_picture_did_not_show() {
        let url = "https://a.example/${P}";
        let (mixed, only_url) = (entry(url, vec![header(), path()]), entry(url, vec![path()]));
        let sent = |entry: &CatalogEntry, edit: fn(&mut ServerForm)| {
            let mut form = ServerForm::of_entry(entry);
            edit(&mut form);
            let (server, name) = with_entry(form.server("w"), Some(entry));
            (server.url, !name.is_empty())
        };
        let as_it_is = |_: &mut ServerForm| {};
        assert_eq!(sent(&mixed, as_it_is), (String::new(), true));
        assert_eq!(sent(&only_url, as_it_is), (String::new(), true));
        // The person removed the header: the secret in the URL is all that the server is to get.
        assert_eq!(sent(&mixed, |form| form.places.clear()), (url.to_owned(), false));
        for edit in [
            (|form| form.auth = super::super::form::Auth::Nothing) as fn(&mut ServerForm),
            |form| form.url = "https://b.example/${P}".to_owned(),
        ] {
            assert!(!sent(&only_url, edit).1);
        }
        let elsewhere = "https://b.example";
        let moved = sent(&mixed, |form| form.url = "https://b.example".to_owned());
        assert_eq!(moved, (elsewhere.to_owned(), true));
    }
}
