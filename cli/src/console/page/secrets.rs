//! `/w/{workspace}/secrets`: the secrets of a workspace, with a filter and pages.

use axum::response::Response;
use maud::{Markup, html};
use proto::vault::v1::Secret;

use super::{
    frame::{Tab, failure_page, render, workspace_head},
    paths::InWorkspace,
    plan,
    selection::{ListKind, Selection},
};
use crate::console::{
    guard::{PageRequest, QueryFields},
    view::{Section, cell, chips, date, empty, expiry, icon, moment, now},
    workspace_access::WorkspaceAccess,
};

const SECRETS: ListKind = ListKind {
    path: "secrets",
    noun: "secret",
    filter_label: "Filter by name, label or origin",
    filter_places: "its name, a label or an origin",
    page_size: 100,
};

pub(in crate::console) async fn list(
    InWorkspace(workspace): InWorkspace,
    QueryFields(query): QueryFields,
    visit: PageRequest,
) -> Response {
    let (name, services) = (workspace.as_str(), &visit.app.services);
    let (access, secrets) = match tokio::try_join!(services.workspace_access(name), services.secrets(name)) {
        Ok(answers) => answers,
        Err(failure) => return failure_page(&visit, Section::Workspaces, failure),
    };
    let selection = Selection::of(&SECRETS, name, &secrets, &query, matches);
    let body = html! {
        (workspace_head(name, Tab::Secrets))
        (looking_only(&access))
        @if secrets.is_empty() {
            (no_secrets(name, &access))
        } @else {
            (toolbar(&selection, &access, name))
            (selection.results(&table(name, &access, &selection.shown)))
        }
    };
    render(&visit, &format!("Secrets of {name}"), Section::Workspaces, &body)
}

/// Returns true when the name, a label or an origin contains the text of the filter. In a name, `-` and `.` are `_`.
fn matches(secret: &Secret, filter: &str) -> bool {
    let wanted = filter.to_ascii_lowercase();
    let in_name = filter.to_ascii_uppercase().replace(['-', '.', ' '], "_");
    let has = |text: &str| text.to_ascii_lowercase().contains(&wanted);
    secret.name.contains(&in_name)
        || secret
            .labels
            .iter()
            .any(|(key, value)| has(&format!("{key}={value}")))
        || secret.upstream_origins.iter().any(|origin| has(origin))
}

fn add_button(workspace: &str) -> Markup {
    html! { a.button.primary href={ "/w/" (workspace) "/secrets/new" } { (icon("plus")) "Add secret" } }
}

fn import_button(workspace: &str) -> Markup {
    html! { a.button href={ "/w/" (workspace) "/secrets/import" } { "Paste many" } }
}

/// Says why a page offers no changes of secrets.
pub(super) fn looking_only(access: &WorkspaceAccess) -> Markup {
    html! {
        @if !access.may_edit() {
            p.quiet {
                "You may look at the secrets of this workspace, and not change them: this identity is a viewer here. The operator of "
                "the vault grants more with its settings " code { "--editor" } " and " code { "--admin" } "."
            }
        }
    }
}

fn no_secrets(workspace: &str, access: &WorkspaceAccess) -> Markup {
    if !access.may_edit() {
        let text = html! { "This workspace has no secrets, or does not exist." };
        return empty("secret", "There is no secret", &text, &html! {});
    }
    let text = html! {
        "Put an API key or a password here, and no person can read it back. The injector gives it to the servers that you "
        "choose, at the moment of a call."
    };
    let actions = html! { div.actions { (add_button(workspace)) (import_button(workspace)) } };
    empty("secret", "Add the first secret", &text, &actions)
}

fn toolbar(selection: &Selection<'_, Secret>, access: &WorkspaceAccess, workspace: &str) -> Markup {
    html! {
        div.toolbar {
            (selection.filter_form())
            @if let WorkspaceAccess::Admin(workspace) = access { (plan::usage(workspace.plan(), workspace.secret_count)) }
            @if access.may_edit() { div.actions { (import_button(workspace)) (add_button(workspace)) } }
        }
    }
}

fn table(workspace: &str, access: &WorkspaceAccess, secrets: &[&Secret]) -> Markup {
    let now = now();
    html! {
        table {
            thead {
                tr {
                    th { "Name" } th.number { "Version" } th { "Updated" } th { "Expires" } th { "Last used" }
                    th { "Sent only to" } @if access.may_edit() { th { span.hidden-text { "Actions" } } }
                }
            }
            tbody { @for secret in secrets { (row(workspace, secret, access.may_edit(), now)) } }
        }
    }
}

fn row(workspace: &str, secret: &Secret, may_edit: bool, now: i64) -> Markup {
    let path = format!("/w/{workspace}/secrets/{}", secret.name);
    let labels = labels(secret);
    html! {
        tr {
            th scope="row" {
                a.mono href=(path) { (secret.name) }
                @if !labels.is_empty() { (chips(labels.iter().map(String::as_str))) }
            }
            td.number data-head="Version" { (secret.version) }
            (cell("Updated", &updated(secret, now)))
            (cell("Expires", &expiry(secret.expires_at.as_ref(), secret.expired, now)))
            (cell("Last used", &last_used(secret, now)))
            (cell("Sent only to", &origins(&secret.upstream_origins)))
            @if may_edit {
                td.row-actions { a.button.small href={ (path) "/replace" } aria-label={ "Replace " (secret.name) } { "Replace" } }
            }
        }
    }
}

pub(super) fn labels(secret: &Secret) -> Vec<String> {
    let labels = secret.labels.iter();
    labels.map(|(key, value)| format!("{key}={value}")).collect()
}

fn updated(secret: &Secret, now: i64) -> Markup {
    html! {
        (moment(secret.update_time.as_ref(), now))
        @if secret.create_time != secret.update_time {
            small { "created " (date(secret.create_time.as_ref())) }
        }
    }
}

pub(super) fn last_used(secret: &Secret, now: i64) -> Markup {
    html! {
        @if secret.last_decrypt_time.is_some() {
            (moment(secret.last_decrypt_time.as_ref(), now))
            @if !secret.last_decrypt_server.is_empty() { small { "by " (secret.last_decrypt_server) } }
        } @else { span.quiet { "not yet" } }
    }
}

pub(super) fn origins(origins: &[String]) -> Markup {
    html! {
        @if origins.is_empty() { span.quiet { "any origin" } }
        @else { (chips(origins.iter().map(String::as_str))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str) -> Secret {
        Secret {
            name: name.to_owned(),
            upstream_origins: vec!["https://api.github.com".to_owned()],
            labels: [("team".to_owned(), "Payments".to_owned())].into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_filter_finds_names_labels_and_origins() {
        let secret = secret("GITHUB_TOKEN");
        for filter in ["", "github-tok", "GITHUB", "team=pay", "API.github", "hub token"] {
            assert!(matches(&secret, filter), "{filter}");
        }
        for filter in ["gitlab", "owner", "stripe.com"] {
            assert!(!matches(&secret, filter), "{filter}");
        }
    }
}
