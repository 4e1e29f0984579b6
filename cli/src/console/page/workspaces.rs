//! `/`: the workspaces, and the form for a new one.

use axum::response::Response;
use maud::{Markup, html};
use proto::{WorkspaceName, vault::v1::Workspace};

use super::{
    frame::{breadcrumb, failure_page, render, render_form, see_other},
    plan,
};
use crate::{
    console::{
        fields::Fields,
        guard::{Change, PageRequest, QueryFields},
        view::{
            FormError, Notice, Section, Submit, cell, count, date, empty, error_summary, field, has_error,
            hidden, icon, invalid, submit,
        },
    },
    failure::Failure,
};

/// The number of kept versions that the form proposes, which is the vault's default.
const KEPT_VERSIONS: u32 = 3;

pub(in crate::console) async fn list(visit: PageRequest) -> Response {
    match visit.app.services.workspaces().await {
        Ok(workspaces) => render(&visit, "Workspaces", Section::Workspaces, &list_view(&workspaces)),
        Err(failure) if failure.lacks_role() => {
            render(&visit, "Workspaces", Section::Workspaces, &open_view())
        }
        Err(failure) => failure_page(&visit, Section::Workspaces, failure),
    }
}

/// Returns the page of an editor or viewer, who may not list workspaces.
fn open_view() -> Markup {
    let help = html! { "This identity is no administrator, and the vault lists workspaces only for administrators." };
    let control = html! {
        input #name.mono name="name" type="text" required maxlength="63" autocomplete="off" autocapitalize="none"
            spellcheck="false" aria-describedby="name-help" autofocus;
    };
    html! {
        h1 { "Workspaces" }
        form.stack method="get" action="/workspaces/open" {
            (field("name", "Name of the workspace that you work in", &help, None, &control))
            div.actions { button.button.primary type="submit" { "Open" } }
        }
    }
}

/// Leads to a workspace by its name.
pub(in crate::console) async fn open(QueryFields(query): QueryFields) -> Response {
    match WorkspaceName::parse(query.text("name")) {
        Ok(name) => see_other(&format!("/w/{name}/secrets")),
        Err(_) => see_other("/"),
    }
}

fn list_view(workspaces: &[Workspace]) -> Markup {
    if workspaces.is_empty() {
        let text = html! {
            "A workspace holds the secrets of one application or team, under keys of its own, and the servers that may get \
             them."
        };
        return html! {
            h1 { "Workspaces" }
            (empty("workspace", "Make the first workspace", &text, &new_button()))
        };
    }
    html! {
        div.heading {
            div {
                h1 { "Workspaces" }
                p.quiet { (count(workspaces.len(), "workspace")) ", " @if workspaces.len() > 1 { "each " } "with keys of its own" }
            }
            (new_button())
        }
        table {
            thead { tr { th { "Name" } th { "Plan" } th { "Secrets" } th.number { "Versions kept" } th { "Created" } } }
            tbody { @for workspace in workspaces { (row(workspace)) } }
        }
    }
}

fn row(workspace: &Workspace) -> Markup {
    let usage = plan::usage(workspace.plan(), workspace.secret_count);
    html! {
        tr {
            th scope="row" { a.name href={ "/w/" (workspace.name) "/secrets" } { (workspace.name) } }
            (cell("Plan", &html! { span.badge { (plan::label(workspace.plan())) } }))
            (cell("Secrets", &usage))
            td.number data-head="Versions kept" { (workspace.kept_versions) }
            (cell("Created", &date(workspace.create_time.as_ref())))
        }
    }
}

fn new_button() -> Markup {
    html! { a.button.primary href="/workspaces/new" { (icon("plus")) "New workspace" } }
}

pub(in crate::console) async fn new(visit: PageRequest) -> Response {
    new_form(&visit, &Workspace::default(), None)
}

pub(in crate::console) async fn create(Change { visit, fields }: Change) -> Response {
    let entered = entered(&fields);
    match visit.app.services.create_workspace(entered.clone()).await {
        Ok(made) => {
            let name = made.name;
            visit
                .session
                .notify(Notice::done(format!("The workspace `{name}` was created.")));
            see_other(&format!("/w/{name}/secrets"))
        }
        Err(failure) => new_form(&visit, &entered, Some(&refusal(failure))),
    }
}

fn entered(fields: &Fields) -> Workspace {
    Workspace {
        name: fields.text("name").to_owned(),
        plan: plan::parse(fields.text("plan")).into(),
        kept_versions: fields.number("kept_versions"),
        ..Default::default()
    }
}

fn new_form(visit: &PageRequest, entered: &Workspace, error: Option<&FormError>) -> Response {
    let help = html! { "Lower-case letters, digits and " code { "-" } ". Programs write the name in the paths of their calls." };
    let name = html! {
        input #name.mono name="name" type="text" value=(entered.name) required maxlength="63"
            pattern="[a-z0-9]([\\-a-z0-9]*[a-z0-9])?"
            title="Lower-case letters, digits and -, with a letter or a digit at both ends" autocomplete="off" autocapitalize="none" spellcheck="false"
            aria-describedby="name-help" aria-invalid=[invalid("name", error)] autofocus[error.is_none() || has_error("name", error)];
    };
    let body = html! {
        (breadcrumb(&[("Workspaces", "/")]))
        h1 { "New workspace" }
        (error_summary(error, &["name", "kept_versions"]))
        form.stack method="post" action="/workspaces" {
            (hidden(visit.session.csrf.reveal()))
            (field("name", "Name", &help, error, &name))
            (plan::choice(entered.plan(), true))
            (kept_versions(entered.kept_versions, error))
            (submit(Submit::Primary, "Create workspace", "/"))
        }
    };
    render_form(visit, "New workspace", Section::Workspaces, error, &body)
}

/// Returns the error of a workspace that the vault refused.
pub(super) fn refusal(failure: Failure) -> FormError {
    match failure.message.contains("workspace.kept_versions: ") {
        true => FormError::at("kept_versions", "enter a number from 1 to 100"),
        false => FormError::from(failure),
    }
}

/// Returns the field for the number of versions that the vault keeps of each secret; 0 is the default number.
pub(super) fn kept_versions(number: u32, error: Option<&FormError>) -> Markup {
    let number = if number == 0 { KEPT_VERSIONS } else { number };
    let help =
        html! { "Older versions of a secret can be restored. 1 to 100, the current version included." };
    let control = html! {
        input #kept_versions.short name="kept_versions" type="number" min="1" max="100" required value=(number)
            aria-describedby="kept_versions-help" aria-invalid=[invalid("kept_versions", error)] autofocus[has_error("kept_versions", error)];
    };
    field(
        "kept_versions",
        "Versions kept of each secret",
        &help,
        error,
        &control,
    )
}
