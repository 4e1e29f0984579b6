//! The map as a table, for screen readers and for people who do not see colours.

use maud::{Markup, html};

use super::{drawing::secret_path, outcome_text};
use crate::console::{
    map::{Edge, Graph, Outcome, SecretNode, ServerNode},
    view::{cell, count},
};

pub(super) fn table(workspace: &str, graph: &Graph) -> Markup {
    html! {
        table {
            caption.hidden-text { (count(graph.edges.len(), "line")) " of the map" }
            thead { tr { th { "Server" } th { "Secret" } th { "Needed" } th { "Sent to" } th { "At a call" } } }
            tbody {
                @for line in &graph.edges {
                    @if let (Some(secret), Some(server)) = (graph.secrets.get(line.secret), graph.servers.get(line.server)) {
                        (row(workspace, line, secret, server))
                    }
                }
            }
        }
    }
}

fn row(workspace: &str, line: &Edge, secret: &SecretNode, server: &ServerNode) -> Markup {
    let badge = match line.outcome {
        Outcome::Sent => "",
        Outcome::LeftOut => "badge warn",
        Outcome::Refused(_) => "badge bad",
    };
    html! {
        tr {
            th scope="row" { a href={ "/w/" (workspace) "/servers/" (server.name) } { (server.name) } }
            (cell("Secret", &html! { a.mono href=(secret_path(workspace, secret)) { (secret.name) } }))
            (cell("Needed", &html! { span { @if line.is_required { "required" } @else { "optional" } } }))
            (cell("Sent to", &html! { span { @if secret.is_bound { "its origins" } @else { "any origin" } } }))
            (cell("At a call", &html! { span class=(badge) { (outcome_text::text(line.outcome)) } }))
        }
    }
}
