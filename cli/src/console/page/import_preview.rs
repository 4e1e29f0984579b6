//! The plan of an import, which contains names and no values, and its confirmation.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use axum::response::Response;
use maud::{Markup, html};
use tokio::time;

use super::{
    frame::{render_form, see_other},
    paths::InWorkspace,
    secret_form::{SecretFields, metadata_fields},
    secret_put::secret_breadcrumb,
};
use crate::{
    console::{
        app::SharedApp,
        fields::Fields,
        guard::{Change, PageRequest},
        session_memory::{ImportResults, ImportState, WaitingImport},
        sign_in::Session,
        view::{
            FormError, Notice, Section, Submit, cell, count, error_summary, hidden, icon, prose, sentence,
            submit, time_of_day,
        },
        workspace_access::WorkspaceAccess,
    },
    failure::{Failure, FailureKind},
    plan_limit::secret_room,
    secret_import::{ImportOptions, ImportPlan, LeftOut, PlannedPut, put_all},
};

/// Time after which the page of a long import shows its progress.
const PATIENCE: Duration = Duration::from_secs(5);

pub(in crate::console) async fn show(InWorkspace(workspace): InWorkspace, visit: PageRequest) -> Response {
    page(
        &visit,
        workspace.as_str(),
        &SecretFields::of(&Fields::default()),
        None,
    )
    .await
}

/// Puts the secrets of the plan. The puts go on when the browser goes away, so that none is cut off in the middle, and the
/// results wait for the page that shows them.
pub(in crate::console) async fn confirm(
    InWorkspace(workspace): InWorkspace,
    Change { visit, fields }: Change,
) -> Response {
    let workspace = workspace.as_str();
    let entered = SecretFields::of(&fields);
    let options = match options(&entered) {
        Ok(options) => options,
        Err(error) => return page(&visit, workspace, &entered, Some(&error)).await,
    };
    let number = fields.number("import");
    let Some(plan) = visit.session.memory.confirm(workspace, number) else {
        return forgotten(&visit, workspace);
    };
    let puts = put(
        visit.app.clone(),
        visit.session.clone(),
        workspace.to_owned(),
        options,
        number,
        plan,
    );
    let session = visit.session.clone();
    let task = tokio::spawn(async move {
        // The task panicked, or the console is stopping.
        if tokio::spawn(puts).await.is_err() {
            session.memory.keep_import(number, ImportState::BrokenOff);
        }
    });
    // A short import leads to its results at once, and a longer one to its progress.
    drop(time::timeout(PATIENCE, task).await);
    see_other(&format!("/w/{workspace}/secrets/import/results?import={number}"))
}

/// Forgets the values without putting them.
pub(in crate::console) async fn discard(
    InWorkspace(workspace): InWorkspace,
    Change { visit, fields: _ }: Change,
) -> Response {
    visit.session.memory.forget_values();
    visit
        .session
        .notify(Notice::done("The text was forgotten. Nothing was stored."));
    see_other(&format!("/w/{workspace}/secrets"))
}

async fn put(
    app: SharedApp,
    session: Arc<Session>,
    workspace: String,
    options: ImportOptions,
    number: u64,
    plan: ImportPlan,
) {
    let ImportPlan {
        format: _,
        puts,
        left_out,
        faults: _,
        notes,
    } = plan;
    let (mut done, all) = (0, puts.len());
    let mut count = || {
        done += 1;
        session
            .memory
            .keep_import(number, ImportState::Running { done, all });
        ControlFlow::Continue(())
    };
    let secrets = put_all(&app.services.vault, &workspace, &options, puts, &mut count).await;
    let results = ImportResults {
        secrets,
        left_out,
        notes,
    };
    session.memory.keep_import(number, ImportState::Ended(results));
}

/// Empty fields keep the origins and labels of the secrets that are replaced.
fn options(entered: &SecretFields) -> Result<ImportOptions, FormError> {
    let (origins, labels) = (entered.origins()?, entered.labels()?);
    Ok(ImportOptions {
        origins: Some(origins).filter(|origins| !origins.is_empty()),
        labels: Some(labels).filter(|labels| !labels.is_empty()),
        expires_at: entered.expires_at()?,
    })
}

async fn page(
    visit: &PageRequest,
    workspace: &str,
    entered: &SecretFields,
    error: Option<&FormError>,
) -> Response {
    // Read for each page, because a person may choose a larger plan meanwhile. Only an administrator sees the plan.
    let room = match visit.app.services.workspace_access(workspace).await {
        Ok(WorkspaceAccess::Admin(workspace)) => secret_room(&workspace),
        Ok(WorkspaceAccess::Editor | WorkspaceAccess::Viewer) | Err(_) => None,
    };
    let csrf = visit.session.csrf.reveal();
    let shown = visit
        .session
        .memory
        .waiting(workspace, |import| preview(import, room, entered, csrf, error));
    match shown {
        Some(body) => render_form(visit, "Preview", Section::Workspaces, error, &body),
        None => forgotten(visit, workspace),
    }
}

/// Answers when the values are no longer there.
fn forgotten(visit: &PageRequest, workspace: &str) -> Response {
    let text = "the console keeps a pasted text for ten minutes, and only until it is stored or replaced by another one";
    let failure = Failure::new(FailureKind::NotFound, text);
    let error = FormError::from(failure).link(format!("/w/{workspace}/secrets/import"), "Paste it again");
    let body = html! {
        (secret_breadcrumb(workspace, None))
        h1 { "The text is no longer there" }
        (error_summary(Some(&error), &[]))
        p.quiet { "The list of secrets shows what is stored." }
    };
    render_form(visit, "Preview", Section::Workspaces, Some(&error), &body)
}

fn preview(
    WaitingImport {
        number,
        workspace,
        plan,
        kept_until,
    }: &WaitingImport,
    room: Option<u64>,
    entered: &SecretFields,
    csrf: &str,
    error: Option<&FormError>,
) -> Markup {
    let excess_count = plan.excess_count(room);
    html! {
        (secret_breadcrumb(workspace, None))
        div.heading {
            div {
                h1 { "Preview" }
                p.quiet {
                    (summary(plan)) " The console keeps the values until " (time_of_day(*kept_until)) " and then forgets them."
                }
            }
        }
        (error_summary(error, &["origins", "expiry", "labels"]))
        @if let Some(excess) = plan.excess(room) {
            div.notice.warn {
                (icon("warning"))
                p {
                    (sentence(&excess)) " The vault refuses " (if excess_count == plan.new_count() { "them" } else { "the others" }) ". "
                    a href={ "/w/" (workspace) "/settings" } { "Choose a larger plan" } " first, and come back to this page."
                }
            }
        }
        @for note in &plan.notes { div.notice.warn { p { (prose(note)) } } }
        @if !plan.left_out.is_empty() { (left_out(&plan.left_out)) }
        @if plan.puts.is_empty() {
            p { "No entry of the text can be stored. " a href={ "/w/" (workspace) "/secrets/import" } { "Paste another text" } }
        } @else {
            (puts(&plan.puts))
            (confirmation(*number, workspace, plan.puts.len() - excess_count, entered, csrf, error))
        }
    }
}

fn summary(plan: &ImportPlan) -> String {
    let new = plan.new_count();
    format!(
        "Read as {}: {} to create, {} to replace, {} left out.",
        plan.format,
        new,
        plan.puts.len() - new,
        plan.left_out.len(),
    )
}

/// Lists the entries that are not put, with the reason for each.
pub(super) fn left_out(entries: &[LeftOut]) -> Markup {
    html! {
        h2 { "Left out" }
        table {
            thead { tr { th { "Where" } th { "Name in the text" } th { "Why" } } }
            tbody {
                @for LeftOut { line, given, problem } in entries {
                    tr {
                        th scope="row" { "Line " (line) }
                        (cell("Name", &html! {
                            @match given {
                                Some(given) => span.mono { (given) },
                                None => span.quiet { "not shown" },
                            }
                        }))
                        (cell("Why", &html! { span.left-out { (prose(&sentence(problem))) } }))
                    }
                }
            }
        }
    }
}

fn puts(puts: &[PlannedPut]) -> Markup {
    html! {
        h2 { "To store" }
        table {
            thead { tr { th { "Secret" } th { "Effect" } th.number { "Line" } th { "Remarks" } } }
            tbody { @for put in puts { (row(put)) } }
        }
    }
}

fn row(put: &PlannedPut) -> Markup {
    let PlannedPut {
        line,
        given,
        name,
        present,
        fits_nowhere,
        fits_no_header,
        variable,
        ..
    } = put;
    html! {
        tr {
            th scope="row" {
                span.mono { (name) }
                @if given != name.as_str() { small { "written " code { (given) } } }
            }
            (cell("Effect", &html! {
                @match present {
                    Some(present) => span.badge.warn { "replaces version " (present.version) },
                    None => span.badge.good { "new" },
                }
            }))
            td.number data-head="Line" { (line) }
            (cell("Remarks", &html! {
                @match (fits_nowhere, fits_no_header) {
                    (Some(fault), _) => span.left-out { "Fits no place: the value " (fault) "." },
                    (None, Some(fault)) => span { "Fits no header: the value " (fault) "." },
                    (None, None) => {}
                }
                @if let Some(variable) = variable { small { (prose(&sentence(variable))) } }
                @if present.as_ref().is_some_and(|present| present.expires_at.is_some()) {
                    small { "Its expiry is replaced by the one below." }
                }
            }))
        }
    }
}

/// `puts` is the number of secrets that the vault will take.
fn confirmation(
    number: u64,
    workspace: &str,
    puts: usize,
    entered: &SecretFields,
    csrf: &str,
    error: Option<&FormError>,
) -> Markup {
    html! {
        @if puts > 0 {
            h2 { "For all of these secrets" }
            p.quiet { "A secret that is replaced keeps its origins and labels where these fields are empty." }
            form.stack method="post" action={ "/w/" (workspace) "/secrets/import/preview" } {
                (hidden(csrf))
                input type="hidden" name="import" value=(number);
                (metadata_fields(entered, error))
                (submit(Submit::Primary, &format!("Store {}", count(puts, "secret")), &format!("/w/{workspace}/secrets/import")))
            }
        }
        form method="post" action={ "/w/" (workspace) "/secrets/import/discard" } {
            (hidden(csrf))
            button.link type="submit" { "Forget the text now" }
        }
    }
}
