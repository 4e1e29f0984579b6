//! Draws the bar chart of the report's page, as SVG.

use std::fmt::Write as _;

use crate::{
    contenders::{Contender, Payload},
    measure::{Window, grouped},
    run::{Contest, ContestKind, Participant},
    services::Placement,
};

/// The contenders in the chart, each with its colour and its text in the legend.
const SERIES: [(Contender, &str, &str); 3] = [
    (
        Contender::Forwarder,
        "#9aa4af",
        "bare hyper forwarder: injects nothing",
    ),
    (Contender::Envoy, "#d07a2d", "Envoy: one secret, kept in memory"),
    (
        Contender::Ours(Placement::Bearer),
        "#2f7fd0",
        "injector + vault: one secret, decrypted for each call",
    ),
];

const WIDTH: f64 = 860.0;
const BAR: f64 = 15.0;
/// Height of the bars of one pair of protocols and of the gap below them.
const GROUP: f64 = 62.0;
const TOP: f64 = 96.0;
/// Left edge and width of the two panels, first CPU time, then requests per second.
const PANELS: [(f64, f64); 2] = [(150.0, 265.0), (510.0, 265.0)];

/// Draws the CPU time per call and the requests per second for each pair of protocols. Returns `None` when the run did
/// not measure small payloads.
pub(crate) fn draw(contests: &[Contest]) -> Option<String> {
    let pairs: Vec<&Contest> = contests
        .iter()
        .filter(|contest| {
            matches!(
                contest.kind,
                ContestKind::Proxy {
                    payload: Payload::Small,
                    rate: None,
                    ..
                }
            )
        })
        .collect();
    if pairs.is_empty() {
        return None;
    }
    let height = TOP + GROUP * f64::from(u32::try_from(pairs.len()).ok()?);
    let mut svg = head(height);
    let per_second: Measure = |window| Some(window.per_second);
    panel(&mut svg, &pairs, 0, ("CPU time per call, µs", 1), |window| {
        window.cpu_us
    })?;
    panel(&mut svg, &pairs, 1, ("requests per second", 0), per_second)?;
    let mut top = TOP;
    for contest in pairs {
        let ContestKind::Proxy {
            downstream, upstream, ..
        } = contest.kind
        else {
            continue;
        };
        let pair = format!("{} → {}", downstream.name(), upstream.name());
        text(&mut svg, (8.0, top + BAR * 2.0 - 4.0), &pair)?;
        top += GROUP;
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

type Measure = fn(&Window) -> Option<f64>;

fn panel(
    svg: &mut String,
    pairs: &[&Contest],
    number: usize,
    (title, digits): (&str, usize),
    measure: Measure,
) -> Option<()> {
    let &(left, longest) = PANELS.get(number)?;
    let value = |contest: &Contest, contender| {
        let row = contest.row(Participant::Proxy(contender))?;
        Some(row.spread(measure)?.median)
    };
    let values = pairs
        .iter()
        .flat_map(|contest| SERIES.iter().filter_map(|drawn| value(contest, drawn.0)));
    let most = values.fold(0.0, f64::max);
    text(svg, (left, TOP - 12.0), title)?;
    let mut top = TOP;
    for contest in pairs {
        for (index, (contender, colour, _)) in (0_u32..).zip(SERIES) {
            let Some(value) = value(contest, contender) else {
                continue;
            };
            let y = top + BAR * f64::from(index);
            // 60 units leave room for the number to the right of the longest bar.
            let width = (longest - 60.0) * value / most;
            let number = grouped(&format!("{value:.digits$}"));
            rectangle(svg, (left, y), (width, BAR - 3.0), colour)?;
            text(svg, (left + width + 5.0, y + BAR - 5.0), &number)?;
        }
        top += GROUP;
    }
    Some(())
}

fn head(height: f64) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-label=\"CPU time per call and requests per second\">\n\
         <style>text {{ font: 12px system-ui, sans-serif; fill: #1f2328 }} \
         @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} }}</style>\n"
    );
    let mut y = 12.0;
    for (_, colour, name) in SERIES {
        // Writing to a `String` cannot fail.
        let _ = rectangle(&mut svg, (8.0, y), (12.0, 12.0), colour);
        let _ = text(&mut svg, (26.0, y + 10.0), name);
        y += 18.0;
    }
    svg
}

fn rectangle(svg: &mut String, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) -> Option<()> {
    writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
    )
    .ok()
}

fn text(svg: &mut String, (x, y): (f64, f64), what: &str) -> Option<()> {
    writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\">{what}</text>").ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{h2load::Http, run::Row};

    fn contest(payload: Payload) -> Contest {
        let rows = SERIES.map(|(contender, _, _)| Row {
            participant: Participant::Proxy(contender),
            windows: vec![Window {
                per_second: 17_800.0,
                p50_ms: 1.0,
                p99_ms: 2.0,
                cpu_us: Some(70.0),
                vault_us: None,
            }],
        });
        Contest {
            kind: ContestKind::Proxy {
                payload,
                downstream: Http::One,
                upstream: Http::Two,
                rate: None,
            },
            rows: rows.into(),
        }
    }

    #[test]
    fn every_drawn_contender_has_a_bar_in_both_panels() {
        let svg = draw(&[contest(Payload::Small)]).unwrap();
        // Each contender has two bars, and one rectangle in the legend.
        assert_eq!(svg.matches("<rect").count(), 3 * SERIES.len());
        assert!(svg.contains("HTTP/1.1 → HTTP/2") && svg.contains(">17,800<"));
    }

    #[test]
    fn other_payloads_are_not_drawn() {
        assert!(draw(&[contest(Payload::Large)]).is_none());
    }
}
