//! Puts the value of a secret: `/w/{workspace}/secrets/new` and `/w/{workspace}/secrets/{name}/replace`.

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, header};
use maud::{Markup, html};
use proto::{
    Reason, SecretName,
    vault::v1::{PutSecretRequest, PutSecretResponse, Secret},
};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{
    frame::{breadcrumb, failure_page, render_form, see_other},
    paths::{InWorkspace, OfSecret},
    secret_access::change_refused,
    secret_form::{FormFor, SecretFields, form},
};
use crate::{
    console::{
        fields::without_form_line_breaks,
        guard::{Change, PageRequest, QueryFields},
        services::found,
        view::{FormError, Notice, Section},
    },
    failure::Failure,
    pasted_credential,
    value::{Edits, to_wire},
};

/// Shows the form for a new secret. A page that misses a secret links here with its name and its origin.
pub(in crate::console) async fn new(
    InWorkspace(workspace): InWorkspace,
    QueryFields(query): QueryFields,
    visit: PageRequest,
) -> Response {
    if let Some(refused) = change_refused(&visit, workspace.as_str()).await {
        return refused;
    }
    new_form(&visit, workspace.as_str(), &SecretFields::of(&query), None)
}

pub(in crate::console) async fn add(
    InWorkspace(workspace): InWorkspace,
    Change { visit, mut fields }: Change,
) -> Response {
    let value = fields.take_value("value");
    let mut entered = SecretFields::of(&fields);
    let workspace = workspace.as_str();
    if let Err(pasted) = pasted_credential::check(&entered.name) {
        // The page must not show the credential again.
        entered.name.clear();
        let error = FormError::at("name", &pasted.to_string());
        return new_form(&visit, workspace, &entered, Some(&error));
    }
    // `expected_version` 0 means that the secret must not exist yet. To replace one, the person sees its metadata first.
    match put(&visit, workspace, &entered.name, &entered, value, 0).await {
        Ok(answer) => {
            let path = done(&visit, workspace, &entered.name, answer);
            see_other(&path)
        }
        Err(error) => new_form(&visit, workspace, &entered, Some(&error)),
    }
}

pub(in crate::console) async fn replace_form(
    OfSecret { workspace, name }: OfSecret,
    visit: PageRequest,
) -> Response {
    if let Some(refused) = change_refused(&visit, workspace.as_str()).await {
        return refused;
    }
    match visit.app.services.secret(workspace.as_str(), &name).await {
        Ok(secret) => replacement(&visit, &secret, &SecretFields::of_present(&secret), None),
        Err(failure) => failure_page(&visit, Section::Workspaces, failure),
    }
}

pub(in crate::console) async fn replace(
    OfSecret { workspace, name }: OfSecret,
    Change { visit, mut fields }: Change,
) -> Response {
    let value = fields.take_value("value");
    let entered = SecretFields::of(&fields);
    let workspace = workspace.as_str();
    let shown = SecretFields::of_shown(&fields);
    let version = fields.number("version");
    match put(&visit, workspace, name.as_str(), &entered, value, version).await {
        Ok(answer) => {
            let path = done(&visit, workspace, name.as_str(), answer);
            see_other(&path)
        }
        Err(error) => match visit.app.services.secret(workspace, &name).await {
            Ok(secret) => refused_replacement(&visit, &secret, entered, &shown, version, error),
            Err(failure) => failure_page(&visit, Section::Workspaces, failure),
        },
    }
}

/// Shows the form again after an error. The form always replaces the present version. When this is no longer the `version`
/// that the person saw, the form takes the present metadata where the person changed nothing, because the next send would otherwise
/// undo somebody else's change unseen.
fn refused_replacement(
    visit: &PageRequest,
    secret: &Secret,
    mut entered: SecretFields,
    shown: &SecretFields,
    version: u64,
    error: FormError,
) -> Response {
    if secret.version == version {
        let entered = entered.with_present_expiry(secret);
        return replacement(visit, secret, &entered, Some(&error));
    }
    let conflicts = entered.merge(shown, secret);
    let conflicts = conflicts.iter().map(|(label, present)| match present.as_str() {
        "" => format!("; “{label}” is empty now, and your entry would replace this"),
        present => format!("; “{label}” is `{present}` now, and your entry would replace this"),
    });
    let error = error.without_field().hint(format!(
        "the secret was changed meanwhile: this is its present state with what you changed, check it and send again{}",
        conflicts.collect::<String>()
    ));
    replacement(visit, secret, &entered, Some(&error))
}

/// Puts a value. The buffers that hold it are wiped when this function returns.
async fn put(
    visit: &PageRequest,
    workspace: &str,
    name: &str,
    entered: &SecretFields,
    value: Zeroizing<String>,
    version: u64,
) -> Result<PutSecretResponse, FormError> {
    let name = SecretName::parse(name).map_err(|error| FormError::at("name", &error.to_string()))?;
    let (origins, labels, expires_at) = (entered.origins()?, entered.labels()?, entered.expires_at()?);
    let value = without_form_line_breaks(&value);
    if value.is_empty() {
        return Err(FormError::at("value", "enter the value"));
    }
    let edits = Edits {
        trim: entered.trims,
        compact: false,
    };
    let trimmed = edits.apply(name.as_str(), value);
    let value = trimmed.map_err(|failure| FormError::at("value", &failure.message))?;
    let request = PutSecretRequest {
        workspace: workspace.to_owned(),
        name: name.as_str().to_owned(),
        value: Some(to_wire(&value)),
        upstream_origins: origins,
        labels,
        expires_at,
        expected_version: Some(version),
        // The request has no id, because the console never sends it again.
        request_id: String::new(),
    };
    drop(value);
    let answer = visit.app.services.put_secret(request).await;
    answer.map_err(|failure| refusal(failure, workspace, &name, version))
}

/// Returns the error of a put. The hints of the command line name its flags, so the usual refusals have their own here.
fn refusal(failure: Failure, workspace: &str, name: &SecretName, version: u64) -> FormError {
    match failure.reason {
        Some(Reason::VersionMismatch) if version == 0 => {
            FormError::at("name", &format!("{name} exists already")).link(
                format!("/w/{workspace}/secrets/{name}/replace"),
                "Replace its value",
            )
        }
        Some(Reason::PlanLimitReached) => {
            FormError::from(failure).link(format!("/w/{workspace}/settings"), "Change the plan")
        }
        _ => FormError::from(failure),
    }
}

/// Keeps the notices on a put for the next page, and returns the path of that page.
fn done(visit: &PageRequest, workspace: &str, given: &str, answer: PutSecretResponse) -> String {
    let PutSecretResponse {
        secret,
        created,
        warnings,
    } = answer;
    let secret = secret.unwrap_or_default();
    let (name, version) = (&secret.name, secret.version);
    let session = &visit.session;
    session.notify(Notice::done(match created {
        true => format!("`{name}` was created."),
        false => {
            format!("`{name}` has a new value: version {version}. Servers get it from their next call on.")
        }
    }));
    if given != name {
        session.notify(Notice::done(format!("`{given}` is written `{name}`.")));
    }
    for warning in warnings {
        session.notify(Notice::warning(warning.message));
    }
    if secret.upstream_origins.is_empty() {
        session.notify(Notice::warning(
            "Everybody who may edit servers can have this value sent to a server of their own. Replace it with `Send only \
             to` filled in to prevent this.",
        ));
    }
    format!("/w/{workspace}/secrets/{name}")
}

fn new_form(
    visit: &PageRequest,
    workspace: &str,
    entered: &SecretFields,
    error: Option<&FormError>,
) -> Response {
    let csrf = visit.session.csrf.reveal();
    let body = html! {
        (secret_breadcrumb(workspace, None))
        h1 { "Add secret" }
        (form(workspace, &FormFor::NewSecret, entered, csrf, error))
    };
    let title = format!("Add a secret to {workspace}");
    render_form(visit, &title, Section::Workspaces, error, &body)
}

fn replacement(
    visit: &PageRequest,
    secret: &Secret,
    entered: &SecretFields,
    error: Option<&FormError>,
) -> Response {
    let (workspace, name) = (&secret.workspace, &secret.name);
    let what = FormFor::Replacement {
        name: name.clone(),
        version: secret.version,
        shown: SecretFields::of_present(secret),
    };
    let body = html! {
        (secret_breadcrumb(workspace, Some(name)))
        h1 { "Replace the value of " span.mono { (name) } }
        p.quiet {
            "The new value becomes version " (secret.version + 1) ". Servers get it from their next call on, and version "
            (secret.version) " can be restored while it is kept."
        }
        (form(workspace, &what, entered, visit.session.csrf.reveal(), error))
    };
    render_form(
        visit,
        &format!("Replace {name}"),
        Section::Workspaces,
        error,
        &body,
    )
}

/// Returns the breadcrumb of a page about a secret, or about a new secret.
pub(super) fn secret_breadcrumb(workspace: &str, name: Option<&str>) -> Markup {
    let list = format!("/w/{workspace}/secrets");
    match name {
        Some(name) => breadcrumb(&[
            ("Workspaces", "/"),
            (workspace, &list),
            (name, &format!("{list}/{name}")),
        ]),
        None => breadcrumb(&[("Workspaces", "/"), (workspace, &list)]),
    }
}

/// The answer about a name that is being typed.
#[derive(Serialize)]
struct NameLookup {
    /// The normalized name, if the text is a name.
    name: Option<String>,
    problem: Option<String>,
    /// The present version, if the secret exists.
    version: Option<u64>,
}

/// Says whether a secret exists, for the form while the name is typed.
pub(in crate::console) async fn lookup(
    InWorkspace(workspace): InWorkspace,
    QueryFields(query): QueryFields,
    visit: PageRequest,
) -> Response {
    let answer = match SecretName::parse(query.text("name")) {
        Err(error) => NameLookup {
            name: None,
            problem: Some(error.to_string()),
            version: None,
        },
        Ok(name) => match found(visit.app.services.secret(workspace.as_str(), &name).await) {
            Err(failure) => return failure_page(&visit, Section::Workspaces, failure),
            Ok(secret) => NameLookup {
                name: Some(name.as_str().to_owned()),
                problem: None,
                version: secret.map(|secret| secret.version),
            },
        },
    };
    let json = serde_json::to_vec(&answer).unwrap_or_default();
    let media_type = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, media_type)], Body::from(json)).into_response()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    /// `tests/peers/test_console.py` checks the script of the form against the same table.
    #[test]
    fn the_table_of_names_for_the_script_of_the_form_is_that_of_the_vault() {
        let table: Vec<(String, Option<String>)> =
            serde_json::from_str(include_str!("../../../tests/console/names.json")).unwrap();
        for (given, expected) in table {
            let name = SecretName::parse(given.trim()).ok();
            assert_eq!(
                name.as_ref().map(SecretName::as_str),
                expected.as_deref(),
                "{given:?}"
            );
        }
    }
}
