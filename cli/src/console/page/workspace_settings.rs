//! `/w/{workspace}/settings`: the plan, and the deletion of the workspace.

use axum::response::Response;
use maud::{Markup, html};
use proto::{Reason, vault::v1::Workspace};

use super::{
    frame::{Tab, failure_page, render_form, see_other, workspace_head},
    paths::InWorkspace,
    plan,
    workspaces::{kept_versions, refusal},
};
use crate::{
    console::{
        fields::Fields,
        guard::{Change, PageRequest},
        view::{
            FormError, Notice, Section, Submit, count, error_summary, field, has_error, hidden, icon,
            invalid, link_chips, prose, sentence, submit,
        },
    },
    failure::Failure,
};

pub(in crate::console) async fn show(InWorkspace(workspace): InWorkspace, visit: PageRequest) -> Response {
    page(&visit, workspace.as_str(), None, None).await
}

pub(in crate::console) async fn update(
    InWorkspace(workspace): InWorkspace,
    Change { visit, fields }: Change,
) -> Response {
    let (workspace, services) = (workspace.as_str(), &visit.app.services);
    let before = match services.workspace(workspace).await {
        Ok(before) => before,
        Err(failure) => return failure_page(&visit, Section::Workspaces, failure),
    };
    let entered = entered(workspace, &fields);
    match services.update_workspace(entered.clone()).await {
        Ok(after) => {
            visit.session.notify(Notice::done(changes(&before, &after)));
            see_other(&format!("/w/{workspace}/settings"))
        }
        Err(failure) if failure.reason == Some(Reason::RevisionMismatch) => {
            let present = format!(
                "it has the plan {} and keeps {} of each secret now; to replace this by your entries, save again",
                plan::label(before.plan()),
                count_of(before.kept_versions)
            );
            let error = FormError::from(failure).hint(present);
            page(&visit, workspace, Some(&entered), Some(error)).await
        }
        Err(failure) => page(&visit, workspace, Some(&entered), Some(refusal(failure))).await,
    }
}

/// Says what an update changed.
fn changes(before: &Workspace, after: &Workspace) -> String {
    let plan = (before.plan != after.plan).then(|| format!("has the plan {}", plan::label(after.plan())));
    let kept = (before.kept_versions != after.kept_versions)
        .then(|| format!("keeps {} of each secret", count_of(after.kept_versions)));
    let changes: Vec<_> = plan.into_iter().chain(kept).collect();
    match changes.as_slice() {
        [] => format!("Nothing was changed in `{}`.", after.name),
        changes => format!("`{}` {} now.", after.name, changes.join(" and ")),
    }
}

fn count_of(versions: u32) -> String {
    count(usize::try_from(versions).unwrap_or(usize::MAX), "version")
}

fn entered(workspace: &str, fields: &Fields) -> Workspace {
    Workspace {
        name: workspace.to_owned(),
        plan: plan::parse(fields.text("plan")).into(),
        kept_versions: fields.number("kept_versions"),
        // A change is made only to the state that the page showed.
        revision: fields.number("revision"),
        ..Default::default()
    }
}

pub(in crate::console) async fn delete(
    InWorkspace(workspace): InWorkspace,
    Change { visit, fields }: Change,
) -> Response {
    let workspace = workspace.as_str();
    if fields.text("confirm") != workspace {
        let error = FormError::at("confirm", "type the name of the workspace to delete it");
        return page(&visit, workspace, None, Some(error)).await;
    }
    let services = &visit.app.services;
    match services
        .delete_workspace(workspace, fields.number("revision"))
        .await
    {
        Ok(()) => {
            let text = format!("The workspace `{workspace}` was deleted, with its secrets and its keys.");
            visit.session.notify(Notice::done(text));
            see_other("/")
        }
        Err(failure) => page(&visit, workspace, None, Some(failure.into())).await,
    }
}

/// Renders the page. After an error the form keeps the settings that were `entered`.
async fn page(
    visit: &PageRequest,
    name: &str,
    entered: Option<&Workspace>,
    error: Option<FormError>,
) -> Response {
    let services = &visit.app.services;
    let (workspace, servers) = tokio::join!(services.workspace(name), services.servers(name));
    let workspace = match workspace {
        Ok(workspace) => workspace,
        Err(failure) => return failure_page(visit, Section::Workspaces, failure),
    };
    let servers = servers.map(|servers| servers.into_iter().map(|server| server.name).collect());
    let csrf = visit.session.csrf.reveal();
    let body = html! {
        (workspace_head(name, Tab::Settings))
        (error_summary(error.as_ref(), &["kept_versions", "confirm"]))
        (settings(&workspace, entered.unwrap_or(&workspace), csrf, error.as_ref()))
        (deletion(&workspace, &servers, csrf, error.as_ref()))
    };
    let title = format!("Settings of {name}");
    render_form(visit, &title, Section::Workspaces, error.as_ref(), &body)
}

fn settings(workspace: &Workspace, shown: &Workspace, csrf: &str, error: Option<&FormError>) -> Markup {
    html! {
        form.stack method="post" action={ "/w/" (workspace.name) "/settings" } {
            (hidden(csrf))
            input type="hidden" name="revision" value=(workspace.revision);
            (plan::choice(shown.plan(), false))
            p.quiet { "A lower plan only stops new names. Secrets stay, and can be replaced." }
            (kept_versions(shown.kept_versions, error))
            div.actions { button.button.primary type="submit" { "Save" } }
        }
    }
}

fn deletion(
    workspace: &Workspace,
    servers: &Result<Vec<String>, Failure>,
    csrf: &str,
    error: Option<&FormError>,
) -> Markup {
    let help = html! { "Type " code { (workspace.name) } " to confirm. Nothing can bring the workspace back but a backup." };
    let control = html! {
        input #confirm.mono name="confirm" type="text" required autocomplete="off" autocapitalize="none" spellcheck="false"
            aria-describedby="confirm-help" aria-invalid=[invalid("confirm", error)] autofocus[has_error("confirm", error)];
    };
    html! {
        section.danger-zone aria-labelledby="delete-title" {
            h2 #delete-title { (icon("warning")) "Delete this workspace" }
            p { (contents(workspace)) }
            (servers_of(&workspace.name, servers))
            form.stack method="post" action={ "/w/" (workspace.name) "/delete" } {
                (hidden(csrf))
                input type="hidden" name="revision" value=(workspace.revision);
                (field("confirm", "Name of the workspace", &help, error, &control))
                (submit(Submit::Danger, "Delete workspace", &format!("/w/{}/secrets", workspace.name)))
            }
        }
    }
}

fn contents(workspace: &Workspace) -> String {
    match usize::try_from(workspace.secret_count).unwrap_or(usize::MAX) {
        0 => "It holds no secrets. Its keys are destroyed.".to_owned(),
        secrets => format!(
            "It holds {}. They are deleted with all their versions, and the workspace's keys are destroyed.",
            count(secrets, "secret")
        ),
    }
}

fn servers_of(workspace: &str, servers: &Result<Vec<String>, Failure>) -> Markup {
    html! {
        @match servers {
            Ok(servers) if servers.is_empty() => p { "No server of the injector belongs to it." },
            Ok(servers) => {
                p { "Calls to these servers fail from then on:" }
                (link_chips(servers.iter().map(|name| (format!("/w/{workspace}/servers/{name}"), name.clone()))))
            }
            Err(failure) => p { "The servers that belong to it are not known. " (prose(&sentence(&failure.message))) }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::vault::v1::Plan;

    use super::*;

    #[test]
    fn a_notice_names_the_settings_that_changed() {
        let with = |plan: Plan, kept_versions| Workspace {
            name: "w".to_owned(),
            plan: plan.into(),
            kept_versions,
            ..Default::default()
        };
        let before = with(Plan::Free, 3);
        for (after, text) in [
            (with(Plan::Pro, 3), "`w` has the plan pro now."),
            (with(Plan::Free, 1), "`w` keeps 1 version of each secret now."),
            (
                with(Plan::Pro, 5),
                "`w` has the plan pro and keeps 5 versions of each secret now.",
            ),
            (with(Plan::Free, 3), "Nothing was changed in `w`."),
        ] {
            assert_eq!(changes(&before, &after), text);
        }
    }
}
