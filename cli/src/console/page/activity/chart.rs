//! Charts of the window: a bar for each interval, in layers one above the other.
//!
//! The drawing is as wide as its place, and 1 unit is 1 second. The Content-Security-Policy forbids `style`; all places are
//! attributes of SVG.

use std::time::Duration;

use maud::{Markup, html};

use crate::console::activity::{INTERVAL, Interval, WINDOW};

/// Height of the drawing in its own units.
const HEIGHT: f64 = 100.0;
/// Smallest height of a bar that is not zero.
const MIN_HEIGHT: f64 = 3.0;
/// Distance between two bars.
const GAP: f64 = 4.0;

/// A chart in the making.
pub(super) struct Chart<'c> {
    /// Class of each layer, from below.
    pub(super) layers: &'c [&'static str],
    /// The time at the right edge.
    pub(super) now: Duration,
    /// The time from the left edge to the right one.
    span: Duration,
    bars: Vec<Bar>,
}

struct Bar {
    x: f64,
    width: f64,
    /// One for each layer.
    values: Vec<f64>,
    /// The figures as text.
    text: String,
}

impl<'c> Chart<'c> {
    /// `covered` is the time for which there are figures.
    pub(super) fn new(layers: &'c [&'static str], now: Duration, covered: Duration) -> Self {
        Self {
            layers,
            now,
            span: span_of(covered),
            bars: Vec::new(),
        }
    }

    /// Adds an interval with the height of each layer.
    pub(super) fn add(&mut self, interval: &Interval, values: Vec<f64>, text: String) {
        let right = self.span.as_secs_f64() - self.now.saturating_sub(interval.to).as_secs_f64();
        let left = self.span.as_secs_f64() - self.now.saturating_sub(interval.from).as_secs_f64();
        let (left, right) = (left.max(0.0), right.max(0.0));
        self.bars.push(Bar {
            x: left,
            width: (right - left - GAP).max(GAP),
            values,
            text,
        });
    }

    /// Returns the largest sum of a bar's layers.
    pub(super) fn max(&self) -> f64 {
        self.bars
            .iter()
            .map(|bar| bar.values.iter().sum())
            .fold(0.0, f64::max)
    }

    /// Returns the drawing with a title and a description for screen readers. `top` is the value of the upper edge.
    pub(super) fn drawing(&self, id: &str, title: &str, description: &str, top: f64) -> Markup {
        let width = self.span.as_secs();
        html! {
            svg.chart viewBox={ "0 0 " (width) " 100" } preserveAspectRatio="none" role="img"
                aria-labelledby={ (id) "-title" } aria-describedby={ (id) "-text" } {
                title id={ (id) "-title" } { (title) }
                desc id={ (id) "-text" } { (description) }
                path.grid d={ "M0 0H" (width) "M0 50H" (width) } {}
                (self.layers(top))
                (base_line(self.span))
                @for bar in &self.bars {
                    rect.hover x=(short(bar.x)) y="0" width=(short(bar.width)) height="100" { title { (bar.text) } }
                }
            }
        }
    }

    /// Returns the drawing alone, for a row of a table that has the figures.
    pub(super) fn spark(&self) -> Markup {
        html! {
            svg.spark viewBox={ "0 0 " (self.span.as_secs()) " 100" } preserveAspectRatio="none" aria-hidden="true" {
                (self.layers(self.max()))
                (base_line(self.span))
            }
        }
    }

    /// Draws each layer as one path.
    fn layers(&self, top: f64) -> Markup {
        html! {
            @for (index, class) in self.layers.iter().enumerate() {
                @let path = self.path(index, top);
                @if !path.is_empty() { path class=(class) d=(path) {} }
            }
        }
    }

    fn path(&self, layer: usize, top: f64) -> String {
        let mut path = String::new();
        if top <= 0.0 {
            return path;
        }
        for bar in &self.bars {
            let value = bar.values.get(layer).copied().unwrap_or_default();
            if value > 0.0 {
                let height = drawn(value, top);
                let below: f64 = bar
                    .values
                    .iter()
                    .take(layer)
                    .map(|below| drawn(*below, top))
                    .sum();
                let base = HEIGHT - below;
                let (x, y, width) = (short(bar.x), short((base - height).max(0.0)), short(bar.width));
                path.push_str(&format!("M{x} {y}h{width}v{}h-{width}z", short(height)));
            }
        }
        path
    }
}

/// Returns the line below the bars. It is drawn half a unit above the lower edge, where the drawing would cut half of it off.
fn base_line(span: Duration) -> Markup {
    html! { path.grid.base d={ "M0 99.5H" (span.as_secs()) } {} }
}

/// Returns the time that the charts show, so that the first minutes of a page fill them.
pub(super) fn span_of(covered: Duration) -> Duration {
    let spans = [4, 10].map(Duration::from_mins);
    spans.into_iter().find(|span| covered <= *span).unwrap_or(WINDOW)
}

/// Returns the height of a layer. One with a single call is visible too.
fn drawn(value: f64, top: f64) -> f64 {
    if value > 0.0 {
        (value / top * HEIGHT).max(MIN_HEIGHT)
    } else {
        0.0
    }
}

/// Returns a coordinate with one decimal.
fn short(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Returns the number of calls that a whole interval would have at the rate of this one. An interval that nobody watched is
/// long, and shows its mean; the one under way is short, and shows what it has.
pub(super) fn in_an_interval(number: u64, interval: &Interval) -> f64 {
    number as f64 * INTERVAL.as_secs_f64() / interval.length().max(INTERVAL).as_secs_f64()
}

/// Returns a round number that is not smaller, for the upper edge of a chart.
pub(super) fn rounded_up(max: f64) -> f64 {
    if max <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(max.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps
        .map(|step| step * power)
        .into_iter()
        .find(|round| *round >= max)
        .unwrap_or(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_edge_is_a_round_number() {
        for (max, round) in [
            (0.0, 1.0),
            (1.0, 1.0),
            (3.0, 5.0),
            (11.0, 20.0),
            (0.012, 0.02),
            (999.0, 1_000.0),
        ] {
            assert!(
                (rounded_up(max) - round).abs() < 1e-9,
                "{max} {}",
                rounded_up(max)
            );
        }
    }

    #[test]
    fn the_figures_of_the_first_minutes_fill_the_charts() {
        for (covered, shown) in [(0, 4), (4, 4), (5, 10), (11, 30), (31, 30)] {
            assert_eq!(span_of(Duration::from_mins(covered)), Duration::from_mins(shown));
        }
    }

    #[test]
    fn a_chart_without_calls_is_empty_and_hostile_text_is_escaped() {
        let chart = Chart::new(&["ok"], Duration::ZERO, Duration::ZERO);
        let drawn = chart
            .drawing("c", "<script>", "\"&", rounded_up(chart.max()))
            .into_string();
        assert!(
            drawn.contains("&lt;script&gt;") && !drawn.contains("<script>"),
            "{drawn}"
        );
        assert!(
            !drawn.contains("class=\"ok\"") && !drawn.contains("NaN"),
            "{drawn}"
        );
    }
}
