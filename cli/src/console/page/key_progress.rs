//! The rotations that are under way, and those that have ended while the page was open.

use std::collections::BTreeMap;

use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};
use proto::vault::v1::{GetKeyStatusResponse, KeyRotation, KeyState, WorkspaceKey};

use super::frame::failure_page;
use crate::console::{
    guard::{PageRequest, QueryFields},
    view::{Section, grouped, moment, now},
};

/// Number of rotations whose end a page waits for.
const MAX_WATCHED: usize = 50;

/// The name of the store key among the watched rotations, which no workspace can have.
const STORE_KEY: &str = "*";

/// Answers with the rotations alone.
pub(in crate::console) async fn live(QueryFields(query): QueryFields, visit: PageRequest) -> Response {
    let watched: Vec<String> = query
        .text("watch")
        .split(',')
        .filter(|name| is_name(name))
        .take(MAX_WATCHED)
        .map(str::to_owned)
        .collect();
    match visit.app.services.key_status().await {
        Ok(status) => {
            let finished = finished(&visit, &status, &watched).await;
            progress(&status, &watched, &finished).into_response()
        }
        Err(failure) => failure_page(&visit, Section::Keys, failure),
    }
}

/// Returns the rotations whose end the page waits for: those that are under way, and one that the person has begun, which may
/// have ended already.
pub(super) fn watched(status: &GetKeyStatusResponse, begun: &str) -> Vec<String> {
    let mut watched: Vec<String> = status.rotations.iter().map(name_of).collect();
    if is_name(begun) && !watched.iter().any(|name| name == begun) {
        watched.insert(0, begun.to_owned());
    }
    watched.truncate(MAX_WATCHED);
    watched
}

/// Returns those of the `watched` workspaces whose rotation by this session has ended well: the key that the session made is the
/// only one. The rotation of another person, or one that somebody followed with a further one, is not among them.
pub(super) async fn finished(
    visit: &PageRequest,
    status: &GetKeyStatusResponse,
    watched: &[String],
) -> Vec<String> {
    let rotated = watched
        .iter()
        .filter(|name| !is_running(status, name))
        .filter_map(|name| Some((name.clone(), visit.session.memory.rotated_to(name)?)));
    let rotated: BTreeMap<_, _> = rotated.collect();
    let keys = visit
        .app
        .services
        .keys_of(rotated.keys().cloned().collect())
        .await;
    let is_finished = |(workspace, key): &(String, String)| match keys.get(workspace) {
        Some(Ok(keys)) => is_only_key(keys, key),
        Some(Err(_)) | None => false,
    };
    rotated
        .into_iter()
        .filter(is_finished)
        .map(|(workspace, _)| workspace)
        .collect()
}

fn is_only_key(keys: &[WorkspaceKey], id: &str) -> bool {
    matches!(keys, [key] if key.id == id && key.state() == KeyState::Active)
}

fn is_running(status: &GetKeyStatusResponse, name: &str) -> bool {
    status.rotations.iter().any(|rotation| name_of(rotation) == name)
}

fn is_name(name: &str) -> bool {
    name == STORE_KEY || proto::WorkspaceName::parse(name).is_ok()
}

fn name_of(rotation: &KeyRotation) -> String {
    match rotation.workspace.as_str() {
        "" => STORE_KEY.to_owned(),
        workspace => workspace.to_owned(),
    }
}

fn title(name: &str) -> Markup {
    match name {
        STORE_KEY => html! { "The store key" },
        workspace => html! { "The key of " span.mono { (workspace) } },
    }
}

/// Draws the rotations that are under way, and those of `watched` that are not. The rotations of `finished` have ended well.
pub(super) fn progress(status: &GetKeyStatusResponse, watched: &[String], finished: &[String]) -> Markup {
    let ended: Vec<_> = watched.iter().filter(|name| !is_running(status, name)).collect();
    html! {
        @for rotation in &status.rotations { (running(rotation)) }
        @for name in &ended {
            p.rotation-ended role="status" {
                @if finished.contains(name) {
                    span.dot.good {}
                    (title(name)) " was rotated: nothing needs the old one any more. "
                } @else {
                    span.dot {}
                    (title(name)) ": no rotation is under way. "
                }
                a href="/keys" { "Show the present keys" }
            }
        }
        @if status.rotations.is_empty() && ended.is_empty() {
            p.quiet { "None. The vault serves while it rotates a key." }
        }
    }
}

fn running(rotation: &KeyRotation) -> Markup {
    let KeyRotation {
        workspace: _,
        done_count,
        total_count,
        unreadable_count,
        start_time,
    } = rotation;
    let name = name_of(rotation);
    let noun = if name == STORE_KEY {
        "workspaces"
    } else {
        "records"
    };
    let number = |count: u64| grouped(usize::try_from(count).unwrap_or(usize::MAX));
    html! {
        div.rotation {
            div.rotation-head {
                span { (title(&name)) }
                span.number { (number(*done_count)) " of " (number(*total_count)) " " (noun) }
            }
            progress max=((*total_count).max(1)) value=((*done_count).min(*total_count)) aria-label={ "Rotation of " (name) } {}
            small { "began " (moment(start_time.as_ref(), now())) }
            @if *unreadable_count > 0 {
                p.rotation-stuck {
                    (number(*unreadable_count)) " " (noun)
                    " cannot be moved, because they are damaged or need a key that is not loaded. The vault's log names them. Put \
                     these secrets again or delete them; the old key is kept until then, and the vault tries again every few minutes."
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(rotations: &[(&str, u64, u64, u64)]) -> GetKeyStatusResponse {
        let rotations = rotations
            .iter()
            .map(|(workspace, done, total, unreadable)| KeyRotation {
                workspace: (*workspace).to_owned(),
                done_count: *done,
                total_count: *total,
                unreadable_count: *unreadable,
                start_time: None,
            });
        GetKeyStatusResponse {
            rotations: rotations.collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_rotation_is_shown_until_it_has_ended_and_then_once_more() {
        let during = status(&[("w", 1200, 3000, 0), ("", 1, 2, 0)]);
        let names = watched(&during, "w");
        assert_eq!(names, ["w", "*"]);
        let shown = progress(&during, &names, &[]).into_string();
        assert!(
            shown.contains("1,200 of 3,000 records") && shown.contains("1 of 2 workspaces"),
            "{shown}"
        );
        assert!(shown.contains("<progress max=\"3000\" value=\"1200\""), "{shown}");
        assert!(!shown.contains("was rotated"), "{shown}");

        // The page claims an end only for the rotation that is known to have ended well.
        let after = progress(&status(&[]), &names, &["w".to_owned()]).into_string();
        assert_eq!(after.matches("was rotated").count(), 1, "{after}");
        assert!(
            after.contains("The store key: no rotation is under way"),
            "{after}"
        );
        assert!(progress(&status(&[]), &[], &[]).into_string().contains("None."));
    }

    #[test]
    fn a_rotation_that_cannot_end_says_what_to_do() {
        let stuck = progress(&status(&[("w", 9, 10, 1)]), &[], &[]).into_string();
        assert!(
            stuck.contains("Put these secrets again or delete them"),
            "{stuck}"
        );
    }

    #[test]
    fn a_rotation_has_ended_when_its_key_is_the_only_one() {
        let key = |id: &str, state: KeyState| WorkspaceKey {
            id: id.to_owned(),
            state: state.into(),
            ..Default::default()
        };
        let (active, retired) = (KeyState::Active, KeyState::Retired);
        assert!(is_only_key(&[key("new", active)], "new"));
        assert!(!is_only_key(&[key("other", active)], "new"));
        assert!(!is_only_key(&[key("new", active), key("old", retired)], "new"));
        assert!(!is_only_key(&[], "new"));
    }

    #[test]
    fn only_names_are_watched() {
        assert!(watched(&status(&[]), "<b>").is_empty());
        assert_eq!(watched(&status(&[]), "w"), ["w"]);
    }
}
