//! The rows of the form for a server. Rows are added and removed by buttons that send the form, so that no script is needed.

use maud::{Markup, html};

use super::rows::{MAX_ROWS, PlaceKind, PlaceRow, SecretRow};
use crate::console::view::{FormError, error_at, has_error, icon, invalid};

pub(super) fn secret_rows(rows: &[SecretRow], focus: &str, error: Option<&FormError>) -> Markup {
    html! {
        fieldset.rows {
            legend { "Secrets" }
            div.help #secret-0-help {
                (error_at("secret-0", error))
                "Choose secrets of the workspace, or name some that you add later. The server gets no others."
            }
            @for (index, row) in rows.iter().enumerate() { (secret_row(index, row, rows.len() > 1, focus, error)) }
            @if rows.len() < MAX_ROWS {
                button.button.small type="submit" name="step" value="secret" formnovalidate { (icon("plus")) "Add a secret" }
            } @else { (no_more("secrets")) }
        }
    }
}

fn secret_row(
    index: usize,
    row: &SecretRow,
    may_be_removed: bool,
    focus: &str,
    error: Option<&FormError>,
) -> Markup {
    let id = format!("secret-{index}");
    html! {
        div.row {
            input.mono id=(id) name=(id) type="text" value=(row.name) list="secrets" placeholder="GITHUB_TOKEN"
                aria-label={ "Secret " (index + 1) } autocomplete="off" autocapitalize="none" spellcheck="false"
                aria-describedby="secret-0-help" aria-invalid=[invalid(&id, error)] autofocus[id == focus || has_error(&id, error)];
            (required(&id, row.required))
            @if may_be_removed { (remove("secret", index, &format!("Remove secret {}", index + 1))) }
        }
    }
}

fn required(row: &str, is_required: bool) -> Markup {
    html! {
        label.check {
            input type="checkbox" name={ (row) "-required" } value="yes" checked[is_required];
            span { "required" }
        }
    }
}

fn remove(what: &str, index: usize, label: &str) -> Markup {
    html! {
        button.link type="submit" name="step" value={ "remove-" (what) "-" (index) } formnovalidate aria-label=(label) {
            "Remove"
        }
    }
}

pub(super) fn places(
    rows: &[PlaceRow],
    focus: &str,
    error: Option<&FormError>,
    wrong: Option<usize>,
) -> Markup {
    html! {
        fieldset #places.rows {
            legend { "Places" }
            div.help #places-help {
                (error_at("places", error))
                "A value is text with secrets in it, such as " code { "Token token=${SENTRY_TOKEN}" } ". Without a required "
                "secret a call is refused; without another one it goes out without the whole place. What a program sends in "
                "the same place is removed."
            }
            @for (index, row) in rows.iter().enumerate() {
                @let first_wrong = wrong.unwrap_or(1) == index + 1 && has_error("places", error);
                @let focus = if first_wrong { format!("place-{index}-name") } else { focus.to_owned() };
                (place(index, row, &focus, wrong == Some(index + 1)))
            }
            @if rows.len() < MAX_ROWS { (add_place()) } @else { (no_more("places")) }
        }
    }
}

fn add_place() -> Markup {
    html! {
        div.add-place role="group" aria-label="Add a place" {
            span.quiet { "Add" }
            @for kind in PlaceKind::ALL {
                @let texts = kind.texts();
                button.button.small type="submit" name="step" value={ "place-" (texts.key) } formnovalidate {
                    (icon("plus")) (texts.label)
                }
            }
        }
    }
}

fn no_more(what: &str) -> Markup {
    html! { p.help { "A server has at most " (MAX_ROWS) " " (what) "." } }
}

fn place(index: usize, row: &PlaceRow, focus: &str, is_wrong: bool) -> Markup {
    let texts = row.kind.texts();
    let id = |part: &str| format!("place-{index}-{part}");
    let wrong = is_wrong.then_some("true");
    let input = |part: &str, label: &str, value: &str, example: &str, list: Option<&str>| {
        html! {
            div.part {
                label for=(id(part)) { (label) }
                input.mono id=(id(part)) name=(id(part)) type="text" value=(value) placeholder=(example) list=[list]
                    autocomplete="off" autocapitalize="none" spellcheck="false" aria-invalid=[wrong]
                    aria-describedby=[wrong.map(|_| "places-help")] autofocus[id(part) == focus];
            }
        }
    };
    let name_list = (row.kind == PlaceKind::Basic).then_some("templates");
    html! {
        div.place role="group" aria-label={ "Place " (index + 1) ": " (texts.label) } {
            div.place-head {
                span { (index + 1) " · " (texts.label) }
                (required(&format!("place-{index}"), row.required))
                (remove("place", index, &format!("Remove place {}", index + 1)))
            }
            input type="hidden" name=(id("kind")) value=(texts.key);
            div.parts {
                (input("name", texts.name, &row.name, texts.name_example, name_list))
                @if row.kind == PlaceKind::Protobuf {
                    (input("key", "Key of the entry", &row.key, "the secret's name", None))
                }
                (input("value", texts.value, &row.value, texts.value_example, Some("templates")))
            }
        }
    }
}
