//! The charts of the page, each with its title, legend and axes.

use maud::{Markup, html};

use super::{
    chart::{Chart, in_an_interval, rounded_up, span_of},
    figures::{self, ago, duration, number, quantile},
};
use crate::console::activity::{Counts, INTERVAL, View};

/// Layers of the chart of calls, from below.
pub(super) const CALLS: [&str; 3] = ["ok", "error", "refused"];

/// Returns a chart with its title, legend and axes.
fn framed(view: &View<'_>, title: &str, legend: &Markup, top: &str, drawing: &Markup) -> Markup {
    let span = span_of(view.calls.covered());
    html! {
        figure.card.chart-card {
            figcaption { h2 { (title) } ul.chart-legend { (legend) } }
            div.plot { span.axis-top { (top) } (drawing) }
            div.axis aria-hidden="true" { span { (ago(span)) } span { (ago(span / 2)) } span { "now" } }
        }
    }
}

fn key(class: &str, text: &str) -> Markup {
    html! { li { svg class={ "key " (class) } viewBox="0 0 10 10" aria-hidden="true" { rect width="10" height="10" rx="2" {} } (text) } }
}

pub(super) fn layers_of(counts: &Counts, of: impl Fn(u64) -> f64) -> Vec<f64> {
    let Counts {
        calls,
        errors,
        refused,
        ..
    } = counts;
    // A call that was broken off may be counted as an error besides its answer.
    let well = calls.saturating_sub(errors + refused);
    vec![of(well), of(*errors), of(*refused)]
}

pub(super) fn calls_chart(total: &Counts, view: &View<'_>) -> Markup {
    let mut chart = Chart::new(&CALLS, view.now, view.calls.covered());
    for interval in view.calls.intervals() {
        let counts = interval.total();
        let text = format!(
            "{}: {} calls, {} errors, {} refused",
            ago(view.now.saturating_sub(interval.to)),
            number(counts.calls),
            number(counts.errors),
            number(counts.refused)
        );
        chart.add(
            interval,
            layers_of(&counts, |calls| in_an_interval(calls, interval)),
            text,
        );
    }
    let legend = html! { (key("ok", "answered")) (key("error", "errors")) (key("refused", "refused")) };
    let text = format!(
        "{} calls, of which {} had an error and {} were refused.",
        number(total.calls),
        number(total.errors),
        number(total.refused)
    );
    let top = rounded_up(chart.max());
    let shown = per_interval(&chart, top, "calls");
    framed(
        view,
        "Calls",
        &legend,
        &shown,
        &chart.drawing("chart-calls", "Calls over time", &text, top),
    )
}

/// Returns the label of the upper edge of a chart that counts, such as "50 calls in 20 s", and no label for an empty chart.
fn per_interval(chart: &Chart<'_>, top: f64, noun: &str) -> String {
    if chart.max() <= 0.0 {
        return String::new();
    }
    let top = if top < 10.0 {
        top.to_string()
    } else {
        figures::rounded(top)
    };
    format!("{top} {noun} in {} s", INTERVAL.as_secs())
}

pub(super) fn durations_chart(total: &Counts, view: &View<'_>) -> Markup {
    let mut chart = Chart::new(&["p50", "p99"], view.now, view.calls.covered());
    for interval in view.calls.intervals() {
        let seconds = interval.total().seconds;
        if let (Some(p50), Some(p99)) = (seconds.quantile(0.5), seconds.quantile(0.99)) {
            let at = ago(view.now.saturating_sub(interval.to));
            let text = format!("{at}: p50 {}, p99 {}", duration(p50), duration(p99));
            chart.add(interval, vec![p50, p99 - p50], text);
        }
    }
    let legend = html! { (key("p50", "p50")) (key("p99", "p99")) };
    let text = format!(
        "Half of the calls took at most {}, and 99 % at most {}.",
        quantile(total, 0.5),
        quantile(total, 0.99)
    );
    let top = rounded_up(chart.max());
    let shown = if chart.max() > 0.0 {
        duration(top)
    } else {
        String::new()
    };
    framed(
        view,
        "Time to the answer",
        &legend,
        &shown,
        &chart.drawing("chart-time", "Duration of calls over time", &text, top),
    )
}

pub(super) fn misses_chart(total: &Counts, view: &View<'_>) -> Markup {
    let mut chart = Chart::new(&["missed"], view.now, view.calls.covered());
    for interval in view.calls.intervals() {
        let missed = interval.total().missed;
        let text = format!(
            "{}: {} misses",
            ago(view.now.saturating_sub(interval.to)),
            number(missed)
        );
        chart.add(interval, vec![in_an_interval(missed, interval)], text);
    }
    let legend = key("missed", "secrets left out of a call");
    let text = format!(
        "{} secrets were left out of calls, because they do not exist or have expired.",
        number(total.missed)
    );
    let top = rounded_up(chart.max());
    let shown = per_interval(&chart, top, "misses");
    framed(
        view,
        "Misses",
        &legend,
        &shown,
        &chart.drawing("chart-misses", "Misses over time", &text, top),
    )
}
