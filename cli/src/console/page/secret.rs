//! `/w/{workspace}/secrets/{name}`: the metadata of a secret, and its kept versions.

use axum::response::Response;
use maud::{Markup, html};
use prost_types::Timestamp;
use proto::{
    SecretName, WorkspaceName,
    vault::v1::{Secret, SecretVersion},
};

use super::{
    frame::{failure_page, render_form},
    paths::OfSecret,
    secret_put::secret_breadcrumb,
    secrets::{labels, last_used, looking_only, origins},
};
use crate::{
    console::{
        guard::PageRequest,
        view::{
            FormError, Section, cell, chips, count, error_summary, expiry, facts, grouped, link_chips,
            moment, now, prose, sentence, with_full_time,
        },
    },
    failure::Failure,
};

pub(in crate::console) async fn show(OfSecret { workspace, name }: OfSecret, visit: PageRequest) -> Response {
    page(&visit, &workspace, &name, None).await
}

pub(super) async fn page(
    visit: &PageRequest,
    workspace: &WorkspaceName,
    name: &SecretName,
    error: Option<FormError>,
) -> Response {
    let (services, workspace) = (&visit.app.services, workspace.as_str());
    let (access, secret, versions, servers) = tokio::join!(
        services.workspace_access(workspace),
        services.secret(workspace, name),
        services.versions(workspace, name),
        services.servers_with(workspace, name),
    );
    let (access, secret, versions) = match (access, secret, versions) {
        (Ok(access), Ok(secret), Ok(versions)) => (access, secret, versions),
        (Err(failure), _, _) | (_, Err(failure), _) | (_, _, Err(failure)) => {
            return failure_page(visit, Section::Workspaces, failure);
        }
    };
    let may_edit = access.may_edit();
    let path = format!("/w/{workspace}/secrets/{name}");
    let body = html! {
        (secret_breadcrumb(workspace, None))
        div.heading {
            h1.mono { (name) }
            @if may_edit {
                div.actions {
                    a.button.primary href={ (path) "/replace" } { "Replace value" }
                    a.button href={ (path) "/delete" } { "Delete" }
                }
            }
        }
        (looking_only(&access))
        (error_summary(error.as_ref(), &[]))
        (metadata(workspace, &secret, &servers, may_edit))
        h2 { "Versions" }
        @if may_edit {
            p.quiet { "A restore makes the value of an older version the present one. It shows the value to nobody." }
        }
        (version_table(&secret, &versions, &path, may_edit))
    };
    render_form(visit, name.as_str(), Section::Workspaces, error.as_ref(), &body)
}

fn metadata(
    workspace: &str,
    secret: &Secret,
    servers: &Result<Vec<String>, Failure>,
    may_edit: bool,
) -> Markup {
    let now = now();
    let labels = labels(secret);
    let uses = usize::try_from(secret.decrypt_count).unwrap_or(usize::MAX);
    facts([
        ("Version", html! { (secret.version) }),
        ("Value since", exact_moment(secret.update_time.as_ref(), now)),
        ("Created", exact_moment(secret.create_time.as_ref(), now)),
        (
            "Expires",
            exact_expiry(secret.expires_at.as_ref(), secret.expired, now),
        ),
        (
            "Last used",
            with_full_time(&last_used(secret, now), secret.last_decrypt_time.as_ref()),
        ),
        ("Uses", html! { (grouped(uses)) }),
        ("Sent only to", origins(&secret.upstream_origins)),
        (
            "Servers that get it",
            servers_of(workspace, &secret.name, servers, may_edit),
        ),
        (
            "Labels",
            html! {
                @if labels.is_empty() { span.quiet { "none" } } @else { (chips(labels.iter().map(String::as_str))) }
            },
        ),
    ])
}

fn exact_moment(time: Option<&Timestamp>, now: i64) -> Markup {
    with_full_time(&moment(time, now), time)
}

fn exact_expiry(expires_at: Option<&Timestamp>, is_expired: bool, now: i64) -> Markup {
    with_full_time(&expiry(expires_at, is_expired, now), expires_at)
}

/// Returns the servers that get a secret, or the reason why they are not known.
fn servers_of(
    workspace: &str,
    secret: &str,
    servers: &Result<Vec<String>, Failure>,
    may_edit: bool,
) -> Markup {
    html! {
        @match servers {
            Ok(servers) if servers.is_empty() => {
                span.quiet { "none" }
                @if may_edit {
                    " " a href={ "/w/" (workspace) "/add-server?secret=" (secret) } { "Add a server that gets it" }
                }
            },
            Ok(servers) => (links_to(workspace, servers)),
            Err(failure) => span.quiet { "not known: " (prose(&sentence(&failure.message))) },
        }
    }
}

/// Returns links to servers of a workspace.
pub(super) fn links_to(workspace: &str, servers: &[String]) -> Markup {
    let path = |name: &String| (format!("/w/{workspace}/servers/{name}"), name.clone());
    link_chips(servers.iter().map(path))
}

/// Returns the kept versions, each with the way to restore it if this identity may.
fn version_table(secret: &Secret, versions: &[SecretVersion], path: &str, may_edit: bool) -> Markup {
    let now = now();
    html! {
        table {
            caption.hidden-text { (count(versions.len(), "kept version")) }
            thead {
                tr {
                    th.number { "Version" } th { "Made" } th { "Expires" } th { "Sent only to" } th { "Labels" }
                    th { span.hidden-text { "Actions" } }
                }
            }
            tbody {
                @for version in versions { (version_row(version, secret.version, path, may_edit, now)) }
            }
        }
    }
}

fn version_row(version: &SecretVersion, present: u64, path: &str, may_edit: bool, now: i64) -> Markup {
    let number = version.version;
    let labels: Vec<_> = version
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    html! {
        tr {
            th.number scope="row" { (number) }
            (cell("Made", &exact_moment(version.create_time.as_ref(), now)))
            (cell("Expires", &exact_expiry(version.expires_at.as_ref(), version.expired, now)))
            (cell("Sent only to", &origins(&version.upstream_origins)))
            (cell("Labels", &chips(labels.iter().map(String::as_str))))
            td.row-actions {
                @if number == present {
                    span.badge.good { "current" }
                } @else if may_edit {
                    a.button.small href={ (path) "/restore?version=" (number) "&present=" (present) } aria-label={ "Restore version " (number) } { "Restore" }
                }
            }
        }
    }
}
