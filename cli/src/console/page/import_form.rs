//! The form that takes many secrets.

use maud::{Markup, html};

use crate::{
    console::{
        fields::Fields,
        view::{
            FormError, Submit, cell, count, error_summary_without_focus, field, hidden, invalid, prose,
            sentence, submit,
        },
    },
    value::import::{FileFault, Format},
};

/// Number of unreadable lines that a page describes.
const MAX_FAULTS: usize = 50;

const FORMATS: [(&str, Format, &str); 3] = [
    ("dotenv", Format::Dotenv, "NAME=VALUE lines"),
    ("kubernetes", Format::Kubernetes, "Kubernetes Secrets"),
    ("json", Format::Json, "JSON object"),
];

/// Everything in the form but the text and the file.
#[derive(Default)]
pub(super) struct ImportFields {
    /// `None` lets the text decide.
    pub(super) format: Option<Format>,
    pub(super) trims: bool,
}

impl ImportFields {
    pub(super) fn of(fields: &Fields) -> Self {
        let given = fields.text("format");
        Self {
            format: FORMATS
                .iter()
                .find(|(name, _, _)| *name == given)
                .map(|(_, format, _)| *format),
            trims: fields.is_set("trim"),
        }
    }
}

/// Returns the form. It never shows the text again. The field with the token is the first one, so that it arrives before the
/// text.
pub(super) fn form(
    workspace: &str,
    entered: &ImportFields,
    csrf: &str,
    error: Option<&FormError>,
    faults: &Markup,
) -> Markup {
    let list = format!("/w/{workspace}/secrets");
    html! {
        (error_summary_without_focus(error, &["text"]))
        (faults)
        form.stack.wide method="post" action={ (list) "/import" } enctype="multipart/form-data" autocomplete="off" data-holds-value {
            (hidden(csrf))
            (text_field(entered, error))
            (file_field())
            (format_field(entered))
            (submit(Submit::Primary, "Preview", &list))
        }
    }
}

fn text_field(entered: &ImportFields, error: Option<&FormError>) -> Markup {
    let help = html! {
        "Lines such as " code { "GITHUB_TOKEN=ghp_…" } ", a manifest of Kubernetes Secrets, or a JSON object. A value of several \
         lines needs quotes around it."
        @if error.is_some() { " Paste the text again: it was not kept." }
    };
    let control = html! {
        textarea #text.mono.value name="text" rows="10" autocomplete="off" autocapitalize="none" autocorrect="off"
            spellcheck="false" data-lpignore="true" data-bwignore aria-describedby="text-help"
            aria-invalid=[invalid("text", error)] autofocus {}
    };
    html! {
        div.value-field {
            (field("text", "Text", &help, error, &control))
            div.checks {
                label { input.reveal type="checkbox"; span { "Show the text" } }
                label {
                    input type="checkbox" name="trim" value="yes" checked[entered.trims];
                    span { "Remove white space at both ends of each value" }
                }
            }
        }
    }
}

fn file_field() -> Markup {
    let help = html! { "Instead of a text: a file of at most 2 MiB, in UTF-8, such as " code { ".env" } "." };
    let control = html! { input #file name="file" type="file" aria-describedby="file-help"; };
    field("file", "File", &help, None, &control)
}

fn format_field(entered: &ImportFields) -> Markup {
    let help = html! { "Only needed for a text that could have several formats." };
    let control = html! {
        select #format name="format" aria-describedby="format-help" {
            option value="" { "as the text shows" }
            @for (name, format, label) in FORMATS {
                option value=(name) selected[entered.format == Some(format)] { (label) }
            }
        }
    };
    field("format", "Format", &help, None, &control)
}

/// Lists the lines that cannot be read, without their text.
pub(super) fn faults(faults: &[FileFault]) -> Markup {
    html! {
        @if !faults.is_empty() {
            table {
                caption.hidden-text { (count(faults.len(), "line")) " that cannot be read" }
                thead { tr { th { "Where" } th { "Problem" } } }
                tbody {
                    @for FileFault { line, message } in faults.iter().take(MAX_FAULTS) {
                        tr { th scope="row" { "Line " (line) } (cell("Problem", &html! { span { (prose(&sentence(message))) } })) }
                    }
                }
            }
            @if faults.len() > MAX_FAULTS { p.quiet { "And " (count(faults.len() - MAX_FAULTS, "more line")) "." } }
        }
    }
}
