//! The frame that pages share, and the answers to failures and changes.

use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use maud::{Markup, html};
use proto::Reason;

use crate::{
    console::{
        guard::PageRequest,
        view::{FormError, Frame, Head, Section, error_summary, page},
    },
    failure::{Failure, FailureKind},
};

/// The tabs of a workspace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Secrets,
    Servers,
    Map,
    Activity,
    Settings,
}

impl Tab {
    const ALL: [Self; 5] = [
        Self::Secrets,
        Self::Servers,
        Self::Map,
        Self::Activity,
        Self::Settings,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Secrets => "Secrets",
            Self::Servers => "Servers",
            Self::Map => "Map",
            Self::Activity => "Activity",
            Self::Settings => "Settings",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Secrets => "secrets",
            Self::Servers => "servers",
            Self::Map => "map",
            Self::Activity => "activity",
            Self::Settings => "settings",
        }
    }
}

/// Renders a page.
pub(super) fn render(visit: &PageRequest, title: &str, section: Section, body: &Markup) -> Response {
    let head = Head {
        title,
        section,
        retries: false,
        refreshes: false,
    };
    page(frame(visit), &head, body).into_response()
}

/// Renders a page that changes by itself while `refreshes` is true.
pub(super) fn render_live(
    visit: &PageRequest,
    title: &str,
    section: Section,
    refreshes: bool,
    body: &Markup,
) -> Response {
    let head = Head {
        title,
        section,
        retries: false,
        refreshes,
    };
    page(frame(visit), &head, body).into_response()
}

/// Renders a page with a form. After an error the status is that of the error.
pub(super) fn render_form(
    visit: &PageRequest,
    title: &str,
    section: Section,
    error: Option<&FormError>,
    body: &Markup,
) -> Response {
    let status = error.map_or(StatusCode::OK, |error| error.status);
    (status, render(visit, title, section, body)).into_response()
}

fn frame(visit: &PageRequest) -> Frame<'_> {
    Frame {
        session: &visit.session,
        vault: visit.app.services.vault.address(),
        offers_administration: visit.offers_administration,
    }
}

/// Renders a failure as a page. The page of a service that is down loads itself again.
pub(super) fn failure_page(visit: &PageRequest, section: Section, failure: Failure) -> Response {
    let title = title_of(failure.kind);
    let retries = visit.is_read && failure.kind == FailureKind::Unavailable;
    let list = failure.reason.and_then(|reason| list_of(reason, &visit.path));
    let error = FormError::from(failure);
    let error = match list {
        Some((path, text)) => error.link(path, text),
        None => error,
    };
    let head = Head {
        title,
        section,
        retries,
        refreshes: false,
    };
    let body = html! {
        h1 { (title) }
        (error_summary(Some(&error), &[]))
        @if retries { p.quiet { "This page tries again every few seconds." } }
    };
    (error.status, page(frame(visit), &head, &body)).into_response()
}

/// Returns the path of the list that lacks what the page at `path` is about, and the text of the link to the list.
fn list_of(reason: Reason, path: &str) -> Option<(String, &'static str)> {
    let workspace = path.strip_prefix("/w/").and_then(|rest| rest.split('/').next());
    match (reason, workspace) {
        (Reason::WorkspaceNotFound, _) => Some(("/".to_owned(), "Go to the list of workspaces")),
        (Reason::SecretNotFound, Some(workspace)) => {
            Some((format!("/w/{workspace}/secrets"), "Go to the list of secrets"))
        }
        (Reason::ServerNotFound, Some(workspace)) => {
            Some((format!("/w/{workspace}/servers"), "Go to the list of servers"))
        }
        _ => None,
    }
}

fn title_of(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Unavailable => "A service cannot be reached",
        FailureKind::Configuration => "The connection is not set up",
        FailureKind::NotAllowed => "You may not do this",
        FailureKind::NotFound => "There is nothing here",
        FailureKind::Negative
        | FailureKind::HttpError
        | FailureKind::Usage
        | FailureKind::Refused
        | FailureKind::Internal
        | FailureKind::AlreadyExists
        | FailureKind::File
        | FailureKind::Conflict
        | FailureKind::Interrupted => "This did not work",
    }
}

/// Answers a change that was made: the browser loads `path` by GET, so that a reload does not repeat the change.
pub(super) fn see_other(path: &str) -> Response {
    match HeaderValue::from_str(path) {
        Ok(location) => (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response(),
        // Unreachable: paths are made of names of workspaces and secrets, which are ASCII.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Returns the breadcrumb that leads from the first page to this one.
pub(super) fn breadcrumb(steps: &[(&str, &str)]) -> Markup {
    html! {
        nav.breadcrumb aria-label="Breadcrumb" {
            ol { @for (label, path) in steps { li { a href=(path) { (label) } } } }
        }
    }
}

/// Returns the heading of a workspace with its tabs.
pub(super) fn workspace_head(workspace: &str, active: Tab) -> Markup {
    html! {
        (breadcrumb(&[("Workspaces", "/")]))
        h1.name { (workspace) }
        nav.tabs aria-label="Workspace" {
            ul {
                @for tab in Tab::ALL {
                    li {
                        a href={ "/w/" (workspace) "/" (tab.path()) }
                            aria-current=[(tab == active).then_some("page")] { (tab.label()) }
                    }
                }
            }
        }
    }
}
