//! `/w/{workspace}/add-server`: the choice between the catalog and a URL.

use axum::response::Response;
use maud::{Markup, html};
use proto::injector::v1::CatalogEntry;

use super::{
    super::{
        frame::{failure_page, render},
        paths::InWorkspace,
    },
    access::{may_change, not_allowed},
    breadcrumb::server_breadcrumb,
    place::place_name,
    url::UrlParts,
};
use crate::{
    console::{
        guard::{PageRequest, QueryFields},
        view::{Section, chips, count, icon, prose, sentence},
    },
    failure::{Failure, FailureKind},
};

pub(in crate::console) async fn choose(
    InWorkspace(workspace): InWorkspace,
    QueryFields(query): QueryFields,
    visit: PageRequest,
) -> Response {
    let (may_change, entries) = tokio::join!(may_change(&visit, &workspace), visit.app.services.catalog());
    if !may_change {
        return not_allowed(&visit);
    }
    let entries = entries.map(|entries| in_order(entries, query.text("secret")));
    if let Err(failure) = entries {
        if failure.kind == FailureKind::Unavailable {
            return failure_page(&visit, Section::Workspaces, failure);
        }
        return choice(
            &visit,
            workspace.as_str(),
            query.text("secret"),
            "",
            &Err(failure),
        );
    }
    choice(
        &visit,
        workspace.as_str(),
        query.text("secret"),
        query.text("q"),
        &entries,
    )
}

/// Moves entries that use the secret before the others, and entries whose URL is only an example behind those of real servers.
fn in_order(mut entries: Vec<CatalogEntry>, secret: &str) -> Vec<CatalogEntry> {
    entries.sort_by_key(|entry| {
        let uses_secret = entry
            .suggested_secrets
            .iter()
            .any(|suggested| suggested == secret);
        let is_example = UrlParts::of(&entry.url).origin().ends_with(".example.com");
        (!uses_secret, is_example)
    });
    entries
}

/// Returns the path of the form for a new server, which the secret `secret` is entered in unless it is empty.
fn form_path(workspace: &str, secret: &str, more: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if !secret.is_empty() {
        query.append_pair("secret", secret);
    }
    query.extend_pairs(more);
    let query = query.finish();
    let path = format!("/w/{workspace}/add-server/form");
    match query.as_str() {
        "" => path,
        query => format!("{path}?{query}"),
    }
}

/// `secret` is the name of the secret that the server is to get, or empty.
fn choice(
    visit: &PageRequest,
    workspace: &str,
    secret: &str,
    filter: &str,
    entries: &Result<Vec<CatalogEntry>, Failure>,
) -> Response {
    let body = html! {
        (server_breadcrumb(workspace, None))
        h1 { "Add server" }
        p.quiet { "A server is an API that programs call through the injector, with the secrets that it gets." }
        @if !secret.is_empty() { p { "Choose the server that gets " span.mono { (secret) } "." } }
        a.choice href=(form_path(workspace, secret, &[])) {
            (icon("plus"))
            span {
                strong { "By its URL" }
                small { "Any HTTP, gRPC or MCP server: say where it is and where its credential goes" }
            }
        }
        @if let Some(upstream) = visit.app.demo_upstream {
            a.choice href=(form_path(workspace, secret, &[("demo", "yes")])) {
                (icon("server"))
                span {
                    strong { "The demo upstream" }
                    small { "On " (upstream) ": answers with what it received, with fingerprints in place of values" }
                }
            }
        }
        h2 { "From the catalog" }
        @match entries {
            Ok(entries) if entries.is_empty() => p.quiet {
                "The injector has no catalog. Its operator gives one with the setting " code { "--catalog" } "."
            },
            Ok(entries) => (catalog(workspace, secret, filter, entries)),
            Err(failure) => p.quiet { "The catalog cannot be read: " (prose(&sentence(&failure.message))) },
        }
    };
    render(
        visit,
        &format!("Add a server to {workspace}"),
        Section::Workspaces,
        &body,
    )
}

fn catalog(workspace: &str, secret: &str, filter: &str, entries: &[CatalogEntry]) -> Markup {
    let shown: Vec<_> = entries.iter().filter(|entry| matches(entry, filter)).collect();
    html! {
        div.toolbar {
            form.filter role="search" method="get" action={ "/w/" (workspace) "/add-server" } data-filter="results" {
                label.hidden-text for="q" { "Search the catalog" }
                (icon("search"))
                input #q name="q" type="search" value=(filter) placeholder="GitHub, Stripe, api.openai.com, …"
                    autocomplete="off" spellcheck="false" autofocus;
                @if !secret.is_empty() { input type="hidden" name="secret" value=(secret); }
                noscript { button.button type="submit" { "Search" } }
            }
            span.quiet { (count(entries.len(), "server")) }
        }
        p #results-count.hidden-text role="status" { (count(shown.len(), "server")) " shown" }
        div #results {
            @if shown.is_empty() {
                div.empty {
                    h2 { "The catalog has no such server" }
                    p { "None of its servers has “" (filter) "” in its name, URL or description. Add it by its URL." }
                    a.button href=(form_path(workspace, secret, &[])) { "Add by URL" }
                }
            } @else {
                ul.entries { @for entry in shown { li { (card(workspace, secret, entry)) } } }
            }
        }
    }
}

fn card(workspace: &str, secret: &str, entry: &CatalogEntry) -> Markup {
    let places: Vec<_> = entry.injections.iter().map(place_name).collect();
    html! {
        a.entry href=(form_path(workspace, secret, &[("entry", &entry.name)])) {
            strong.mono { (entry.name) }
            span { (entry.description) }
            small.mono { (UrlParts::of(&entry.url).short()) }
            div.needs {
                (chips(entry.suggested_secrets.iter().map(String::as_str)))
                @if !places.is_empty() { small { (places.join(", ")) } }
            }
        }
    }
}

fn matches(entry: &CatalogEntry, filter: &str) -> bool {
    let wanted = filter.to_lowercase();
    let texts = [&entry.name, &entry.url, &entry.description];
    let mut texts = texts.into_iter().chain(&entry.suggested_secrets);
    texts.any(|text| text.to_lowercase().contains(&wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_found_by_its_name_url_secret_and_description() {
        let entry = CatalogEntry {
            name: "@github/api".to_owned(),
            url: "https://api.github.com".to_owned(),
            description: "GitHub's REST and GraphQL API".to_owned(),
            suggested_secrets: vec!["GITHUB_TOKEN".to_owned()],
            ..Default::default()
        };
        for filter in ["", "GitHub", "api.github", "graphql", "github_tok"] {
            assert!(matches(&entry, filter), "{filter}");
        }
        assert!(!matches(&entry, "gitlab"));
    }

    #[test]
    fn entries_that_use_the_secret_come_first_and_examples_last() {
        let entry = |name: &str, url: &str, secret: &str| CatalogEntry {
            name: name.to_owned(),
            url: url.to_owned(),
            suggested_secrets: vec![secret.to_owned()],
            ..Default::default()
        };
        let entries = vec![
            entry("example", "https://a.example.com", "A"),
            entry("other", "https://b.example", "B"),
            entry("wanted", "https://c.example", "C"),
        ];
        let names: Vec<_> = in_order(entries, "C")
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        assert_eq!(names, ["wanted", "other", "example"]);
    }
}
