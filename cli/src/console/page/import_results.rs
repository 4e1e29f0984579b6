//! The results of the last import into a workspace: what was stored and what was not.

use axum::response::Response;
use maud::{Markup, html};

use super::{
    frame::{render, see_other},
    import_preview::left_out,
    paths::InWorkspace,
    secret_put::secret_breadcrumb,
};
use crate::{
    console::{
        guard::PageRequest,
        session_memory::ImportResults,
        view::{Section, cell, count, icon, prose, sentence},
    },
    secret_import::{Imported, Outcome},
};

pub(in crate::console) async fn show(InWorkspace(workspace): InWorkspace, visit: PageRequest) -> Response {
    match visit.session.memory.results(workspace.as_str(), body) {
        Some(body) => render(&visit, "Results", Section::Workspaces, &body),
        None => see_other(&format!("/w/{workspace}/secrets")),
    }
}

fn body(results: &ImportResults) -> Markup {
    let ImportResults {
        workspace,
        secrets,
        left_out: entries,
    } = results;
    let stored = secrets.iter().filter(|secret| secret.outcome.is_put()).count();
    let all = secrets.len() + entries.len();
    html! {
        (secret_breadcrumb(workspace, None))
        h1 { "Results" }
        @if stored == all {
            div.notice.good role="status" { (icon("done")) p { (count(stored, "secret")) " of the text: all were stored." } }
        } @else {
            div.notice.warn role="status" {
                (icon("warning"))
                p { "Stored " (stored) " of " (all) ". The rest is listed first." }
            }
        }
        @if secrets.iter().any(is_unbound) {
            div.notice.warn {
                (icon("warning"))
                p {
                    "Everybody who may edit servers can have values without an origin sent to a server of their own. Replace such a \
                     secret with " code { "Send only to" } " filled in to prevent this."
                }
            }
        }
        @if !entries.is_empty() { (left_out(entries)) }
        (outcomes(workspace, secrets))
        div.actions {
            a.button.primary href={ "/w/" (workspace) "/secrets" } { "Show all secrets" }
            a.button href={ "/w/" (workspace) "/secrets/import" } { "Paste more" }
        }
    }
}

fn is_unbound(secret: &Imported) -> bool {
    match secret.outcome {
        Outcome::Created { is_bound, .. } | Outcome::Replaced { is_bound, .. } => !is_bound,
        Outcome::Failed(_) | Outcome::NotTried => false,
    }
}

/// The secrets that were not stored come first.
fn outcomes(workspace: &str, secrets: &[Imported]) -> Markup {
    let (stored, failed): (Vec<_>, Vec<_>) = secrets.iter().partition(|secret| secret.outcome.is_put());
    html! {
        @if !failed.is_empty() {
            h2 { "Not stored" }
            (table(workspace, &failed))
        }
        @if !stored.is_empty() {
            h2 { "Stored" }
            (table(workspace, &stored))
        }
    }
}

fn table(workspace: &str, secrets: &[&Imported]) -> Markup {
    html! {
        table {
            thead { tr { th { "Secret" } th { "Result" } th.number { "Line" } } }
            tbody {
                @for Imported { line, name, outcome } in secrets {
                    tr {
                        th scope="row" {
                            @if outcome.is_put() { a.mono href={ "/w/" (workspace) "/secrets/" (name) } { (name) } }
                            @else { span.mono { (name) } }
                        }
                        (cell("Result", &result(outcome)))
                        td.number data-head="Line" { (line) }
                    }
                }
            }
        }
    }
}

fn result(outcome: &Outcome) -> Markup {
    html! {
        @match outcome {
            Outcome::Created { version: _, is_bound: _ } => span.badge.good { "created" },
            Outcome::Replaced { version, is_bound: _ } => span.badge.good { "replaced, version " (version) },
            Outcome::Failed(failure) => span.left-out { (prose(&sentence(&failure.message))) },
            Outcome::NotTried => span.quiet { "Not tried after the failure above." },
        }
    }
}
