//! `/w/{workspace}/servers`: the servers of a workspace, each with what a call to it would carry now.

use axum::response::Response;
use maud::{Markup, html};
use proto::injector::v1::{Injection, Server};

use super::{
    super::{
        frame::{Tab, failure_page, render, workspace_head},
        paths::InWorkspace,
        selection::{ListKind, Selection},
    },
    access::{looking_only, may_change},
    mark::{Mark, Marks},
    place::{injections_of, place_name},
    span::blank,
    url::UrlParts,
};
use crate::{
    console::{
        guard::{PageRequest, QueryFields},
        services::Explained,
        view::{Section, cell, chips, empty, icon, prose, sentence},
    },
    failure::FailureKind,
    template::secrets_of,
};

const SERVERS: ListKind = ListKind {
    path: "servers",
    noun: "server",
    filter_label: "Filter by name, URL or secret",
    filter_places: "its name, URL or secrets",
    // The page asks the injector to explain each of its servers.
    page_size: 50,
};

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
    let selection = Selection::of(&SERVERS, workspace, &servers, &query, matches);
    let explained = services.explain_all(&selection.shown).await;
    let body = html! {
        (workspace_head(workspace, Tab::Servers))
        @if !may_change { (looking_only(&visit)) }
        @if servers.is_empty() {
            (no_servers(workspace, may_change))
        } @else {
            (toolbar(&selection, workspace, may_change))
            (selection.results(&table(workspace, &selection.shown, &explained, visit.app.allows_calls())))
        }
    };
    render(
        &visit,
        &format!("Servers of {workspace}"),
        Section::Workspaces,
        &body,
    )
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

fn toolbar(selection: &Selection<'_, Server>, workspace: &str, may_change: bool) -> Markup {
    html! {
        div.toolbar {
            (selection.filter_form())
            span.quiet { (selection.total()) }
            @if may_change { (add_button(workspace)) }
        }
    }
}

fn table(workspace: &str, servers: &[&Server], explained: &[Explained], allows_calls: bool) -> Markup {
    html! {
        (not_explained(explained))
        table {
            thead {
                tr {
                    th { "Name" } th { "URL" } th { "Gets" } th { "Web pages" } th { "TLS" }
                    th { span.hidden-text { "Actions" } }
                }
            }
            tbody {
                @for (server, explained) in servers.iter().zip(explained) { (row(workspace, server, explained, allows_calls)) }
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
