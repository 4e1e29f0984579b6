//! The keys of the workspaces, as a table.

use maud::{Markup, html};
use proto::vault::v1::{KeyState, WorkspaceKey};

use crate::{
    console::view::{cell, count, moment, now, pager, prose, sentence},
    failure::Failure,
};

/// The content of the page below the root key.
pub(super) struct Hierarchy {
    pub(super) rows: Vec<WorkspaceRow>,
    /// Counts from 1.
    pub(super) page: usize,
    pub(super) pages: usize,
    /// Number of all workspaces.
    pub(super) workspaces: usize,
    /// Number of the secrets of all workspaces.
    pub(super) secrets: u64,
}

pub(super) struct WorkspaceRow {
    pub(super) name: String,
    pub(super) secrets: u64,
    /// `None` for a workspace whose records are too many to count for a page.
    pub(super) keys: Option<Result<Vec<WorkspaceKey>, Failure>>,
    pub(super) may_rotate: bool,
}

pub(super) fn workspaces(hierarchy: &Hierarchy) -> Markup {
    let Hierarchy {
        rows,
        page,
        pages,
        workspaces,
        secrets: _,
    } = hierarchy;
    let shown = format!("Page {page} of {pages}, {}", count(*workspaces, "workspace"));
    html! {
        @if rows.is_empty() {
            p.level-count { "There is no workspace yet, and so no key. " a href="/workspaces/new" { "Make a workspace" } }
        } @else {
            table {
                thead {
                    tr { th { "Workspace" } th { "Key" } th { "State" } th { "Made" } th.number { "Records" } th { span.hidden-text { "Actions" } } }
                }
                tbody { @for row in rows { (workspace(row)) } }
            }
            (pager(*page, *pages, |page| format!("/keys?page={page}"), &shown))
        }
    }
}

/// A workspace has one row for each of its keys.
fn workspace(row: &WorkspaceRow) -> Markup {
    match &row.keys {
        Some(Ok(keys)) => html! {
            @for (index, key) in keys.iter().enumerate() { (key_row(row, key, index == 0)) }
        },
        Some(Err(failure)) => without_keys(row, &prose(&sentence(&failure.message))),
        None => {
            let command = format!("aerostack key show {}", row.name);
            without_keys(
                row,
                &html! { "Not counted here, because it has " (count(number(row.secrets), "secret")) ": run " code { (command) } },
            )
        }
    }
}

fn key_row(row: &WorkspaceRow, key: &WorkspaceKey, is_first: bool) -> Markup {
    html! {
        tr {
            th scope="row" {
                @if is_first { a.name href={ "/w/" (row.name) "/secrets" } { (row.name) } }
                @else { span.quiet { (row.name) } }
            }
            (cell("Key", &html! { code.key-id { (key.id) } }))
            (cell("State", &state(key.state())))
            (cell("Made", &moment(key.create_time.as_ref(), now())))
            td.number data-head="Records" { (key.record_count) }
            td.row-actions { @if is_first { (rotate(row)) } }
        }
    }
}

fn without_keys(row: &WorkspaceRow, why: &Markup) -> Markup {
    html! {
        tr {
            th scope="row" { a.name href={ "/w/" (row.name) "/secrets" } { (row.name) } }
            td colspan="4" { span.quiet { (why) } }
            td.row-actions { (rotate(row)) }
        }
    }
}

fn rotate(row: &WorkspaceRow) -> Markup {
    html! {
        @if row.may_rotate {
            a.button.small href={ "/keys/workspaces/" (row.name) "/rotate" } aria-label={ "Rotate the key of " (row.name) } { "Rotate" }
        }
    }
}

pub(super) fn number(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

pub(super) fn state(state: KeyState) -> Markup {
    match state {
        KeyState::Active => html! { span.badge.good { "active" } },
        KeyState::Retired => html! { span.badge.warn { "retired" } },
        KeyState::Unspecified => html! {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_whose_keys_are_not_known_says_why() {
        let row = WorkspaceRow {
            name: "w".to_owned(),
            secrets: 20_000,
            keys: None,
            may_rotate: true,
        };
        let shown = workspace(&row).into_string();
        assert!(
            shown.contains("aerostack key show w") && shown.contains("20,000 secrets"),
            "{shown}"
        );
        assert!(shown.contains("/keys/workspaces/w/rotate"), "{shown}");
    }
}
