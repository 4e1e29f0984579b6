//! The next call to a server: the request, and the secrets with what to do about the misses.

use maud::{Markup, html};
use proto::injector::v1::{ExplainInjectionResponse, ExplainedSecret, Server};

use super::{
    mark::{Mark, Marks},
    picture::picture,
    place::injections_of,
    url::UrlParts,
};
use crate::console::{
    services::Explained,
    view::{icon, prose, sentence},
};

/// Describes the next call. Without `may_change`, what only an editor can do is not offered.
pub(super) fn next_call(server: &Server, explained: &Explained, may_change: bool) -> Markup {
    let marks = match explained {
        Ok(explained) => Marks::of_explanation(&injections_of(server), explained),
        Err(_) => Marks::default(),
    };
    html! {
        (verdict(explained))
        (picture(server, &marks))
        @if let Ok(explained) = explained
            && !explained.secrets.is_empty()
        {
            ul.secrets-of-call { @for secret in &explained.secrets { (secret_of_call(server, secret, may_change)) } }
        }
    }
}

fn verdict(explained: &Explained) -> Markup {
    match explained {
        Err(failure) => html! {
            div.notice.warn {
                (icon("warning"))
                p { "What a call would carry is not known. " (prose(&sentence(&failure.message))) }
            }
        },
        Ok(explained) => {
            let (class, text) = outcome(explained);
            html! { p.summary { span.dot.(class) {} (text) } }
        }
    }
}

fn outcome(explained: &ExplainInjectionResponse) -> (&'static str, String) {
    let ExplainInjectionResponse {
        secrets,
        would_forward,
    } = explained;
    let is_absent = |secret: &&ExplainedSecret| Mark::of(secret.state()).is_absent();
    let mut absent: Vec<_> = secrets
        .iter()
        .filter(is_absent)
        .map(|secret| secret.name.as_str())
        .collect();
    absent.dedup();
    match (would_forward, absent.as_slice()) {
        (false, _) => (
            "bad",
            "A call would be refused, and the server would see nothing of it.".to_owned(),
        ),
        (true, []) if secrets.is_empty() => ("good", "A call goes out without a secret.".to_owned()),
        (true, []) => ("good", "A call carries everything that it needs.".to_owned()),
        (true, names) => (
            "warn",
            format!("A call goes out without {}.", names.join(" and ")),
        ),
    }
}

fn secret_of_call(server: &Server, secret: &ExplainedSecret, may_change: bool) -> Markup {
    let ExplainedSecret {
        name,
        placement,
        required,
        state,
        version,
        detail,
        note,
    } = secret;
    let mark = proto::injector::v1::explained_secret::State::try_from(*state).map_or(Mark::Unknown, Mark::of);
    let secret_path = format!("/w/{}/secrets/{name}", server.workspace);
    html! {
        li.(mark.class()) {
            div {
                @if *version > 0 { a.mono href=(secret_path) { (name) } } @else { span.mono { (name) } }
                " "
                @if mark == Mark::Sent { span.badge.good { "version " (version) } }
                @else { span.badge.bad { (mark.words()) } }
                @if !required { " " span.badge { "optional" } }
                small { (placement) }
                @if !detail.is_empty() { p { (prose(&sentence(detail))) } }
                @if !note.is_empty() { p.quiet { (prose(&sentence(note))) } }
            }
            (remedy(server, name, mark, may_change))
        }
    }
}

/// Returns the link to what brings a secret into the call.
fn remedy(server: &Server, name: &str, mark: Mark, may_change: bool) -> Markup {
    let secret = format!("/w/{}/secrets/{name}/replace", server.workspace);
    let link = match mark {
        Mark::Missing | Mark::NotStored => Some((add_path(server, name), format!("Add {name}"))),
        Mark::Expired | Mark::Unfit | Mark::Unreadable => Some((secret, "Replace its value".to_owned())),
        Mark::OtherOrigin => Some((secret, "Change where it may be sent".to_owned())),
        Mark::NotVerified if may_change => {
            let edit = format!("/w/{}/servers/{}/edit", server.workspace, server.name);
            Some((edit, "Edit the server".to_owned()))
        }
        Mark::NotVerified | Mark::Sent | Mark::Unknown => None,
    };
    html! { @if let Some((path, text)) = link { a.button.small href=(path) { (text) } } }
}

/// Returns the path of the form for a new secret, filled with its name and the server's origin.
pub(super) fn add_path(server: &Server, name: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("name", name);
    query.append_pair("origins", &UrlParts::of(&server.url).origin());
    format!("/w/{}/secrets/new?{}", server.workspace, query.finish())
}
