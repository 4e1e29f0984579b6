//! Forms: fields with their labels, help and errors.

use http::StatusCode;
use maud::{Markup, html};
use proto::Reason;

use super::text::{prose, sentence};
use crate::failure::{Failure, FailureKind};

/// The cause for which a form is shown again.
pub(crate) struct FormError {
    /// The name of the field with the mistake.
    field: Option<&'static str>,
    message: String,
    hint: Option<String>,
    /// The path and the text of a link to the remedy.
    link: Option<(String, &'static str)>,
    pub(crate) status: StatusCode,
}

impl FormError {
    /// Says that a field has a mistake.
    pub(crate) fn at(field: &'static str, message: &str) -> Self {
        Self {
            field: Some(field),
            message: sentence(message),
            hint: None,
            link: None,
            status: StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    /// Returns the message, if the mistake is in the field `name`.
    pub(crate) fn message_at(&self, name: &str) -> Option<&str> {
        (self.field == Some(name)).then_some(self.message.as_str())
    }

    /// Returns the name of the field with the mistake.
    pub(crate) fn field(&self) -> Option<&'static str> {
        self.field
    }

    /// Names another hint than that of the command line.
    #[must_use]
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// Points to no field, because the hint is about the whole form.
    #[must_use]
    pub(crate) fn without_field(self) -> Self {
        Self {
            field: None,
            link: None,
            ..self
        }
    }

    /// Links to the remedy instead of describing it.
    #[must_use]
    pub(crate) fn link(self, path: String, text: &'static str) -> Self {
        Self {
            hint: None,
            link: Some((path, text)),
            ..self
        }
    }
}

impl From<Failure> for FormError {
    fn from(failure: Failure) -> Self {
        let Failure {
            kind,
            message,
            hint,
            reason,
        } = failure;
        let field = reason.and_then(field_of);
        let hint = match reason.and_then(console_hint) {
            Some(hint) => Some(hint.to_owned()),
            None => hint,
        };
        Self {
            // The error beside a field is enough.
            hint: hint.filter(|_| field.is_none()),
            field,
            message: match reason {
                // The message of the service is for programs.
                Some(Reason::VersionMismatch) => "The secret was not replaced.".to_owned(),
                _ => sentence(&message),
            },
            link: None,
            status: match reason {
                // The vault calls this a loss of data. For the console, the fault is in the file that the person has chosen.
                Some(Reason::BackupDamaged) => StatusCode::BAD_REQUEST,
                _ => status_of(kind),
            },
        }
    }
}

/// Returns the field that a reason is about, if every form has the same name for it.
fn field_of(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::WorkspaceNameInvalid | Reason::WorkspaceExists | Reason::SecretNameInvalid => Some("name"),
        Reason::SecretValueSize => Some("value"),
        Reason::OriginInvalid => Some("origins"),
        _ => None,
    }
}

/// Returns the hint that replaces the command line's, which names commands and flags that the console does not have.
fn console_hint(reason: Reason) -> Option<&'static str> {
    let hint = match reason {
        Reason::RevisionMismatch | Reason::Conflict => {
            "somebody else changed it at the same time: open the page again and repeat the change"
        }
        Reason::WorkspaceNotFound => {
            "the workspace was deleted, or the address has a mistake: go back to the list of workspaces"
        }
        Reason::SecretNotFound => {
            "the secret was deleted, or the address has a mistake: go back to the list of secrets"
        }
        Reason::ServerNotFound => {
            "the server was removed, or the address has a mistake: go back to the list of servers"
        }
        Reason::CatalogEntryNotFound => {
            "the entry has left the catalog: choose another one, or add the server by its URL"
        }
        Reason::UpstreamNotVerified => {
            "give the injector the CA of the server with its setting `--upstream-ca`, or have an administrator allow it under \
             “TLS and connection”"
        }
        Reason::WorkspaceReplaced => {
            "the server belongs to an older workspace of this name: delete the server and add it again"
        }
        Reason::VersionMismatch => "open the secret again and decide again",
        Reason::PlanLimitReached => {
            "choose a larger plan in the settings of the workspace, or delete a secret"
        }
        Reason::RestoreWidensOrigins => {
            "an administrator restores it with `aerostack workspace secret restore WORKSPACE NAME --version VERSION \
             --allow-wider-origins`"
        }
        Reason::RestoreExtendsExpiry => {
            "an administrator restores it with `aerostack workspace secret restore WORKSPACE NAME --version VERSION \
             --allow-later-expiry`"
        }
        Reason::Unauthenticated => {
            "when a token has expired, replace the token in its file (--token-file for the vault, --injector-token-file for the \
             injector): the console reads it for each request; without a token, start `aerostack console` with a client certificate \
             (--cert and --key, or --dir)"
        }
        Reason::VaultUnavailable | Reason::StorageUnavailable | Reason::ShuttingDown | Reason::Overloaded => {
            "try again; the page `Status` shows the state of both services"
        }
        // The hints of other reasons name nothing that the console lacks, or belong to calls that the console does not make.
        _ => return None,
    };
    Some(hint)
}

fn status_of(kind: FailureKind) -> StatusCode {
    match kind {
        FailureKind::Unavailable | FailureKind::Configuration => StatusCode::SERVICE_UNAVAILABLE,
        FailureKind::NotAllowed => StatusCode::FORBIDDEN,
        FailureKind::NotFound => StatusCode::NOT_FOUND,
        FailureKind::Internal | FailureKind::File => StatusCode::INTERNAL_SERVER_ERROR,
        FailureKind::Negative
        | FailureKind::HttpError
        | FailureKind::Usage
        | FailureKind::Refused
        | FailureKind::AlreadyExists
        | FailureKind::Conflict
        | FailureKind::Interrupted => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// Returns the error above a form, which gets the focus. The fields named `fields` show their errors themselves, so that an error at
/// one of them is not shown twice.
pub(crate) fn error_summary(error: Option<&FormError>, fields: &[&str]) -> Markup {
    summary(error, fields, true)
}

/// Returns the same for a form with a field that gets the focus after every error.
pub(crate) fn error_summary_without_focus(error: Option<&FormError>, fields: &[&str]) -> Markup {
    summary(error, fields, false)
}

fn summary(error: Option<&FormError>, fields: &[&str], has_focus: bool) -> Markup {
    let at_field = |error: &FormError| error.field.is_some_and(|field| fields.contains(&field));
    html! {
        @if let Some(error) = error.filter(|error| !at_field(error)) {
            div.notice.bad role="alert" tabindex="-1" autofocus[has_focus] {
                p { (prose(&error.message)) }
                (remedy(error))
            }
        }
    }
}

/// Returns the error of the field `name`.
pub(crate) fn error_at(name: &str, error: Option<&FormError>) -> Markup {
    html! {
        @if let Some(error) = error.filter(|error| error.field == Some(name)) {
            p.error { (prose(&error.message)) }
            (remedy(error))
        }
    }
}

fn remedy(FormError { hint, link, .. }: &FormError) -> Markup {
    html! {
        @if let Some((path, text)) = link { p { a href=(path) { (text) } } }
        @if let Some(hint) = hint { p.quiet { (prose(&sentence(hint))) } }
    }
}

/// Returns a label, a control, its help and its error. The control must have the id `name`, and `aria-describedby` must name
/// `{name}-help`.
pub(crate) fn field(
    name: &str,
    label: &str,
    help: &Markup,
    error: Option<&FormError>,
    control: &Markup,
) -> Markup {
    html! {
        div.field {
            label for=(name) { (label) }
            (control)
            div.help id={ (name) "-help" } {
                (error_at(name, error))
                (help)
            }
        }
    }
}

/// Returns the value of `aria-invalid` for a field.
pub(crate) fn invalid(name: &str, error: Option<&FormError>) -> Option<&'static str> {
    has_error(name, error).then_some("true")
}

/// Returns true for the field with the mistake, which gets the focus.
pub(crate) fn has_error(name: &str, error: Option<&FormError>) -> bool {
    error.is_some_and(|error| error.field == Some(name))
}

/// Returns the field that proves that a form is of this session.
pub(crate) fn hidden(csrf: &str) -> Markup {
    html! { input type="hidden" name="csrf" value=(csrf); }
}

/// The weight of a button.
#[derive(Clone, Copy)]
pub(crate) enum Submit {
    Primary,
    Danger,
}

/// Returns the buttons at the end of a form: the change, and the way back.
pub(crate) fn submit(weight: Submit, label: &str, back: &str) -> Markup {
    let class = match weight {
        Submit::Primary => "button primary",
        Submit::Danger => "button danger",
    };
    html! {
        div.actions {
            button class=(class) type="submit" { (label) }
            a.button href=(back) { "Cancel" }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use proto::Refusal;
    use tonic::Status;

    use super::*;

    fn error_of(reason: Reason) -> FormError {
        let status = Status::from(Refusal::new(reason, "no"));
        Failure::of_status("the vault", &status).into()
    }

    #[test]
    fn hints_of_pages_name_no_commands_for_what_the_console_does() {
        for reason in [
            Reason::WorkspaceNotFound,
            Reason::SecretNotFound,
            Reason::ServerNotFound,
            Reason::CatalogEntryNotFound,
            Reason::WorkspaceReplaced,
            Reason::RevisionMismatch,
            Reason::VersionMismatch,
            Reason::PlanLimitReached,
            Reason::VaultUnavailable,
        ] {
            let hint = error_of(reason).hint.unwrap();
            assert!(!hint.contains("aerostack") && !hint.contains("--"), "{hint}");
        }
        assert!(
            error_of(Reason::PermissionDenied)
                .hint
                .unwrap()
                .contains("--editor")
        );
    }

    #[test]
    fn a_message_shows_code_as_code() {
        let error = FormError::at("name", "write `A`");
        assert!(
            error_summary(Some(&error), &[])
                .into_string()
                .contains("Write <code>A</code>.")
        );
    }

    #[test]
    fn an_error_is_shown_once() {
        let error = FormError::at("name", "no").link("/x".to_owned(), "a remedy");
        for fields in [&["name"][..], &["value"], &[]] {
            let shown_at_field = fields
                .iter()
                .map(|name| error_at(name, Some(&error)).into_string());
            let shown =
                error_summary(Some(&error), fields).into_string() + &shown_at_field.collect::<String>();
            assert_eq!(
                (shown.matches("No.").count(), shown.matches("href=\"/x\"").count()),
                (1, 1),
                "{fields:?}"
            );
        }
    }
}
