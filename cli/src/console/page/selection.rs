//! A list of a workspace, such as its secrets, with a filter and pages.

use maud::{Markup, html};

use crate::console::{
    fields::Fields,
    view::{count, icon, pager},
};

/// The texts of a list, and the length of its pages.
pub(super) struct ListKind {
    /// The last part of the list's path.
    pub(super) path: &'static str,
    pub(super) noun: &'static str,
    pub(super) filter_label: &'static str,
    /// The places in which the filter looks, as the sentence about an empty result ends.
    pub(super) filter_places: &'static str,
    pub(super) page_size: usize,
}

/// The entries that one page shows.
pub(super) struct Selection<'a, T> {
    kind: &'static ListKind,
    workspace: &'a str,
    filter: &'a str,
    matching: usize,
    total: usize,
    /// Counts from 1.
    page: usize,
    pages: usize,
    pub(super) shown: Vec<&'a T>,
}

impl<'a, T> Selection<'a, T> {
    /// Selects the page that a query asks for, or the last one when there are fewer.
    pub(super) fn of(
        kind: &'static ListKind,
        workspace: &'a str,
        entries: &'a [T],
        query: &'a Fields,
        matches: fn(&T, &str) -> bool,
    ) -> Self {
        let filter = query.text("q");
        let matching: Vec<_> = entries.iter().filter(|entry| matches(entry, filter)).collect();
        let pages = matching.len().div_ceil(kind.page_size).max(1);
        let page = query.number::<usize>("page").clamp(1, pages);
        Self {
            kind,
            workspace,
            filter,
            matching: matching.len(),
            total: entries.len(),
            page,
            pages,
            shown: matching
                .into_iter()
                .skip((page - 1) * kind.page_size)
                .take(kind.page_size)
                .collect(),
        }
    }

    /// Returns the number of all entries in words.
    pub(super) fn total(&self) -> String {
        count(self.total, self.kind.noun)
    }

    /// Returns the path of the list without a filter.
    fn list_path(&self) -> String {
        format!("/w/{}/{}", self.workspace, self.kind.path)
    }

    fn path(&self, page: usize) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if !self.filter.is_empty() {
            query.append_pair("q", self.filter);
        }
        query.append_pair("page", &page.to_string());
        format!("{}?{}", self.list_path(), query.finish())
    }

    pub(super) fn filter_form(&self) -> Markup {
        let label = self.kind.filter_label;
        html! {
            form.filter role="search" method="get" action=(self.list_path()) data-filter="results" {
                label.hidden-text for="q" { (label) }
                (icon("search"))
                input #q name="q" type="search" value=(self.filter) placeholder=(label) autocomplete="off" spellcheck="false";
                noscript { button.button type="submit" { "Filter" } }
            }
        }
    }

    /// Returns the results: `table` has the entries of the page.
    pub(super) fn results(&self, table: &Markup) -> Markup {
        html! {
            // Outside of the results, because the script replaces the results and only changes this text.
            p #results-count.hidden-text role="status" { (count(self.matching, self.kind.noun)) " shown" }
            div #results {
                @if self.shown.is_empty() { (self.no_match()) } @else { (table) (self.pager()) }
            }
        }
    }

    fn no_match(&self) -> Markup {
        html! {
            div.empty {
                h2 { "No " (self.kind.noun) " matches" }
                p { "None of the " (self.total()) " has “" (self.filter) "” in " (self.kind.filter_places) "." }
                a.button href=(self.list_path()) { "Show all" }
            }
        }
    }

    fn pager(&self) -> Markup {
        let first = (self.page - 1) * self.kind.page_size + 1;
        let last = first + self.shown.len() - 1;
        let shown = format!("{first}–{last} of {}", count(self.matching, self.kind.noun));
        pager(self.page, self.pages, |page| self.path(page), &shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: ListKind = ListKind {
        path: "secrets",
        noun: "secret",
        filter_label: "Filter by name",
        filter_places: "its name",
        page_size: 100,
    };

    #[test]
    fn pages_cover_every_entry_once() {
        let entries: Vec<_> = (0..250).map(|number| format!("S{number:03}")).collect();
        let matches: fn(&String, &str) -> bool = |entry, filter| entry.contains(filter);
        let shown = |page: &str| {
            let query = Fields::parse(format!("page={page}").as_bytes());
            Selection::of(&KIND, "w", &entries, &query, matches).shown.len()
        };
        assert_eq!(
            ["0", "1", "2", "3", "99", "x"].map(shown),
            [100, 100, 100, 50, 50, 100]
        );
        let query = Fields::parse(b"q=S&page=2");
        let second = Selection::of(&KIND, "w", &entries, &query, matches);
        assert_eq!(second.path(3), "/w/w/secrets?q=S&page=3");
        assert_eq!(second.shown.first().map(|entry| entry.as_str()), Some("S100"));
        let drawn = second.results(&html! { "table" }).into_string();
        assert!(drawn.contains("101–200 of 250 secrets"), "{drawn}");
        let query = Fields::parse(b"q=x");
        let none = Selection::of(&KIND, "w", &entries, &query, matches);
        let drawn = none.results(&html! { "table" }).into_string();
        assert!(
            drawn.contains("None of the 250 secrets has “x” in its name.") && !drawn.contains("table"),
            "{drawn}"
        );
    }
}
