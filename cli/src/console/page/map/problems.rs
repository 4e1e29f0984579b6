//! The lines of the map that need attention, each with the next step.

use maud::{Markup, html};

use crate::console::{
    map::{Edge, Graph, Outcome, Refusal, SecretState},
    view::icon,
};

/// Number of problems that the page lists above the drawing. The table has all of them.
const MAX_LISTED: usize = 8;

/// A sentence on a problem, and the page that solves it.
struct MapProblem {
    text: Markup,
    is_refusal: bool,
    path: String,
    step: &'static str,
    /// True when the step puts a secret, which a viewer may not do.
    puts_secret: bool,
}

pub(super) fn list(workspace: &str, graph: &Graph, may_edit: bool) -> Markup {
    let mut problems: Vec<_> = replaced(workspace, graph)
        .chain(
            graph
                .edges
                .iter()
                .filter_map(|line| of_line(workspace, graph, line)),
        )
        .collect();
    // Refused calls come first.
    problems.sort_by_key(|problem| !problem.is_refusal);
    let more = problems.len().saturating_sub(MAX_LISTED);
    html! {
        @if !problems.is_empty() {
            ul.map-problems aria-label="Needs attention" {
                @for MapProblem { text, is_refusal, path, step, puts_secret } in problems.iter().take(MAX_LISTED) {
                    li.(if *is_refusal { "bad" } else { "warn" }) {
                        (icon(if *is_refusal { "refused" } else { "warning" }))
                        span { (text) @if may_edit || !puts_secret { " " a href=(path) { (step) } } }
                    }
                }
                @if more > 0 { li.quiet { "and " (more) " more, in the table below" } }
            }
        }
    }
}

/// Returns the servers that were added for an earlier workspace of the same name.
fn replaced<'g>(workspace: &'g str, graph: &'g Graph) -> impl Iterator<Item = MapProblem> + 'g {
    let servers = graph
        .servers
        .iter()
        .filter(|server| server.is_of_deleted_workspace);
    servers.map(move |server| MapProblem {
        text: html! { "All calls to " b { (server.name) } " are refused: it was added for an earlier workspace of this name." },
        is_refusal: true,
        path: format!("/w/{workspace}/servers/{}", server.name),
        step: "Remove it, and add it again",
        puts_secret: false,
    })
}

fn of_line(workspace: &str, graph: &Graph, line: &Edge) -> Option<MapProblem> {
    let (secret, server) = (graph.secrets.get(line.secret)?, graph.servers.get(line.server)?);
    let (name, to) = (html! { b.mono { (secret.name) } }, html! { b { (server.name) } });
    let of_secret = |page: &str| format!("/w/{workspace}/secrets/{}{page}", secret.name);
    let of_server = format!("/w/{workspace}/servers/{}", server.name);
    let add = (
        format!("/w/{workspace}/secrets/new?name={}", secret.name),
        "Add the secret",
        true,
    );
    let replace = (of_secret("/replace"), "Replace its value", true);
    let (text, (path, step, puts_secret)) = match (line.outcome, secret.state) {
        (Outcome::Sent, _) => return None,
        (Outcome::LeftOut, SecretState::Missing) => (
            html! { "Calls to " (to) " go out without " (name) ", which is not in the vault." },
            add,
        ),
        (Outcome::LeftOut, SecretState::Stored | SecretState::Expired) => (
            html! { "Calls to " (to) " go out without " (name) ", which has expired." },
            replace,
        ),
        (Outcome::Refused(Refusal::Missing), _) => (
            html! { "Calls to " (to) " are refused: " (name) " is not in the vault." },
            add,
        ),
        (Outcome::Refused(Refusal::Expired), _) => (
            html! { "Calls to " (to) " are refused: " (name) " has expired." },
            replace,
        ),
        (Outcome::Refused(Refusal::OtherOrigin), _) => (
            html! { "Calls to " (to) " are refused: " (name) " may be sent to other origins only." },
            (of_secret(""), "See its origins", false),
        ),
        (Outcome::Refused(Refusal::NotVerified), _) => (
            html! { "Calls to " (to) " are refused: " (name) " is bound to origins, and nothing verifies the server." },
            (of_server, "See its TLS settings", false),
        ),
        (Outcome::Refused(Refusal::Unfit), _) => (
            html! { "Calls to " (to) " are refused: the value of " (name) " does not fit its place." },
            (of_server, "See why", false),
        ),
        (Outcome::Refused(Refusal::Unreadable), _) => (
            html! { "Calls to " (to) " are refused: the value of " (name) " cannot be decrypted." },
            replace,
        ),
    };
    Some(MapProblem {
        text,
        is_refusal: matches!(line.outcome, Outcome::Refused(_)),
        path,
        step,
        puts_secret,
    })
}
