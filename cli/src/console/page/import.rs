//! `/w/{workspace}/secrets/import`: reads many secrets from a pasted text or a file.

use std::sync::Arc;

use axum::response::Response;
use maud::html;
use proto::WorkspaceName;
use tokio::time;
use zeroize::Zeroizing;

use super::{
    frame::{failure_page, render_form, see_other},
    import_form::{ImportFields, faults, form},
    paths::InWorkspace,
    secret_access::change_refused,
    secret_put::secret_breadcrumb,
};
use crate::{
    console::{
        fields::{Fields, without_form_line_breaks},
        guard::PageRequest,
        session_memory::KEPT,
        sign_in::Session,
        upload::Upload,
        view::{FormError, Section},
    },
    secret_import::ImportPlan,
    value::{
        Edits,
        import::{self, FileFault},
    },
};

/// Maximum size of a pasted text or a file, in bytes.
const MAX_TEXT: usize = 2 * 1024 * 1024;

pub(in crate::console) async fn show(InWorkspace(workspace): InWorkspace, visit: PageRequest) -> Response {
    if let Some(refused) = change_refused(&visit, workspace.as_str()).await {
        return refused;
    }
    page(&visit, workspace.as_str(), &ImportFields::default(), None, &[])
}

/// Reads the text, keeps the plan in the session, and leads to its preview.
pub(in crate::console) async fn read(
    InWorkspace(workspace): InWorkspace,
    Upload { visit, mut parts }: Upload,
) -> Response {
    let mut fields = match parts.fields(MAX_TEXT).await {
        Ok(fields) => fields,
        Err(fault) => return fault.page(),
    };
    // A second text replaces the first one, also when the second cannot be read.
    visit.session.memory.forget_values();
    let entered = ImportFields::of(&fields);
    let text = match text(&mut fields) {
        Ok(text) => text,
        Err(error) => return page(&visit, workspace.as_str(), &entered, Some(&error), &[]),
    };
    let file = match import::parse(&text, entered.format) {
        Ok(file) => file,
        Err(error) => {
            let error = FormError::at("text", &error.to_string());
            return page(&visit, workspace.as_str(), &entered, Some(&error), &[]);
        }
    };
    drop(text);
    let present = match visit.app.services.secrets(workspace.as_str()).await {
        Ok(present) => present,
        Err(failure) => return failure_page(&visit, Section::Workspaces, failure),
    };
    let edits = Edits {
        trim: entered.trims,
        compact: false,
    };
    let plan = ImportPlan::of(file, present, edits);
    if !plan.faults.is_empty() {
        let error = FormError::at(
            "text",
            "some lines cannot be read, so nothing of the text is used",
        );
        return page(&visit, workspace.as_str(), &entered, Some(&error), &plan.faults);
    }
    wait_for_confirmation(&visit.session, &workspace, plan);
    see_other(&format!("/w/{workspace}/secrets/import/preview"))
}

/// Returns the pasted text, or that of the file.
fn text(fields: &mut Fields) -> Result<Zeroizing<String>, FormError> {
    let (pasted, file) = (fields.take_value("text"), fields.take_value("file"));
    match (pasted.trim().is_empty(), file.is_empty()) {
        (true, true) => Err(FormError::at("text", "paste a text, or choose a file")),
        (false, false) => Err(FormError::at(
            "text",
            "this is a text and a file: send them one after the other",
        )),
        (true, false) => Ok(file),
        (false, true) => {
            let bytes = without_form_line_breaks(&pasted);
            // Line breaks were removed from a text, so the rest is a text too.
            Ok(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()))
        }
    }
}

/// Keeps a plan with its values until it is confirmed, for a limited time.
fn wait_for_confirmation(session: &Arc<Session>, workspace: &WorkspaceName, plan: ImportPlan) {
    let number = session.memory.wait_for_confirmation(workspace.to_string(), plan);
    // The session may end before the time has passed, and is not kept until then.
    let session = Arc::downgrade(session);
    tokio::spawn(async move {
        time::sleep(KEPT).await;
        if let Some(session) = session.upgrade() {
            session.memory.forget(number);
        }
    });
}

fn page(
    visit: &PageRequest,
    workspace: &str,
    entered: &ImportFields,
    error: Option<&FormError>,
    unreadable: &[FileFault],
) -> Response {
    let body = html! {
        (secret_breadcrumb(workspace, None))
        h1 { "Paste many secrets" }
        p.quiet { "The next page shows the names, and what would be created and replaced. Nothing is stored before you confirm it." }
        (form(workspace, entered, visit.session.csrf.reveal(), error, &faults(unreadable)))
    };
    let title = format!("Paste secrets into {workspace}");
    render_form(visit, &title, Section::Workspaces, error, &body)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::console::sign_in::{SignIn, SignIns};

    fn plan() -> ImportPlan {
        let file = import::parse("A=1\n", None).unwrap();
        ImportPlan::of(file, Vec::new(), Edits::default())
    }

    const TEN_MINUTES: Duration = Duration::from_secs(600);

    #[tokio::test(start_paused = true)]
    async fn values_are_forgotten_after_ten_minutes_and_at_sign_out() {
        let sign_ins = SignIns::default();
        let link = sign_ins.new_link().unwrap();
        let Ok(SignIn::New(session)) = sign_ins.sign_in(&link, &[], true) else {
            panic!("not signed in");
        };
        let workspace = WorkspaceName::parse("w").unwrap();
        let waits = || session.memory.waiting("w", |_| ()).is_some();
        wait_for_confirmation(&session, &workspace, plan());
        time::sleep(TEN_MINUTES - Duration::from_secs(1)).await;
        assert!(waits());
        time::sleep(Duration::from_secs(2)).await;
        assert!(!waits());

        // The time of the first text does not end that of the second one.
        wait_for_confirmation(&session, &workspace, plan());
        time::sleep(TEN_MINUTES / 2).await;
        wait_for_confirmation(&session, &workspace, plan());
        time::sleep(TEN_MINUTES / 2 + Duration::from_secs(1)).await;
        assert!(waits());
        sign_ins.sign_out(&session);
        assert!(!waits());
    }
}
