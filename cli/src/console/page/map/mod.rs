//! `/w/{workspace}/map`: which secret goes to which server, as a drawing and as a table.

mod drawing;
mod outcome_text;
mod problems;
mod table;

use axum::response::Response;
use maud::{Markup, html};

use super::{
    frame::{Tab, failure_page, render, workspace_head},
    paths::InWorkspace,
};
use crate::console::{
    guard::PageRequest,
    map::{Graph, SecretNode, SecretState, ServerNode},
    view::{Section, count, empty, icon},
    workspace_access::WorkspaceAccess,
};

/// Number of servers whose values are checked for the map. Each is a question to the injector.
const MAX_EXPLAINED: usize = 50;

pub(in crate::console) async fn show(InWorkspace(workspace): InWorkspace, visit: PageRequest) -> Response {
    let (name, services) = (workspace.as_str(), &visit.app.services);
    let answers = tokio::try_join!(
        services.workspace_access(name),
        services.secrets(name),
        services.servers(name)
    );
    let (access, secrets, servers) = match answers {
        Ok(answers) => answers,
        Err(failure) => return failure_page(&visit, Section::Workspaces, failure),
    };
    let uid = match &access {
        WorkspaceAccess::Admin(workspace) => Some(workspace.uid.as_str()),
        WorkspaceAccess::Editor | WorkspaceAccess::Viewer => None,
    };
    let first: Vec<_> = servers.iter().take(MAX_EXPLAINED).collect();
    let explained = services.explain_all(&first).await;
    let is_known = explained.iter().all(Result::is_ok) && explained.len() == servers.len();
    let graph = Graph::of(uid, &secrets, &servers, &explained);
    let body = html! {
        (workspace_head(name, Tab::Map))
        (content(name, &graph, is_known, access.may_edit()))
    };
    render(&visit, &format!("Map of {name}"), Section::Workspaces, &body)
}

/// `is_known` is true when the injector has said of every server whether its values fit.
fn content(workspace: &str, graph: &Graph, is_known: bool, may_edit: bool) -> Markup {
    if graph.servers.is_empty() {
        return no_servers(workspace, graph);
    }
    html! {
        p.quiet { (summary(graph)) }
        (problems::list(workspace, graph, may_edit))
        @if graph.edges.is_empty() {
            (no_lines(workspace))
        } @else {
            (legend())
            @if !is_known {
                p.quiet {
                    "The console did not check every server for values that cannot be decrypted or do not fit their places. The page of each \
                     server has the result."
                }
            }
            (drawing::drawing(workspace, graph))
            details.map-table {
                summary { "The same as a table" }
                (table::table(workspace, graph))
            }
        }
        (unused(workspace, &graph.unused_secrets()))
        (without_secrets(workspace, &graph.servers_without_secrets()))
    }
}

fn no_servers(workspace: &str, graph: &Graph) -> Markup {
    if graph.secrets.is_empty() {
        let text =
            html! { "The map shows which secret goes to which server. This workspace has neither yet." };
        let action = html! {
            a.button.primary href={ "/w/" (workspace) "/secrets/new" } { (icon("plus")) "Add secret" }
        };
        return empty("map", "Nothing to draw yet", &text, &action);
    }
    let text = html! {
        "This workspace has " (count(graph.secrets.len(), "secret")) " and no server. A server is an API that programs call through "
        "the injector, with the secrets that it gets."
    };
    let action = html! { a.button.primary href={ "/w/" (workspace) "/servers" } { "Go to the servers" } };
    empty("map", "Add a server to see where the secrets go", &text, &action)
}

fn no_lines(workspace: &str) -> Markup {
    let text = html! { "None of the servers gets a secret. Open a server and choose its secrets." };
    let action = html! { a.button.primary href={ "/w/" (workspace) "/servers" } { "Go to the servers" } };
    empty("map", "No secret goes anywhere", &text, &action)
}

/// Counts the secrets that calls get, and the servers that get them.
fn summary(graph: &Graph) -> String {
    let stored = graph.secrets.iter();
    let stored = stored
        .filter(|secret| secret.state != SecretState::Missing)
        .count();
    let (secrets, servers) = graph.sent();
    let used = match secrets {
        0 => return "No secret goes to a server.".to_owned(),
        secrets if secrets == stored => count(secrets, "secret"),
        secrets => format!("{secrets} of {}", count(stored, "secret")),
    };
    let verb = if secrets == 1 { "goes" } else { "go" };
    format!("{used} {verb} to {}.", count(servers, "server"))
}

fn legend() -> Markup {
    html! {
        ul.map-legend aria-label="Legend" {
            li { (drawing::sample("line required", "")) "required" }
            li { (drawing::sample("line optional", "")) "optional" }
            li { (drawing::sample("line optional left-out", drawing::LEFT_OUT)) "calls go out without it" }
            li { (drawing::sample("line required refused", drawing::REFUSED)) (icon("refused")) "calls are refused" }
            li { (icon("missing")) "not in the vault" }
            li { (icon("expired")) "expired" }
            li { (icon("unbound")) "may go to any origin" }
        }
    }
}

/// Returns the secrets that no server gets. They are no part of the drawing, which would be long without being clearer.
fn unused(workspace: &str, secrets: &[&SecretNode]) -> Markup {
    html! {
        @if !secrets.is_empty() {
            section.map-rest aria-labelledby="unused" {
                h2 #unused { "Secrets that no server gets " span.badge { (secrets.len()) } }
                p.quiet { "Add them to a server, or delete them: a secret that nobody uses can only be stolen." }
                ul {
                    @for secret in secrets {
                        li {
                            a.map-node.unused href={ "/w/" (workspace) "/secrets/" (secret.name) } title=(secret.name) {
                                (drawing::secret_label(secret))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn without_secrets(workspace: &str, servers: &[&ServerNode]) -> Markup {
    html! {
        @if !servers.is_empty() {
            section.map-rest aria-labelledby="without" {
                h2 #without { "Servers that get no secret " span.badge { (servers.len()) } }
                ul {
                    @for server in servers {
                        li {
                            a.map-node.unused href={ "/w/" (workspace) "/servers/" (server.name) } title=(server.name) {
                                (drawing::server_label(server, false))
                            }
                        }
                    }
                }
            }
        }
    }
}
