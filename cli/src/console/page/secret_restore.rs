//! `/w/{workspace}/secrets/{name}/restore`: makes the value of a kept version the present one, after a question.

use axum::response::Response;
use maud::{Markup, html};
use proto::{
    Reason, SecretName, WorkspaceName,
    vault::v1::{
        RestoreSecretVersionRequest, RestoreSecretVersionResponse, Secret, SecretVersion, Workspace,
    },
};

use super::{
    frame::{failure_page, render_form, see_other},
    paths::OfSecret,
    secret::page,
    secret_access::change_refused,
    secret_put::secret_breadcrumb,
};
use crate::{
    console::{
        guard::{Change, PageRequest, QueryFields},
        view::{FormError, Notice, Section, Submit, count, day_of, hidden, submit},
        workspace_access::WorkspaceAccess,
    },
    failure::{Failure, FailureKind},
};

pub(in crate::console) async fn confirm(
    OfSecret { workspace, name }: OfSecret,
    QueryFields(query): QueryFields,
    visit: PageRequest,
) -> Response {
    if let Some(refused) = change_refused(&visit, workspace.as_str()).await {
        return refused;
    }
    let services = &visit.app.services;
    let answers = tokio::try_join!(
        services.workspace_access(workspace.as_str()),
        services.secret(workspace.as_str(), &name),
        services.versions(workspace.as_str(), &name),
    );
    let (access, secret, versions) = match answers {
        Ok(answers) => answers,
        Err(failure) => return failure_page(&visit, Section::Workspaces, failure),
    };
    let version: u64 = query.number("version");
    let path = format!("/w/{workspace}/secrets/{name}");
    let is_kept = versions.iter().any(|kept| kept.version == version);
    // A version is restored only in the state that the page with the link showed.
    if !is_kept || version == secret.version || query.number::<u64>("present") != secret.version {
        let error = Failure::new(FailureKind::Conflict, "the secret was changed meanwhile")
            .hint("this is its present state: choose the version again");
        return page(&visit, &workspace, &name, Some(error.into())).await;
    }
    let body = html! {
        (secret_breadcrumb(workspace.as_str(), Some(name.as_str())))
        h1 { "Restore version " (version) " of " span.mono { (name) } "?" }
        p {
            "The value of version " (version) " becomes the present one again, as version " (secret.version + 1)
            ". Servers get it from their next call on. It is shown to nobody."
        }
        (terms(version))
        (loss(&access, &versions))
        form.stack method="post" action={ (path) "/restore" } {
            (hidden(visit.session.csrf.reveal()))
            input type="hidden" name="version" value=(version);
            input type="hidden" name="present" value=(secret.version);
            (submit(Submit::Primary, "Restore", &path))
        }
    };
    render_form(
        &visit,
        &format!("Restore {name}"),
        Section::Workspaces,
        None,
        &body,
    )
}

/// Says which metadata the new version gets, by the rules of the vault.
fn terms(version: u64) -> Markup {
    html! {
        ul {
            li { "Labels: those of version " (version) "." }
            li { "Origins: those that version " (version) " and every later version permit." }
            li { "Expiry: the earliest one of version " (version) " and of every later version." }
        }
    }
}

/// Returns the metadata that a restored version has got, for the notice.
fn terms_of(secret: &Secret) -> String {
    let expiry = match &secret.expires_at {
        Some(time) => format!("expires on {}", day_of(time.seconds)),
        None => "does not expire".to_owned(),
    };
    let origins = match secret.upstream_origins.as_slice() {
        [] => "may be sent to any origin".to_owned(),
        origins => format!("is sent only to {}", quoted(origins)),
    };
    let mut labels: Vec<_> = secret
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    labels.sort();
    match labels.as_slice() {
        [] => format!("It {expiry}, {origins}, and has no labels."),
        labels => format!("It {expiry}, {origins}, and has the labels {}.", quoted(labels)),
    }
}

fn quoted(texts: &[String]) -> String {
    let quoted: Vec<_> = texts.iter().map(|text| format!("`{text}`")).collect();
    quoted.join(", ")
}

/// Names the version that the restore deletes. Only an administrator sees how many versions the workspace keeps.
fn loss(access: &WorkspaceAccess, versions: &[SecretVersion]) -> Markup {
    let oldest = versions.iter().map(|kept| kept.version).min().unwrap_or_default();
    match access {
        WorkspaceAccess::Admin(Workspace { kept_versions, .. }) => {
            let kept = usize::try_from(*kept_versions).unwrap_or(usize::MAX);
            html! {
                @if versions.len() >= kept {
                    div.notice.warn {
                        p {
                            "The workspace keeps " (count(kept, "version")) " of each secret, so the oldest one, version " (oldest)
                            ", is deleted by this."
                        }
                    }
                }
            }
        }
        WorkspaceAccess::Editor | WorkspaceAccess::Viewer => html! {
            p.quiet {
                "If the workspace keeps no more than " (count(versions.len(), "version")) " of each secret, the oldest one, version "
                (oldest) ", is deleted by this."
            }
        },
    }
}

pub(in crate::console) async fn restore(
    OfSecret { workspace, name }: OfSecret,
    Change { visit, fields }: Change,
) -> Response {
    let version = fields.number("version");
    let request = RestoreSecretVersionRequest {
        workspace: workspace.as_str().to_owned(),
        name: name.as_str().to_owned(),
        version,
        expiry: None,
        // A version is restored only in the state that the page showed.
        expected_version: Some(fields.number("present")),
        // The request has no id, because the console never sends it again.
        request_id: String::new(),
        allow_wider_origins: false,
        allow_later_expiry: false,
    };
    match visit.app.services.restore_version(request).await {
        Ok(RestoreSecretVersionResponse { secret, warnings }) => {
            let secret = secret.unwrap_or_default();
            visit.session.notify(Notice::done(format!(
                "The value of version {version} is the present one again, as version {}. {}",
                secret.version,
                terms_of(&secret)
            )));
            for warning in warnings {
                visit.session.notify(Notice::warning(warning.message));
            }
            see_other(&format!("/w/{workspace}/secrets/{name}"))
        }
        Err(failure) => {
            let error = restore_error(failure, &workspace, &name, version);
            page(&visit, &workspace, &name, Some(error)).await
        }
    }
}

/// Names the command line for a restore that only an administrator can make, and that the console does not offer.
fn restore_error(failure: Failure, workspace: &WorkspaceName, name: &SecretName, version: u64) -> FormError {
    let command = format!("aerostack workspace secret restore {workspace} {name} --version {version}");
    match failure.reason {
        Some(Reason::RestoreWidensOrigins) => FormError::from(failure).hint(format!(
            "replace the value, or have an administrator run `{command} --allow-wider-origins`"
        )),
        Some(Reason::RestoreExtendsExpiry) => FormError::from(failure).hint(format!(
            "replace the value, or have an administrator run `{command} --allow-later-expiry`; `--expires-in`, \
             `--expires-at` or `--never-expires` gives another expiry than that of the old version"
        )),
        _ => FormError::from(failure),
    }
}
