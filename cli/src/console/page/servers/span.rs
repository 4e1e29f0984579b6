//! Parts of the lines of a drawn request.

use maud::{Markup, html};

use super::mark::Mark;

/// A part of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Span {
    Text(String),
    /// A part that the program supplies.
    Quiet(String),
    Secret(String, Mark),
    /// A part that is left out of the call, because an optional secret does not exist.
    LeftOut(Vec<Span>),
}

impl Span {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn quiet(text: impl Into<String>) -> Self {
        Self::Quiet(text.into())
    }
}

/// Returns the markup of a line.
pub(super) fn spans(line: &[Span]) -> Markup {
    html! {
        @for span in line {
            @match span {
                Span::Text(text) => (text),
                Span::Quiet(text) => span.quiet { (text) },
                Span::Secret(name, mark) => (blank(name, *mark)),
                Span::LeftOut(left_out) => s { (spans(left_out)) },
            }
        }
    }
}

/// Returns the blank for the value of a secret.
pub(super) fn blank(name: &str, mark: Mark) -> Markup {
    html! {
        span.blank.(mark.class()) {
            span aria-hidden="true" { "•••\u{a0}" }
            (name)
            @if !mark.words().is_empty() { span.mark { " " (mark.words()) } }
        }
    }
}

/// Returns the parts with a text between every two of them.
pub(super) fn joined(parts: Vec<Vec<Span>>, between: &str) -> Vec<Span> {
    let mut joined = Vec::new();
    for part in parts {
        if !joined.is_empty() {
            joined.push(Span::text(between));
        }
        joined.extend(part);
    }
    joined
}
