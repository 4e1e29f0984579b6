//! `/w/{workspace}/secrets/{name}`: the metadata of a secret, and its kept versions.

use axum::response::Response;
use maud::{Markup, html};
use prost_types::Timestamp;
use proto::{
    Reason, SecretName, WorkspaceName,
    vault::v1::{RestoreSecretVersionRequest, RestoreSecretVersionResponse, Secret, SecretVersion},
};

use super::{
    frame::{failure_page, render_form, see_other},
    paths::OfSecret,
    secret_put::secret_breadcrumb,
    secrets::{labels, last_used, looking_only, origins},
};
use crate::{
    console::{
        guard::{Change, PageRequest},
        view::{
            FormError, Notice, Section, cell, chips, count, error_summary, expiry, facts, grouped, hidden,
            link_chips, moment, now, prose, sentence, with_full_time,
        },
    },
    failure::Failure,
};

pub(in crate::console) async fn show(OfSecret { workspace, name }: OfSecret, visit: PageRequest) -> Response {
    page(&visit, &workspace, &name, None).await
}

pub(in crate::console) async fn restore(
    OfSecret { workspace, name }: OfSecret,
    Change { visit, fields }: Change,
) -> Response {
    let version = fields.number("version");
    let request = RestoreSecretVersionRequest {
        workspace: workspace.as_str().to_owned(),
        name: name.as_str().to_owned(),
        version,
        expiry: None,
        // A version is restored only in the state that the page showed.
        expected_version: Some(fields.number("present")),
        // The request has no id, because the console never sends it again.
        request_id: String::new(),
        allow_wider_origins: false,
        allow_later_expiry: false,
    };
    match visit.app.services.restore_version(request).await {
        Ok(RestoreSecretVersionResponse { secret, warnings }) => {
            let new = secret.unwrap_or_default().version;
            visit.session.notify(Notice::done(format!(
                "The value of version {version} is the present one again, as version {new}."
            )));
            for warning in warnings {
                visit.session.notify(Notice::warning(warning.message));
            }
            see_other(&format!("/w/{workspace}/secrets/{name}"))
        }
        Err(failure) => {
            let error = restore_error(failure, &workspace, &name, version);
            page(&visit, &workspace, &name, Some(error)).await
        }
    }
}

/// Names the command line for a restore that only an administrator can make, and that the console does not offer.
fn restore_error(failure: Failure, workspace: &WorkspaceName, name: &SecretName, version: u64) -> FormError {
    let command = format!("aerostack workspace secret restore {workspace} {name} --version {version}");
    match failure.reason {
        Some(Reason::RestoreWidensOrigins) => FormError::from(failure).hint(format!(
            "replace the value, or have an administrator run `{command} --allow-wider-origins`"
        )),
        Some(Reason::RestoreExtendsExpiry) => FormError::from(failure).hint(format!(
            "replace the value, or have an administrator run `{command} --allow-later-expiry`; `--expires-in`, \
             `--expires-at` or `--never-expires` gives another expiry than that of the old version"
        )),
        _ => FormError::from(failure),
    }
}

async fn page(
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
        (error_summary(error.as_ref()))
        (metadata(workspace, &secret, &servers))
        h2 { "Versions" }
        @if may_edit {
            p.quiet { "A restore makes the value of an older version the present one. It shows the value to nobody." }
        }
        (version_table(&secret, &versions, &path, may_edit.then(|| visit.session.csrf.reveal())))
    };
    render_form(visit, name.as_str(), Section::Workspaces, error.as_ref(), &body)
}

fn metadata(workspace: &str, secret: &Secret, servers: &Result<Vec<String>, Failure>) -> Markup {
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
        ("Servers that get it", servers_of(workspace, servers)),
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
fn servers_of(workspace: &str, servers: &Result<Vec<String>, Failure>) -> Markup {
    html! {
        @match servers {
            Ok(servers) if servers.is_empty() => span.quiet { "none" },
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

/// Returns the kept versions, with a form for each to restore it when there is a `csrf` token for it.
fn version_table(secret: &Secret, versions: &[SecretVersion], path: &str, csrf: Option<&str>) -> Markup {
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
                @for version in versions { (version_row(version, secret.version, path, csrf, now)) }
            }
        }
    }
}

fn version_row(version: &SecretVersion, present: u64, path: &str, csrf: Option<&str>, now: i64) -> Markup {
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
                @if number == present { span.badge.good { "present" } } @else if let Some(csrf) = csrf {
                    form method="post" action={ (path) "/restore" } {
                        (hidden(csrf))
                        input type="hidden" name="version" value=(number);
                        input type="hidden" name="present" value=(present);
                        button.button.small type="submit" aria-label={ "Restore version " (number) } { "Restore" }
                    }
                }
            }
        }
    }
}
