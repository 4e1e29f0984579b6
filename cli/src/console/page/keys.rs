//! `/keys`: the hierarchy of the keys, and the rotations that are under way.

use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use maud::{Markup, html};
use proto::vault::v1::{GetKeyStatusResponse, Workspace};

use super::{
    frame::{failure_page, render, render_live},
    key_levels::{levels, levels_without_keys},
    key_progress::{finished, progress, watched},
    key_workspaces::{Hierarchy, WorkspaceRow},
};
use crate::{
    console::{
        guard::{PageRequest, QueryFields},
        services::Services,
        view::{FormError, Section, error_summary, icon},
    },
    failure::Failure,
};

/// Number of workspaces on one page. The vault reads all records of a workspace to count those under each key.
const PAGE_SIZE: usize = 20;
/// Number of secrets from which on the records of a workspace are not counted for the page.
const MANY_SECRETS: u64 = 10_000;

pub(in crate::console) async fn show(QueryFields(query): QueryFields, visit: PageRequest) -> Response {
    let services = &visit.app.services;
    let status = match services.key_status().await {
        Ok(status) => status,
        Err(failure) if failure.lacks_role() => return not_allowed(&visit, failure),
        Err(failure) => return failure_page(&visit, Section::Keys, failure),
    };
    let workspaces = match services.workspaces().await {
        Ok(workspaces) => workspaces,
        Err(failure) => return failure_page(&visit, Section::Keys, failure),
    };
    let watched = watched(&status, query.text("rotated"));
    let finished = finished(&visit, &status, &watched).await;
    let is_rotating = !status.rotations.is_empty();
    let hierarchy = hierarchy(services, &status, &workspaces, query.number("page")).await;
    let body = html! {
        (head())
        @if status.sealed { (locked()) }
        section.rotations aria-labelledby="rotations-title" {
            h2 #rotations-title { "Rotations under way" }
            div #rotations data-live={ "/keys/live?watch=" (watched.join(",")) } data-interval="1000" { (progress(&status, &watched, &finished)) }
        }
        (levels(&status, &hierarchy))
    };
    render_live(&visit, "Keys", Section::Keys, is_rotating, &body)
}

async fn hierarchy(
    services: &Services,
    status: &GetKeyStatusResponse,
    workspaces: &[Workspace],
    page: usize,
) -> Hierarchy {
    let pages = workspaces.len().div_ceil(PAGE_SIZE).max(1);
    let page = page.clamp(1, pages);
    let shown = workspaces.iter().skip((page - 1) * PAGE_SIZE).take(PAGE_SIZE);
    let counted: Vec<String> = shown
        .clone()
        .filter(|workspace| workspace.secret_count < MANY_SECRETS)
        .map(|workspace| workspace.name.clone())
        .collect();
    let mut keys = services.keys_of(counted).await;
    let is_rotating = |name: &str| status.rotations.iter().any(|rotation| rotation.workspace == name);
    let rows = shown.map(|workspace| WorkspaceRow {
        name: workspace.name.clone(),
        secrets: workspace.secret_count,
        keys: keys.remove(&workspace.name),
        may_rotate: !status.sealed && !is_rotating(&workspace.name),
    });
    Hierarchy {
        rows: rows.collect(),
        page,
        pages,
        workspaces: workspaces.len(),
        secrets: workspaces.iter().map(|workspace| workspace.secret_count).sum(),
    }
}

fn head() -> Markup {
    html! {
        div.heading {
            div {
                h1 { "Keys" }
                p.quiet { "Each key encrypts the keys below it, down to a key for every version of a secret. No page shows a key." }
            }
        }
    }
}

/// Explains the hierarchy to a person who may not see the keys.
fn not_allowed(visit: &PageRequest, failure: Failure) -> Response {
    let error = FormError::from(failure).hint(
        "only administrators of all workspaces see the keys and rotate them; the operator of the vault names them with its \
         setting --admin",
    );
    let body = html! {
        (head())
        (error_summary(Some(&error), &[]))
        (levels_without_keys())
    };
    (StatusCode::FORBIDDEN, render(visit, "Keys", Section::Keys, &body)).into_response()
}

/// Says what a locked vault refuses, and what to do.
pub(super) fn locked() -> Markup {
    html! {
        div.notice.bad role="alert" {
            p { (icon("warning")) " The vault is locked: the provider of its root key does not answer." }
            p {
                "Names and metadata can be read. Everything that needs a key is refused: calls that need secrets, new values, \
                 rotations and backups. Look at the KMS plugin behind the vault's setting " code { "--root-kms-socket" }
                " and at the vault's log. The vault asks the plugin again by itself, at least every 30 seconds."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_vault_says_what_to_look_at() {
        let text = locked().into_string();
        assert!(
            text.contains("--root-kms-socket") && text.contains("by itself"),
            "{text}"
        );
    }
}
