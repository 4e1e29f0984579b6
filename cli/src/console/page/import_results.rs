//! The progress and the results of an import into a workspace: what was stored and what was not.

use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};

use super::{
    frame::{render_live, see_other},
    import_preview::left_out,
    paths::InWorkspace,
    secret_put::secret_breadcrumb,
};
use crate::{
    console::{
        guard::{PageRequest, QueryFields},
        session_memory::{ImportResults, ImportState},
        view::{Section, cell, count, grouped, icon, prose, sentence},
    },
    secret_import::{Imported, Outcome},
};

pub(in crate::console) async fn show(
    InWorkspace(workspace): InWorkspace,
    QueryFields(query): QueryFields,
    visit: PageRequest,
) -> Response {
    let (workspace, number) = (workspace.as_str(), query.number("import"));
    let shown = visit.session.memory.confirmed(workspace, number, |state| {
        let is_running = matches!(state, ImportState::Running { .. });
        let body = match state {
            ImportState::Ended(results) => body(workspace, results),
            ImportState::Running { .. } | ImportState::BrokenOff => unfinished(workspace, number, state),
        };
        (is_running, body)
    });
    match shown {
        Some((is_running, body)) => render_live(&visit, "Results", Section::Workspaces, is_running, &body),
        None => see_other(&format!("/w/{workspace}/secrets")),
    }
}

/// Answers with the progress alone.
pub(in crate::console) async fn live(
    InWorkspace(workspace): InWorkspace,
    QueryFields(query): QueryFields,
    visit: PageRequest,
) -> Response {
    let (workspace, number) = (workspace.as_str(), query.number("import"));
    let show = |state: &ImportState| progress(workspace, number, state);
    let shown = visit.session.memory.confirmed(workspace, number, show);
    shown.unwrap_or_default().into_response()
}

fn unfinished(workspace: &str, number: u64, state: &ImportState) -> Markup {
    html! {
        (secret_breadcrumb(workspace, None))
        h1 { "Storing the secrets" }
        p.quiet { "The console goes on when you leave this page." }
        div data-live={ "/w/" (workspace) "/secrets/import/results/live?import=" (number) } data-interval="1000" {
            (progress(workspace, number, state))
        }
    }
}

fn progress(workspace: &str, number: u64, state: &ImportState) -> Markup {
    html! {
        @match state {
            ImportState::Running { done, all } => {
                p role="status" { "Running: " span.number { (grouped(*done)) " of " (grouped(*all)) } }
                progress max=((*all).max(1)) value=(done) aria-label="Secrets that were tried" {}
            }
            ImportState::Ended(_) => {
                p role="status" {
                    "The import has ended. "
                    a href={ "/w/" (workspace) "/secrets/import/results?import=" (number) } { "Show the results" }
                }
            }
            ImportState::BrokenOff => {
                p role="status" {
                    "The import was broken off. "
                    a href={ "/w/" (workspace) "/secrets" } { "The list of secrets" } " shows what is stored."
                }
            }
        }
    }
}

fn body(workspace: &str, results: &ImportResults) -> Markup {
    let ImportResults {
        secrets,
        left_out: entries,
        notes,
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
        @for note in notes { div.notice.warn { p { (prose(note)) } } }
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
