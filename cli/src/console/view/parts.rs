//! Small parts of pages.

use maud::{Markup, PreEscaped, html};

/// Returns a bar that is `used` of `limit` full. Text beside the bar must say the same.
pub(crate) fn bar(used: u64, limit: u64) -> Markup {
    let percent = (used.saturating_mul(100) / limit.max(1)).min(100);
    let state = match percent {
        100 => "bar full",
        80..100 => "bar nearly",
        _ => "bar",
    };
    // A used plan shows at least 2 % of the bar.
    let width = if used > 0 { percent.max(2) } else { 0 };
    // The Content-Security-Policy forbids `style`; the attributes of SVG are no styles.
    html! {
        svg class=(state) viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" {
            rect.track width="100" height="6" {}
            rect.fill width=(width) height="6" {}
        }
    }
}

/// Returns short texts side by side.
pub(crate) fn chips<'t>(texts: impl IntoIterator<Item = &'t str>) -> Markup {
    html! {
        ul.chips { @for text in texts { li { (text) } } }
    }
}

/// Returns short texts side by side, each of which is a link.
pub(crate) fn link_chips(links: impl IntoIterator<Item = (String, String)>) -> Markup {
    html! {
        ul.chips { @for (path, text) in links { li { a href=(path) { (text) } } } }
    }
}

/// Returns the cell of a table. Narrow screens show the head of the column before the content.
pub(crate) fn cell(head: &str, content: &Markup) -> Markup {
    html! { td data-head=(head) { (content) } }
}

/// Returns a list of names and values.
pub(crate) fn facts<'t>(rows: impl IntoIterator<Item = (&'t str, Markup)>) -> Markup {
    html! {
        dl.facts {
            @for (name, value) in rows { div { dt { (name) } dd { (value) } } }
        }
    }
}

/// Returns the text of a list that has no items, with the next step.
pub(crate) fn empty(symbol: &str, title: &str, text: &Markup, action: &Markup) -> Markup {
    html! {
        div.empty {
            (icon(symbol))
            h2 { (title) }
            p { (text) }
            (action)
        }
    }
}

/// Returns the links from a page of a list to the pages beside it. `shown` says what the page shows.
pub(crate) fn pager(page: usize, pages: usize, path: impl Fn(usize) -> String, shown: &str) -> Markup {
    html! {
        @if pages > 1 {
            nav.pager aria-label="Pages" {
                @if page > 1 { a.button.small rel="prev" href=(path(page - 1)) { "Previous" } }
                span.number { (shown) }
                @if page < pages { a.button.small rel="next" href=(path(page + 1)) { "Next" } }
            }
        }
    }
}

/// Returns a drawing of 24 by 24 units in the colour of the text.
pub(crate) fn icon(name: &str) -> Markup {
    let path = match name {
        "workspace" => "M4 7l8-4 8 4-8 4zM4 12l8 4 8-4M4 17l8 4 8-4",
        "secret" => "M15 9a3 3 0 1 0-2.8 3L12 13l-1 1v2H9v2H7v2H4v-3l5.3-5.3A6 6 0 1 1 12 15",
        "server" => "M4 4h16v7H4zM4 14h16v7H4zM8 7.5v.5M8 17.5v.5",
        "lock" => "M6 11h12v9H6zM8 11V7a4 4 0 0 1 8 0v4",
        "store" => "M4 6c0-4 16-4 16 0v12c0 4-16 4-16 0zM4 6c0 4 16 4 16 0M4 12c0 4 16 4 16 0",
        "download" => "M12 4v11M7 10l5 5 5-5M5 20h14",
        "plus" => "M12 5v14M5 12h14",
        "search" => "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM16 16l5 5",
        "warning" => "M12 4l9 16H3zM12 10v4M12 17v.5",
        "map" => "M4 6h4M4 18h4M16 12h4M8 6c5 0 3 6 8 6M8 18c5 0 3-6 8-6",
        "activity" => "M3 12h4l3-8 4 16 3-8h4",
        "missing" => {
            "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM9.5 9.5a2.5 2.5 0 1 1 3.5 2.3c-.7.3-1 .8-1 1.7M12 17v.2"
        }
        "expired" => "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 7v5l3 3",
        "unbound" => "M6 11h12v9H6zM8 11V7a4 4 0 0 1 7.5-2",
        "refused" => "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM6 6l12 12",
        "done" => "M5 12l5 5 9-10",
        _ => "",
    };
    html! {
        svg.icon viewBox="0 0 24 24" aria-hidden="true" { (PreEscaped(format!("<path d=\"{path}\"/>"))) }
    }
}
