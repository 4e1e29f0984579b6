//! The drawing: secrets on the left, servers on the right, a curve for each secret that a server gets.
//!
//! Widths are in percent and heights in pixels, so that text has the same size on every screen. Only the curves are stretched.
//! The Content-Security-Policy forbids `style`; all places are attributes of SVG.
//!
//! A node contains its curves and the frames of the nodes at their other ends once more. They are shown while the node is
//! hovered or focused, by the style sheet alone.

use maud::{Markup, html};

use super::outcome_text;
use crate::console::{
    map::{Edge, Graph, Layout, Outcome, ROW, SecretNode, SecretState, ServerNode},
    view::icon,
};

/// Mark on a curve whose secret is left out.
pub(super) const LEFT_OUT: &str = "–";
/// Mark on a curve for which calls are refused.
pub(super) const REFUSED: &str = "×";

/// Height of the frame of a node, in pixels.
const NODE: u32 = ROW - 4;

/// The sides of the drawing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Secrets,
    Servers,
}

impl Side {
    /// Where the column begins.
    fn x(self) -> &'static str {
        match self {
            Self::Secrets => "0",
            Self::Servers => "62%",
        }
    }

    fn frame_id(self, index: usize) -> String {
        match self {
            Self::Secrets => format!("map-secret-{index}"),
            Self::Servers => format!("map-server-{index}"),
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Secrets => Self::Servers,
            Self::Servers => Self::Secrets,
        }
    }

    fn end_of(self, line: &Edge) -> usize {
        match self {
            Self::Secrets => line.secret,
            Self::Servers => line.server,
        }
    }
}

pub(super) fn drawing(workspace: &str, graph: &Graph) -> Markup {
    let ends: Vec<_> = graph
        .edges
        .iter()
        .map(|line| (line.secret, line.server))
        .collect();
    let layout = Layout::of(graph.secrets.len(), graph.servers.len(), &ends);
    let height = layout.height;
    let (secrets, servers) = (in_order(&layout.left), in_order(&layout.right));
    let (of_secrets, of_servers) = (lines_of(graph, Side::Secrets), lines_of(graph, Side::Servers));
    html! {
        div.map-heads aria-hidden="true" { span { "Secrets" } span { "Servers" } }
        svg.map width="100%" height=(height) role="group" aria-label="Secrets and the servers that get them" {
            g.lines { (stretched(height, &html! {
                @for (index, line) in graph.edges.iter().enumerate() { (curve(index, line, &layout)) }
            })) }
            g.marks aria-hidden="true" { @for line in &graph.edges { (mark(line, &layout)) } }
            g.frames {
                @for (index, middle) in &secrets { (frame(Side::Secrets, *index, *middle)) }
                @for (index, middle) in &servers { (frame(Side::Servers, *index, *middle)) }
            }
            @for (index, middle) in &secrets {
                @if let (Some(secret), Some(lines)) = (graph.secrets.get(*index), of_secrets.get(*index)) {
                    (node(Side::Secrets, *middle, height, lines, &secret_link(workspace, secret)))
                }
            }
            @for (index, middle) in &servers {
                @if let (Some(server), Some(lines)) = (graph.servers.get(*index), of_servers.get(*index)) {
                    (node(Side::Servers, *middle, height, lines, &server_link(workspace, server, lines)))
                }
            }
        }
    }
}

/// Returns the nodes that have a place, from above.
fn in_order(places: &[Option<u32>]) -> Vec<(usize, u32)> {
    let mut placed: Vec<_> = places
        .iter()
        .enumerate()
        .filter_map(|(index, place)| Some((index, (*place)?)))
        .collect();
    placed.sort_by_key(|(_, place)| *place);
    placed
}

/// Returns for each node of a side the lines that end there, with their indices.
fn lines_of(graph: &Graph, side: Side) -> Vec<Vec<(usize, &Edge)>> {
    let number = match side {
        Side::Secrets => graph.secrets.len(),
        Side::Servers => graph.servers.len(),
    };
    let mut lines = vec![Vec::new(); number];
    for (index, line) in graph.edges.iter().enumerate() {
        if let Some(of_node) = lines.get_mut(side.end_of(line)) {
            of_node.push((index, line));
        }
    }
    lines
}

/// Returns the space between the columns, in which x goes from 0 to 100.
fn stretched(height: u32, curves: &Markup) -> Markup {
    html! {
        svg x="38%" width="24%" height=(height) viewBox={ "0 0 100 " (height) } preserveAspectRatio="none" { (curves) }
    }
}

fn ends(line: &Edge, layout: &Layout) -> Option<(u32, u32)> {
    let place = |places: &[Option<u32>], index: usize| places.get(index).copied().flatten();
    Some((
        place(&layout.left, line.secret)?,
        place(&layout.right, line.server)?,
    ))
}

fn curve(index: usize, line: &Edge, layout: &Layout) -> Markup {
    html! {
        @if let Some((from, to)) = ends(line, layout) {
            path id={ "map-line-" (index) } class=(line_class(line)) d={ "M0 " (from) "C50 " (from) " 50 " (to) " 100 " (to) } {}
        }
    }
}

fn line_class(line: &Edge) -> String {
    let need = if line.is_required { "required" } else { "optional" };
    format!("line {need} {}", outcome_text::class(line.outcome))
}

/// Returns the mark in the middle of a curve, which is halfway between its ends.
fn mark(line: &Edge, layout: &Layout) -> Markup {
    let symbol = match line.outcome {
        Outcome::Sent => return html! {},
        Outcome::LeftOut => LEFT_OUT,
        Outcome::Refused(_) => REFUSED,
    };
    html! {
        @if let Some((from, to)) = ends(line, layout) {
            text class={ "mark " (outcome_text::class(line.outcome)) } x="50%" y=(u32::midpoint(from, to)) { (symbol) }
        }
    }
}

fn frame(side: Side, index: usize, middle: u32) -> Markup {
    html! {
        rect.frame id=(side.frame_id(index)) x=(side.x()) y=(middle.saturating_sub(NODE / 2)) width="38%" height=(NODE) rx="7" {}
    }
}

fn node(side: Side, middle: u32, height: u32, lines: &[(usize, &Edge)], link: &Markup) -> Markup {
    html! {
        g.node {
            foreignObject x=(side.x()) y=(middle.saturating_sub(NODE / 2)) width="38%" height=(NODE) { (link) }
            g.trace aria-hidden="true" {
                (stretched(height, &html! { @for (index, _) in lines { use href={ "#map-line-" (index) } {} } }))
                @for (_, line) in lines {
                    use href={ "#" (side.other().frame_id(side.other().end_of(line))) } {}
                }
            }
        }
    }
}

/// Returns the path of the page about a secret, or of the form that adds a missing one.
pub(super) fn secret_path(workspace: &str, secret: &SecretNode) -> String {
    match secret.state {
        SecretState::Missing => format!("/w/{workspace}/secrets/new?name={}", secret.name),
        SecretState::Stored | SecretState::Expired => format!("/w/{workspace}/secrets/{}", secret.name),
    }
}

fn secret_link(workspace: &str, secret: &SecretNode) -> Markup {
    html! { a.map-node href=(secret_path(workspace, secret)) title=(secret.name) { (secret_label(secret)) } }
}

fn server_link(workspace: &str, server: &ServerNode, lines: &[(usize, &Edge)]) -> Markup {
    let refuses = lines
        .iter()
        .any(|(_, line)| matches!(line.outcome, Outcome::Refused(_)));
    html! {
        a.map-node href={ "/w/" (workspace) "/servers/" (server.name) } title={ (server.name) ": " (server.url) } {
            (server_label(server, refuses))
        }
    }
}

pub(super) fn secret_label(secret: &SecretNode) -> Markup {
    html! {
        span.name.mono { (secret.name) }
        @match secret.state {
            SecretState::Missing => (state("bad", "missing", "missing")),
            SecretState::Expired => (state("bad", "expired", "expired")),
            SecretState::Stored if !secret.is_bound => (state("quiet", "unbound", "any origin")),
            SecretState::Stored => {},
        }
    }
}

/// `refuses` is true when one of the server's secrets makes its calls fail.
pub(super) fn server_label(server: &ServerNode, refuses: bool) -> Markup {
    html! {
        span.name { (server.name) }
        @if server.is_of_deleted_workspace {
            (state("bad", "refused", "of a deleted workspace"))
        } @else if refuses {
            (state("bad", "refused", "calls are refused"))
        }
    }
}

/// Returns a symbol with its text. Narrow screens show the symbol alone; the legend explains it.
fn state(class: &str, symbol: &str, text: &str) -> Markup {
    html! { span class={ "state " (class) } { (icon(symbol)) span { (text) } } }
}

/// Returns a line of the legend.
pub(super) fn sample(class: &str, mark: &str) -> Markup {
    let state = if mark == REFUSED { "refused" } else { "left-out" };
    html! {
        svg.map-sample width="40" height="16" aria-hidden="true" {
            path class=(class) d="M0 8H40" {}
            @if !mark.is_empty() { text class={ "mark " (state) } x="20" y="8" { (mark) } }
        }
    }
}
