//! `/w/{workspace}/servers`: the servers of a workspace, each with what a call to it would carry now.

use axum::response::Response;
use maud::{Markup, html};
use proto::injector::v1::{Injection, Server};

use super::{
    super::{
        frame::{Tab, failure_page, render, workspace_head},
        paths::InWorkspace,
    },
    access::{looking_only, may_change},
    mark::{Mark, Marks},
    place::{injections_of, place_name, secrets_of},
    span::blank,
    url::UrlParts,
};
use crate::{
    console::{
        guard::{PageRequest, QueryFields},
        services::Explained,
        view::{Section, cell, chips, count, empty, icon, prose, sentence},
    },
    failure::FailureKind,
};

/// Number of servers on one page. Each of them is explained when the page is shown.
const PAGE_SIZE: usize = 50;

pub(in crate::console) async fn list(
    InWorkspace(workspace): InWorkspace,
    QueryFields(query): QueryFields,
    visit: PageRequest,
) -> Response {
    let services = &visit.app.services;
    let (access, servers, may_change) = tokio::join!(
        services.workspace_access(workspace.as_str()),
        services.servers(workspace.as_str()),
        may_change(&visit, &workspace)
    );
    // An unknown workspace has no servers, and only the vault knows which workspaces exist. The injector has the list also when
    // the vault does not answer, or does not tell this identity.
    let unknown = access
        .err()
        .filter(|failure| failure.kind == FailureKind::NotFound);
    let servers = match unknown.map_or(servers, Err) {
        Ok(servers) => servers,
        Err(failure) => return failure_page(&visit, Section::Workspaces, failure),
    };
    let workspace = workspace.as_str();
    let selection = ServerSelection::of(&servers, query.text("q"), query.number("page"));
    let explained = services.explain_all(&selection.shown).await;
    let body = html! {
        (workspace_head(workspace, Tab::Servers))
        @if !may_change { (looking_only(&visit)) }
        @if servers.is_empty() {
            (no_servers(workspace, may_change))
        } @else {
            (toolbar(workspace, &selection, may_change))
            (results(workspace, &selection, &explained, visit.app.allows_calls()))
        }
    };
    render(
        &visit,
        &format!("Servers of {workspace}"),
        Section::Workspaces,
        &body,
    )
}

/// The servers that one page shows.
struct ServerSelection<'a> {
    filter: &'a str,
    matching: usize,
    total: usize,
    /// Counts from 1.
    page: usize,
    pages: usize,
    shown: Vec<&'a Server>,
}

impl<'a> ServerSelection<'a> {
    fn of(servers: &'a [Server], filter: &'a str, page: usize) -> Self {
        let matching: Vec<_> = servers.iter().filter(|server| matches(server, filter)).collect();
        let pages = matching.len().div_ceil(PAGE_SIZE).max(1);
        let page = page.clamp(1, pages);
        Self {
            filter,
            matching: matching.len(),
            total: servers.len(),
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
        format!("/w/{workspace}/servers?{}", query.finish())
    }
}

/// Returns true when the name, the URL, the description or a secret contains the text of the filter.
fn matches(server: &Server, filter: &str) -> bool {
    let wanted = filter.to_lowercase();
    let texts = [&server.name, &server.url, &server.description];
    let mut texts = texts.into_iter().chain(&server.inject_secrets);
    texts.any(|text| text.to_lowercase().contains(&wanted))
}

fn add_button(workspace: &str) -> Markup {
    html! { a.button.primary href={ "/w/" (workspace) "/add-server" } { (icon("plus")) "Add server" } }
}

fn no_servers(workspace: &str, may_change: bool) -> Markup {
    let text = html! {
        "A server is an API that your programs call through the injector, such as GitHub or your own service. Programs hold no "
        "credential: the injector puts it into each call."
    };
    let action = if may_change {
        add_button(workspace)
    } else {
        html! {}
    };
    let title = if may_change {
        "Add the first server"
    } else {
        "There is no server yet"
    };
    empty("server", title, &text, &action)
}

fn toolbar(workspace: &str, selection: &ServerSelection<'_>, may_change: bool) -> Markup {
    html! {
        div.toolbar {
            form.filter role="search" method="get" action={ "/w/" (workspace) "/servers" } data-filter="results" {
                label.hidden-text for="q" { "Filter by name, URL or secret" }
                (icon("search"))
                input #q name="q" type="search" value=(selection.filter) placeholder="Filter by name, URL or secret"
                    autocomplete="off" spellcheck="false";
                noscript { button.button type="submit" { "Filter" } }
            }
            span.quiet { (count(selection.total, "server")) }
            @if may_change { (add_button(workspace)) }
        }
    }
}

fn results(
    workspace: &str,
    selection: &ServerSelection<'_>,
    explained: &[Explained],
    allows_calls: bool,
) -> Markup {
    html! {
        p #results-count.hidden-text role="status" { (count(selection.matching, "server")) " shown" }
        div #results {
            @if selection.shown.is_empty() {
                div.empty {
                    h2 { "No server matches" }
                    p {
                        "None of the " (count(selection.total, "server")) " has “" (selection.filter)
                        "” in its name, URL or secrets."
                    }
                    a.button href={ "/w/" (workspace) "/servers" } { "Show all" }
                }
            } @else {
                (not_explained(explained))
                table {
                    thead {
                        tr {
                            th { "Name" } th { "URL" } th { "Gets" } th { "Web pages" } th { "TLS" }
                            th { span.hidden-text { "Actions" } }
                        }
                    }
                    tbody {
                        @for (server, explained) in selection.shown.iter().zip(explained) {
                            (row(workspace, server, explained, allows_calls))
                        }
                    }
                }
                (pager(workspace, selection))
            }
        }
    }
}

/// Says once why the state of secrets is not known. The reason is the same for all servers when the vault does not answer.
fn not_explained(explained: &[Explained]) -> Markup {
    let failure = explained.iter().find_map(|explained| explained.as_ref().err());
    html! {
        @if let Some(failure) = failure {
            div.notice.warn role="status" {
                (icon("warning"))
                p { "Whether calls would carry their secrets is not known. " (prose(&sentence(&failure.message))) }
            }
        }
    }
}

fn row(workspace: &str, server: &Server, explained: &Explained, allows_calls: bool) -> Markup {
    let path = format!("/w/{workspace}/servers/{}", server.name);
    html! {
        tr {
            th scope="row" {
                a.name href=(path) { (server.name) }
                @if !server.description.is_empty() { small.wrapping { (server.description) } }
            }
            (cell("URL", &html! { span.mono.url { (in_table(&server.url)) } }))
            (cell("Gets", &gets(server, explained)))
            (cell("Web pages", &pages(server)))
            (cell("TLS", &tls(server)))
            td.row-actions {
                @if allows_calls {
                    a.button.small href={ (path) "/call" } aria-label={ "Try a call to " (server.name) } { "Try a call" }
                }
            }
        }
    }
}

/// Returns a URL for a narrow column. The column for TLS says that a URL without a scheme is `https`.
fn in_table(url: &str) -> String {
    let short = UrlParts::of(url).short();
    short.strip_prefix("https://").map(str::to_owned).unwrap_or(short)
}

/// Returns the secrets of a server with their places.
fn gets(server: &Server, explained: &Explained) -> Markup {
    let injections = injections_of(server);
    let marks = match explained {
        Ok(explained) => Marks::of_explanation(&injections, explained),
        Err(_) => Marks::default(),
    };
    let would_forward = explained
        .as_ref()
        .map_or(true, |explained| explained.would_forward);
    html! {
        @if injections.is_empty() { span.quiet { "no secret" } } @else {
            ul.gets {
                @for (index, injection) in injections.iter().enumerate() { (gets_at(index, injection, &marks)) }
            }
            @if !would_forward { span.badge.bad { "calls are refused" } }
        }
    }
}

fn gets_at(index: usize, injection: &Injection, marks: &Marks) -> Markup {
    let names = secrets_of(injection);
    let mark = |name: &String| -> Mark { marks.at(index, name) };
    html! {
        li {
            @for name in &names { (blank(name, mark(name))) " " }
            small { (place_name(injection)) @if !injection.required { ", optional" } }
        }
    }
}

fn pages(server: &Server) -> Markup {
    html! {
        @if server.allowed_origins.is_empty() { span.quiet { "none" } }
        @else { (chips(server.allowed_origins.iter().map(String::as_str))) }
    }
}

pub(super) fn tls(server: &Server) -> Markup {
    let url = UrlParts::of(&server.url);
    let tls = server.tls.clone().unwrap_or_default();
    html! {
        @if url.is_cleartext() { span.badge.bad { "cleartext" } }
        @else if url.scheme == "http" { span.quiet { "same machine" } }
        @else if !tls.ca_pem.is_empty() { "own CA" }
        @else { span.quiet { "verified" } }
        @if !tls.client_cert_secret.is_empty() { small.wrapping { "client certificate " span.mono { (tls.client_cert_secret) } } }
    }
}

fn pager(workspace: &str, selection: &ServerSelection<'_>) -> Markup {
    let ServerSelection {
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
                span.number { (first) "–" (first + shown.len() - 1) " of " (count(*matching, "server")) }
                @if page < pages { a.button.small rel="next" href=(selection.path(workspace, page + 1)) { "Next" } }
            }
        }
    }
}
