//! `/w/{workspace}/secrets`: the secrets of a workspace, with a filter and pages.

use axum::response::Response;
use maud::{Markup, html};
use proto::vault::v1::Secret;

use super::{
    frame::{Tab, failure_page, render, workspace_head},
    paths::InWorkspace,
    plan,
};
use crate::console::{
    guard::{PageRequest, QueryFields},
    view::{Section, cell, chips, count, date, empty, expiry, icon, moment, now},
    workspace_access::WorkspaceAccess,
};

/// Number of secrets on one page.
const PAGE_SIZE: usize = 100;

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
    let selection = Selection::of(&secrets, query.text("q"), query.number("page"));
    let body = html! {
        (workspace_head(name, Tab::Secrets))
        (looking_only(&access))
        @if secrets.is_empty() {
            (no_secrets(name, &access))
        } @else {
            (toolbar(name, &access, selection.filter))
            (results(name, &access, &selection))
        }
    };
    render(&visit, &format!("Secrets of {name}"), Section::Workspaces, &body)
}

/// The secrets that one page shows.
struct Selection<'a> {
    filter: &'a str,
    matching: usize,
    total: usize,
    /// Counts from 1.
    page: usize,
    pages: usize,
    shown: Vec<&'a Secret>,
}

impl<'a> Selection<'a> {
    fn of(secrets: &'a [Secret], filter: &'a str, page: usize) -> Self {
        let matching: Vec<_> = secrets.iter().filter(|secret| matches(secret, filter)).collect();
        let pages = matching.len().div_ceil(PAGE_SIZE).max(1);
        let page = page.clamp(1, pages);
        Self {
            filter,
            matching: matching.len(),
            total: secrets.len(),
            page,
            pages,
            shown: matching
                .into_iter()
                .skip((page - 1) * PAGE_SIZE)
                .take(PAGE_SIZE)
                .collect(),
        }
    }

    fn path(&self, workspace: &str, page: usize) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if !self.filter.is_empty() {
            query.append_pair("q", self.filter);
        }
        query.append_pair("page", &page.to_string());
        format!("/w/{workspace}/secrets?{}", query.finish())
    }
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

fn toolbar(workspace: &str, access: &WorkspaceAccess, filter: &str) -> Markup {
    html! {
        div.toolbar {
            form.filter role="search" method="get" action={ "/w/" (workspace) "/secrets" } data-filter="results" {
                label.hidden-text for="q" { "Filter by name, label or origin" }
                (icon("search"))
                input #q name="q" type="search" value=(filter) placeholder="Filter by name, label or origin"
                    autocomplete="off" spellcheck="false";
                noscript { button.button type="submit" { "Filter" } }
            }
            @if let WorkspaceAccess::Admin(workspace) = access { (plan::usage(workspace.plan(), workspace.secret_count)) }
            @if access.may_edit() { div.actions { (import_button(workspace)) (add_button(workspace)) } }
        }
    }
}

fn results(workspace: &str, access: &WorkspaceAccess, selection: &Selection<'_>) -> Markup {
    let now = now();
    html! {
        // Outside of the results, because the script replaces the results and only changes this text.
        p #results-count.hidden-text role="status" { (count(selection.matching, "secret")) " shown" }
        div #results {
            @if selection.shown.is_empty() {
                div.empty {
                    h2 { "No secret matches" }
                    p { "None of the " (count(selection.total, "secret")) " has “" (selection.filter) "” in its name, a label or an origin." }
                    a.button href={ "/w/" (workspace) "/secrets" } { "Show all" }
                }
            } @else {
                table {
                    thead {
                        tr {
                            th { "Name" } th.number { "Version" } th { "Updated" } th { "Expires" } th { "Last used" }
                            th { "Sent only to" } @if access.may_edit() { th { span.hidden-text { "Actions" } } }
                        }
                    }
                    tbody { @for secret in &selection.shown { (row(workspace, secret, access.may_edit(), now)) } }
                }
                (pager(workspace, selection))
            }
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

fn pager(workspace: &str, selection: &Selection<'_>) -> Markup {
    let Selection {
        filter: _,
        matching,
        total: _,
        page,
        pages,
        shown,
    } = selection;
    let first = (page - 1) * PAGE_SIZE + 1;
    html! {
        @if *pages > 1 {
            nav.pager aria-label="Pages" {
                @if *page > 1 { a.button.small rel="prev" href=(selection.path(workspace, page - 1)) { "Previous" } }
                span.number { (first) "–" (first + shown.len() - 1) " of " (count(*matching, "secret")) }
                @if page < pages { a.button.small rel="next" href=(selection.path(workspace, page + 1)) { "Next" } }
            }
        }
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

    #[test]
    fn pages_cover_every_secret_once() {
        let secrets: Vec<_> = (0..250).map(|number| secret(&format!("S{number:03}"))).collect();
        let shown = |page| Selection::of(&secrets, "", page).shown.len();
        assert_eq!(
            [shown(0), shown(1), shown(2), shown(3), shown(99)],
            [100, 100, 100, 50, 50]
        );
        let second = Selection::of(&secrets, "s", 2);
        assert_eq!(second.path("w", 3), "/w/w/secrets?q=s&page=3");
        assert_eq!(
            second.shown.first().map(|secret| secret.name.as_str()),
            Some("S100")
        );
    }
}
