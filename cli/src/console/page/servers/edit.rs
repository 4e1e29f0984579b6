//! `/w/{workspace}/servers/{name}/edit`

use axum::response::Response;
use maud::html;
use proto::{
    Reason,
    injector::v1::{Injection, Server},
};

use super::{
    super::{
        frame::{failure_page, render_form, see_other},
        paths::OfServer,
    },
    access::{may_change, not_allowed, unreadable_form},
    add::warn,
    breadcrumb::server_breadcrumb,
    changes::{ChangedSetting, changes},
    form::ServerForm,
    form_view::{FormContext, form_view},
    message::refusal,
    shown_state::ShownState,
    step::FormStep,
};
use crate::{
    console::{
        guard::{Change, PageRequest},
        view::{FormError, Notice, Section},
    },
    failure::{Failure, FailureKind},
};

pub(in crate::console) async fn form(of: OfServer, visit: PageRequest) -> Response {
    let (server, may_change) = tokio::join!(
        visit.app.services.server(&of.workspace, &of.name),
        may_change(&visit, &of.workspace)
    );
    match server.and_then(known_places) {
        Err(failure) => failure_page(&visit, Section::Workspaces, failure),
        Ok(_) if !may_change => not_allowed(&visit),
        Ok(server) => {
            let form = ServerForm::of_server(&server);
            page(&visit, &of, ShownState::of(&server), &form, None, "").await
        }
    }
}

/// Refuses a server with a place that a later release of the injector has, because the form would lose the place.
fn known_places(server: Server) -> Result<Server, Failure> {
    let is_known = |injection: &Injection| injection.placement.is_some();
    if server.injections.iter().all(is_known) {
        return Ok(server);
    }
    let message = "a secret of this server goes to a place that this release of the console does not know";
    Err(Failure::new(FailureKind::Refused, message)
        .hint("use the release of `aerostack` that belongs to the injector"))
}

pub(in crate::console) async fn save(of: OfServer, Change { visit, fields }: Change) -> Response {
    let mut form = match ServerForm::of(&fields) {
        Ok(form) => form,
        Err(unreadable) => return unreadable_form(&visit, &unreadable),
    };
    of.name.as_str().clone_into(&mut form.name);
    let shown = ShownState::of_form(&fields);
    if let Some(step) = FormStep::of(&fields) {
        let focus = step.apply(&mut form);
        return page(&visit, &of, shown, &form, None, &focus).await;
    }
    form.remove_blank_rows();
    let present = visit.app.services.server(&of.workspace, &of.name).await;
    let present = match present.and_then(known_places) {
        Ok(present) => present,
        Err(failure) => return failure_page(&visit, Section::Workspaces, failure),
    };
    form.keep_untouched(&ServerForm::of_server(&present));
    if let Err(conflict) = shown.compare(&present) {
        return changed_meanwhile(&visit, &of, &shown, &present, form, conflict).await;
    }
    match send(&visit, &of, &present, &form).await {
        Ok(text) => {
            visit.session.notify(Notice::done(text));
            see_other(&of.path())
        }
        Err(Unsaved::Changed(conflict)) => match visit.app.services.server(&of.workspace, &of.name).await {
            Ok(present) => changed_meanwhile(&visit, &of, &shown, &present, form, conflict).await,
            Err(failure) => failure_page(&visit, Section::Workspaces, failure),
        },
        Err(Unsaved::Refused(error)) => {
            form.forget_pasted_credentials(Some(&present));
            page(&visit, &of, shown, &form, Some(&error), "").await
        }
    }
}

/// A form that did not change the server.
enum Unsaved {
    /// Somebody else changed the server while the form was being saved.
    Changed(FormError),
    Refused(FormError),
}

/// Sends the fields that differ from `present`, and returns the text of the notice.
async fn send(
    visit: &PageRequest,
    of: &OfServer,
    present: &Server,
    form: &ServerForm,
) -> Result<String, Unsaved> {
    form.check(Some(present)).map_err(Unsaved::Refused)?;
    let changes = changes_of(of, present, form);
    if changes.is_empty() {
        return Ok(format!("Nothing was changed in `{}`.", of.name));
    }
    let server = Server {
        revision: present.revision,
        ..form.server(of.workspace.as_str())
    };
    let paths = changes.iter().flat_map(|change| change.paths);
    let paths = paths.map(|path| (*path).to_owned()).collect();
    match visit.app.services.update_server(server, paths).await {
        Ok((_, warnings)) => {
            warn(&visit.session, of.workspace.as_str(), warnings);
            Ok(format!(
                "`{}` was changed: {}. The next call follows it.",
                of.name,
                labels(&changes)
            ))
        }
        Err(failure) if matches!(failure.reason, Some(Reason::RevisionMismatch)) => {
            Err(Unsaved::Changed(failure.into()))
        }
        Err(failure) => Err(Unsaved::Refused(refusal(failure, form.credential_field()))),
    }
}

/// Returns what the form would change in the present server.
fn changes_of(of: &OfServer, present: &Server, form: &ServerForm) -> Vec<ChangedSetting> {
    let workspace = of.workspace.as_str();
    let before = ServerForm::of_server(present).server(workspace);
    changes(&before, &form.server(workspace))
}

fn labels(changes: &[ChangedSetting]) -> String {
    let labels: Vec<_> = changes.iter().map(|change| change.label).collect();
    labels.join(", ")
}

/// Shows the form again with what the person entered, for the present state of the server. A setting that the person left is that of
/// the present state, because the next send would otherwise undo somebody else's change unseen.
async fn changed_meanwhile(
    visit: &PageRequest,
    of: &OfServer,
    shown: &ShownState,
    present: &Server,
    mut form: ServerForm,
    conflict: FormError,
) -> Response {
    let shown = ServerForm::of_server(&shown.server().unwrap_or_default());
    let present_form = ServerForm::of_server(present);
    let workspace = of.workspace.as_str();
    let theirs = changes(&present_form.server(workspace), &shown.server(workspace));
    form.keep_untouched(&shown);
    form.merge(&shown, &present_form);
    let mine = changes_of(of, present, &form);
    let error = conflict
        .link(format!("{}/edit", of.path()), "Discard your entries")
        .hint(conflict_hint(&theirs, &mine));
    page(visit, of, ShownState::of(present), &form, Some(&error), "").await
}

/// Says what somebody else changed, with the present values, and what the form would change now.
fn conflict_hint(theirs: &[ChangedSetting], mine: &[ChangedSetting]) -> String {
    let both = mine
        .iter()
        .any(|mine| theirs.iter().any(|other| other.label == mine.label));
    let theirs: Vec<_> = theirs.iter().map(described).collect();
    let mut hint = match theirs.as_slice() {
        [] => "the change was in no setting of this form".to_owned(),
        theirs => format!("changed by somebody else: {}", theirs.join(", ")),
    };
    hint.push_str(". ");
    match mine {
        [] => hint.push_str("The server has what you entered already"),
        mine => hint.push_str(&format!("“Save changes” saves your entries: {}", labels(mine))),
    }
    if both {
        hint.push_str(". Where both of you changed a setting, your entry replaces the other one");
    }
    hint
}

fn described(ChangedSetting { label, before, .. }: &ChangedSetting) -> String {
    match before.as_str() {
        "" => (*label).to_owned(),
        present => format!("{label} (now `{present}`)"),
    }
}

async fn page(
    visit: &PageRequest,
    of: &OfServer,
    shown: ShownState,
    form: &ServerForm,
    error: Option<&FormError>,
    focus: &str,
) -> Response {
    let (workspace, name) = (of.workspace.as_str(), of.name.as_str());
    let secrets = visit.app.services.secrets(workspace).await.ok();
    let context = FormContext {
        workspace,
        action: format!("{}/edit", of.path()),
        back: of.path(),
        button: "Save changes",
        edited: Some(shown),
        secrets: secrets.as_deref(),
        url_example: "",
        csrf: visit.session.csrf.reveal(),
        focus,
    };
    let body = html! {
        (server_breadcrumb(workspace, Some(name)))
        h1 { "Edit " span.mono { (name) } }
        (form_view(&context, form, error))
    };
    render_form(visit, &format!("Edit {name}"), Section::Workspaces, error, &body)
}
