//! The changing part of the page.

use maud::{Markup, html};

use super::{
    chart::{Chart, in_an_interval},
    charts::{CALLS, calls_chart, durations_chart, layers_of, misses_chart},
    figures::{ago, number, quantile, span},
    remedy::remedy,
};
use crate::console::{
    activity::{Counts, MAX_SERVERS, MetricsSource, SourceState, View},
    view::{cell, empty, facts, icon, prose, sentence},
};

/// Returns the figures and the charts. The same parts stand in the same places for every sample, so that the script can take over
/// what changed.
pub(super) fn figures(workspace: &str, view: &View<'_>) -> Markup {
    let total = view.calls.total();
    html! {
        div.sources {
            (source("injector", "--injector-metrics", view.injector))
            (source("vault", "--vault-metrics", view.vault))
            (several_processes("injector", view.unknown.has_several_processes(view.now)))
            (several_processes("vault", view.decrypts.has_several_processes(view.now)))
        }
        @if view.calls.since_start().next().is_none() {
            (no_calls(workspace, view))
        } @else {
            (tiles(&total, view))
            div.charts { (calls_chart(&total, view)) (durations_chart(&total, view)) (misses_chart(&total, view)) }
            (servers(workspace, view))
        }
        div.cards { (refusals(&total, view)) (vault(view)) }
        @if view.calls.intervals().next().is_some() { (interval_table(view)) }
    }
}

/// Says that the metrics of a service cannot be read.
fn source(name: &str, flag: &str, source: &MetricsSource) -> Markup {
    html! {
        @match (&source.state, &source.url) {
            (SourceState::Failed(why), Some(url)) => div.notice.warn {
                (icon("warning"))
                p {
                    "The metrics of the " (name) " cannot be read from " code { (url) } ": " (why) ". This page goes on by itself when they are back."
                }
            },
            (SourceState::Failed(_) | SourceState::NotAsked | SourceState::Answered, None) => div.notice.warn {
                (icon("warning"))
                p {
                    "The address of the " (name) "'s metrics is not known. Start " code { "aerostack console" } " with "
                    code { (flag) } " and the URL of its " code { "--metrics-listen" } "."
                }
            },
            (SourceState::NotAsked | SourceState::Answered, Some(_)) => {},
        }
    }
}

/// Says that the figures of a service have gaps.
fn several_processes(name: &str, is_so: bool) -> Markup {
    html! {
        @if is_so {
            div.notice.warn {
                (icon("warning"))
                p {
                    "Several processes of the " (name) " answer under one address, so most of their calls are not counted. Give the "
                    "address of one of them."
                }
            }
        }
    }
}

fn no_calls(workspace: &str, view: &View<'_>) -> Markup {
    if view.injector.state != SourceState::Answered {
        return html! {};
    }
    if !view.calls.has_sample() {
        return html! {
            p.quiet role="status" {
                "The calls of this workspace are not counted yet: that begins when this page is live, and while the activity of few "
                "other workspaces is open."
            }
        };
    }
    let text = html! {
        "No program has called a server of this workspace since the injector started. Calls appear here within two seconds."
    };
    let action = html! { a.button href={ "/w/" (workspace) "/servers" } { "Go to the servers" } };
    empty("activity", "No calls yet", &text, &action)
}

fn tiles(total: &Counts, view: &View<'_>) -> Markup {
    let Counts {
        calls,
        errors,
        refused,
        missed,
        refusals: _,
        seconds: _,
    } = total;
    html! {
        dl.tiles {
            (tile("Calls", &number(*calls), &span(view.calls.covered()), ""))
            (tile("Errors", &number(*errors), "answers 5xx, broken-off calls", mark(*errors, "bad")))
            (tile("Refused", &number(*refused), "by the injector", mark(*refused, "warn")))
            (tile("Misses", &number(*missed), "secrets left out of calls", mark(*missed, "warn")))
            (tile("Time, p50", &quantile(total, 0.5), "half of the calls", ""))
            (tile("Time, p99", &quantile(total, 0.99), "99 % of the calls", ""))
        }
    }
}

fn tile(name: &str, value: &str, text: &str, class: &str) -> Markup {
    html! { div { dt { (name) } dd class={ "amount " (class) } { (value) } dd.quiet { (text) } } }
}

fn servers(workspace: &str, view: &View<'_>) -> Markup {
    let since_start: Vec<_> = view.calls.since_start().collect();
    html! {
        section {
            h2 { "By server" }
            @if since_start.len() >= MAX_SERVERS {
                p.quiet { "Only the first " (MAX_SERVERS) " servers are counted." }
            }
            table.activity-table {
                thead {
                    tr {
                        th { "Server" } th { "Last 30 minutes" } th.number { "Calls" } th.number { "Errors" } th.number { "Refused" }
                        th.number { "Misses" } th.number { "p50" } th.number { "p99" } th.number { "Since start" }
                    }
                }
                tbody { @for (server, calls) in since_start { (server_row(workspace, server, calls, view)) } }
            }
        }
    }
}

fn server_row(workspace: &str, server: &str, since_start: u64, view: &View<'_>) -> Markup {
    let counts = view.calls.of(server);
    let mut chart = Chart::new(&CALLS, view.now, view.calls.covered());
    for interval in view.calls.intervals() {
        if let Some(counts) = interval.of(server) {
            chart.add(
                interval,
                layers_of(counts, |calls| in_an_interval(calls, interval)),
                String::new(),
            );
        }
    }
    html! {
        tr {
            th scope="row" { a href={ "/w/" (workspace) "/servers/" (server) } { (server) } }
            (cell("Last 30 minutes", &chart.spark()))
            (figure("Calls", &number(counts.calls), ""))
            (figure("Errors", &number(counts.errors), mark(counts.errors, "bad")))
            (figure("Refused", &number(counts.refused), mark(counts.refused, "warn")))
            (figure("Misses", &number(counts.missed), mark(counts.missed, "warn")))
            (figure("p50", &quantile(&counts, 0.5), ""))
            (figure("p99", &quantile(&counts, 0.99), ""))
            (figure("Since start", &number(since_start), ""))
        }
    }
}

fn mark(number: u64, class: &'static str) -> &'static str {
    if number > 0 { class } else { "" }
}

fn figure(head: &str, text: &str, class: &str) -> Markup {
    html! { td.number data-head=(head) { span class={ "figure " (class) } { (text) } } }
}

fn refusals(total: &Counts, view: &View<'_>) -> Markup {
    let mut by_number: Vec<_> = total.refusals.iter().collect();
    by_number.sort_by_key(|(_, number)| std::cmp::Reverse(**number));
    let unknown = view.unknown.total().refused;
    html! {
        section.card {
            h2 { "Refusals by reason" }
            @if by_number.is_empty() {
                p.quiet { "No call to this workspace was refused." }
            } @else {
                dl.reasons {
                    @for (reason, count) in by_number {
                        div {
                            dt {
                                span.mono { (reason) }
                                @if let Some(remedy) = remedy(reason) { small { (prose(&sentence(&remedy))) } }
                            }
                            dd.number { (number(*count)) }
                        }
                    }
                }
            }
            @if unknown > 0 {
                p.detail { (number(unknown)) " refused calls named no known server. They count for no workspace." }
            }
        }
    }
}

fn vault(view: &View<'_>) -> Markup {
    let total = view.decrypts.total();
    let refusals = total
        .refusals
        .iter()
        .map(|(reason, count)| format!("{reason}: {}", number(*count)));
    let refusals: Vec<_> = refusals.collect();
    html! {
        section.card {
            h2 { "Vault" span.badge { "all workspaces" } }
            (facts([
                ("Decrypts", html! { (number(total.calls)) }),
                ("Refused", html! { @if refusals.is_empty() { "0" } @else { (refusals.join(", ")) } }),
                ("Secrets missing or expired", html! { (number(total.missed)) }),
                ("p50", html! { (quantile(&total, 0.5)) }),
                ("p99", html! { (quantile(&total, 0.99)) }),
            ]))
            p.detail { "These figures are for all workspaces together: the vault does not count the decrypts of each workspace." }
        }
    }
}

/// Returns the figures of the charts as a table, the newest first.
fn interval_table(view: &View<'_>) -> Markup {
    let intervals: Vec<_> = view.calls.intervals().collect();
    html! {
        details.figures {
            summary { "The charts as a table" }
            table {
                thead {
                    tr {
                        th { "Until" } th.number { "Seconds" } th.number { "Calls" } th.number { "Errors" } th.number { "Refused" }
                        th.number { "Misses" } th.number { "p50" } th.number { "p99" }
                    }
                }
                tbody {
                    @for interval in intervals.into_iter().rev() {
                        @let counts = interval.total();
                        tr {
                            th scope="row" { (ago(view.now.saturating_sub(interval.to))) }
                            (figure("Seconds", &interval.length().as_secs().to_string(), ""))
                            (figure("Calls", &number(counts.calls), ""))
                            (figure("Errors", &number(counts.errors), ""))
                            (figure("Refused", &number(counts.refused), ""))
                            (figure("Misses", &number(counts.missed), ""))
                            (figure("p50", &quantile(&counts, 0.5), ""))
                            (figure("p99", &quantile(&counts, 0.99), ""))
                        }
                    }
                }
            }
        }
    }
}
