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
    secret_import::{Imported, PutOutcome},
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
        (title(state), is_running, body)
    });
    match shown {
        Some((title, is_running, body)) => render_live(&visit, title, Section::Workspaces, is_running, &body),
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
    shown.unwrap_or_else(|| forgotten(workspace)).into_response()
}

fn title(state: &ImportState) -> &'static str {
    match state {
        ImportState::Running { .. } => "Storing the secrets",
        ImportState::Ended(_) => "Results",
        ImportState::BrokenOff => "The import was broken off",
    }
}

fn unfinished(workspace: &str, number: u64, state: &ImportState) -> Markup {
    html! {
        (secret_breadcrumb(workspace, None))
        div data-live={ "/w/" (workspace) "/secrets/import/results/live?import=" (number) } data-interval="1000" {
            (progress(workspace, number, state))
        }
    }
}

/// Describes the state of an import. The script of the page goes on to the path of `data-next`.
fn progress(workspace: &str, number: u64, state: &ImportState) -> Markup {
    html! {
        h1 { (title(state)) }
        @match state {
            ImportState::Running { done, all } => {
                p role="status" { span.number { (grouped(*done)) " of " (count(*all, "secret")) } " tried" }
                progress max=((*all).max(1)) value=(done) aria-label="Secrets that were tried" {}
                p.quiet { "The console goes on when you leave this page." }
            }
            ImportState::Ended(_) => {
                @let results = format!("/w/{workspace}/secrets/import/results?import={number}");
                p role="status" data-next=(results) { "The import has ended. " a href=(results) { "Show the results" } }
            }
            ImportState::BrokenOff => {
                p role="status" {
                    "The console broke it off, because of a fault in the console or because it was stopped. "
                    a href={ "/w/" (workspace) "/secrets" } { "The list of secrets" } " shows what is stored."
                }
            }
        }
    }
}

/// The page of an import whose state the session no longer keeps.
fn forgotten(workspace: &str) -> Markup {
    html! {
        h1 { "The state of this import is no longer known" }
        p role="status" {
            "The console keeps the results of the last imports only. "
            a href={ "/w/" (workspace) "/secrets" } { "The list of secrets" } " shows what is stored."
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
        PutOutcome::Created { is_bound, .. } | PutOutcome::Replaced { is_bound, .. } => !is_bound,
        PutOutcome::Failed(_) | PutOutcome::NotTried => false,
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

fn result(outcome: &PutOutcome) -> Markup {
    html! {
        @match outcome {
            PutOutcome::Created { version: _, is_bound: _ } => span.badge.good { "created" },
            PutOutcome::Replaced { version, is_bound: _ } => span.badge.good { "replaced, version " (version) },
            PutOutcome::Failed(failure) => span.left-out { (prose(&sentence(&failure.message))) },
            PutOutcome::NotTried => span.quiet { "Not tried after the failure above." },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_of_an_import_says_how_the_page_goes_on() {
        let running = ImportState::Running { done: 1, all: 1_200 };
        let ended = ImportState::Ended(ImportResults {
            secrets: Vec::new(),
            left_out: Vec::new(),
            notes: Vec::new(),
        });
        let next = "data-next=\"/w/w/secrets/import/results?import=7\"";
        for (state, shown, hidden) in [
            (&running, "<progress max=\"1200\" value=\"1\"", "data-next"),
            (&running, "1 of 1,200 secrets</span> tried", "ended"),
            (&ended, next, "goes on when you leave"),
            (
                &ImportState::BrokenOff,
                "href=\"/w/w/secrets\"",
                "goes on when you leave",
            ),
            (
                &ImportState::BrokenOff,
                "<h1>The import was broken off",
                "data-next",
            ),
        ] {
            let drawn = progress("w", 7, state).into_string();
            assert!(drawn.contains(shown) && !drawn.contains(hidden), "{drawn}");
        }
        assert!(forgotten("w").into_string().contains("href=\"/w/w/secrets\""));
    }
}
