//! The frame of every page.

use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use maud::{DOCTYPE, Markup, html};

use super::{notice::Notice, parts::icon, text::prose};
use crate::console::sign_in::Session;

/// The parts of the console, as the bar at the top names them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Workspaces,
    Keys,
    Backup,
    Status,
}

impl Section {
    const ALL: [Self; 4] = [Self::Workspaces, Self::Keys, Self::Backup, Self::Status];

    fn label(self) -> &'static str {
        match self {
            Self::Workspaces => "Workspaces",
            Self::Keys => "Keys",
            Self::Backup => "Backup",
            Self::Status => "Status",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Workspaces => "/",
            Self::Keys => "/keys",
            Self::Backup => "/backup",
            Self::Status => "/status",
        }
    }

    /// Returns true for a part that only administrators of all workspaces may use.
    fn needs_administrator(self) -> bool {
        match self {
            Self::Keys | Self::Backup => true,
            Self::Workspaces | Self::Status => false,
        }
    }
}

/// The text around a page's body.
pub(crate) struct Head<'a> {
    pub(crate) title: &'a str,
    pub(crate) section: Section,
    /// True for a page that says that a service is down, and that loads itself again until the service answers.
    pub(crate) retries: bool,
    /// True for a page that changes by itself. A script keeps a part of it current; without scripts the page loads itself again.
    pub(crate) refreshes: bool,
}

/// The session that a page is for.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) session: &'a Session,
    /// The address of the vault, so that nobody takes one installation for another.
    pub(crate) vault: &'a str,
    /// True when the navigation offers the keys and backups.
    pub(crate) offers_administration: bool,
}

/// Returns a page of a session. Shows its notices, which no later page shows again.
pub(crate) fn page(frame: Frame<'_>, head: &Head<'_>, body: &Markup) -> Markup {
    let Head {
        title,
        section,
        retries,
        refreshes,
    } = head;
    let content = html! {
        (notices(&frame.session.take_notices()))
        (body)
    };
    let reload = Reload {
        with_scripts: *retries,
        without_scripts: *retries || *refreshes,
    };
    document(title, reload, &top_bar(*section, frame), &content)
}

fn top_bar(active: Section, frame: Frame<'_>) -> Markup {
    let Frame {
        session,
        vault,
        offers_administration,
    } = frame;
    let is_offered = |section: &Section| offers_administration || !section.needs_administrator();
    html! {
        nav aria-label="Console" {
            ul {
                @for section in Section::ALL.into_iter().filter(is_offered) {
                    li {
                        a href=(section.path()) aria-current=[(section == active).then_some("page")] {
                            (section.label())
                        }
                    }
                }
            }
        }
        p.installation title="The vault that this console administers" { "Vault " (vault) }
        // A certificate signs in again by itself, so its user cannot sign out of the console.
        @if let Some(user) = session.user() {
            p.user title="You, as your certificate names you" { (user) }
        } @else {
            form method="post" action="/sign-out" {
                input type="hidden" name="csrf" value=(session.csrf.reveal());
                button.link type="submit" { "Sign out" }
            }
        }
    }
}

fn notices(notices: &[Notice]) -> Markup {
    html! {
        @for Notice { text, is_warning, link } in notices {
            div.notice.(if *is_warning { "warn" } else { "good" }) role="status" {
                (icon(if *is_warning { "warning" } else { "done" }))
                p { (prose(text)) @if let Some((path, text)) = link { " " a href=(path) { (text) } } }
            }
        }
    }
}

/// Where a person gets a link for signing in. A console that runs has its port, so another one needs another port.
pub(crate) const HOW_TO_GET_A_LINK: &str = "For a new one, press Enter in the terminal where `aerostack console` or `aerostack dev` runs. \
    If it runs in the background, run `aerostack console --listen 127.0.0.1:0`, which prints a link of its own.";

/// Returns a page that needs no session: a title and an explanation.
pub(crate) fn message_page(status: StatusCode, title: &str, text: &str) -> Response {
    let body = html! {
        section.message {
            h1 { (title) }
            p { (prose(text)) }
        }
    };
    (status, document(title, Reload::default(), &html! {}, &body)).into_response()
}

/// The reloads of a page by itself, in a browser with scripts and in one without.
#[derive(Clone, Copy, Default)]
struct Reload {
    with_scripts: bool,
    without_scripts: bool,
}

fn document(title: &str, reload: Reload, bar: &Markup, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " – Aerostack" }
                link rel="icon" href="/assets/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/assets/console.css";
                script type="module" src="/assets/console.js" {}
                @if reload.without_scripts { noscript { meta http-equiv="refresh" content="5"; } }
            }
            body data-retries[reload.with_scripts] {
                a.skip href="#main" { "Skip to the content" }
                header.top {
                    a.brand href="/" { img src="/assets/icon.svg" alt="" width="24" height="24"; "Aerostack" }
                    (bar)
                }
                main #main tabindex="-1" { (content) }
            }
        }
    }
}

/// Returns the page of a browser that has just signed in. It goes on to the first page by itself, and not by a redirect:
/// browsers send a `SameSite=Strict` cookie along with no redirect that began on another site.
pub(crate) fn signed_in_page() -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="color-scheme" content="light dark";
                meta http-equiv="refresh" content="0; url=/";
                title { "Signed in – Aerostack" }
                link rel="icon" href="/assets/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/assets/console.css";
            }
            body {
                main.message { p { "You are signed in. " a href="/" { "Go to the console" } } }
            }
        }
    }
}
