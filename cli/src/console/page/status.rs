//! `/status`: both services, their certificates, and the identity of this client.

use std::time::SystemTime;

use axum::response::{IntoResponse as _, Response};
use chassis::{caller::Peer, expiry::unix_seconds};
use maud::{Markup, html};
use prost_types::Timestamp;
use proto::Principal;

use super::frame::{failure_page, render};
use crate::{
    console::{
        guard::PageRequest,
        view::{Section, expiry, facts, now, prose, sentence, with_full_time},
    },
    service_status::{ServiceState, ServiceStatus, StatusReport, client_peer},
};

pub(in crate::console) async fn show(visit: PageRequest) -> Response {
    match state(&visit).await {
        Ok(state) => {
            let body = html! {
                h1 { "Status" }
                div #live data-live="/status/live" { (state) }
            };
            render(&visit, "Status", Section::Status, &body)
        }
        Err(failure) => failure_page(&visit, Section::Status, failure),
    }
}

/// Answers with the changing part of the page alone.
pub(in crate::console) async fn live(visit: PageRequest) -> Response {
    match state(&visit).await {
        Ok(state) => state.into_response(),
        Err(failure) => failure_page(&visit, Section::Status, failure),
    }
}

async fn state(visit: &PageRequest) -> Result<Markup, crate::failure::Failure> {
    let services = &visit.app.services;
    let (report, is_locked, vault, injector) = tokio::join!(
        services.status(),
        services.is_locked(),
        services.vault.peer(),
        services.injector.peer(),
    );
    let StatusReport {
        services: states,
        identity: _,
        context,
    } = report?;
    let all_well = states.iter().all(ServiceStatus::is_well);
    let peers = [vault, injector, None];
    Ok(html! {
        p.summary role="status" {
            @if all_well { span.dot.good {} "Everything is in order." } @else { span.dot.bad {} "Something needs attention." }
        }
        div.cards {
            @for (state, peer) in states.iter().zip(peers) {
                (card(state, peer.as_ref(), is_locked))
            }
            (identity(client_peer(&services.connection).as_ref(), visit.session.user(), context.as_deref()))
        }
    })
}

fn card(status: &ServiceStatus, peer: Option<&Peer>, is_locked: Option<bool>) -> Markup {
    let ServiceStatus {
        service,
        address,
        state,
        latency_ms,
        access,
        detail,
    } = status;
    let mut rows = vec![("Address", html! { span.mono { (address) } })];
    if let Some(latency) = latency_ms {
        rows.push(("Answered in", html! { (format!("{latency:.1} ms")) }));
    }
    if let (Some(is_locked), "vault") = (is_locked, *service) {
        rows.push(("Root key", locked(is_locked)));
    }
    if let Some(may) = access {
        rows.push((
            "Your access",
            if *may {
                html! { "allowed" }
            } else {
                html! { span.badge.bad { "refused" } }
            },
        ));
    }
    if let Some(peer) = peer {
        rows.extend(certificate(peer));
    }
    html! {
        section.card {
            h2 { span class={ "dot " (class(*state)) } {} (capitalized(service)) span class={ "badge " (class(*state)) } { (state.label()) } }
            (facts(rows))
            @if let Some(detail) = detail { p.detail { (prose(&sentence(detail))) } }
        }
    }
}

fn class(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Serving => "good",
        ServiceState::NotReady => "warn",
        ServiceState::NotServing | ServiceState::Unreachable => "bad",
        ServiceState::Unknown => "unknown",
    }
}

fn locked(is_locked: bool) -> Markup {
    match is_locked {
        true => html! { span.badge.bad { "locked" } },
        false => html! { "loaded" },
    }
}

fn capitalized(service: &str) -> &str {
    match service {
        "vault" => "Vault",
        "injector" => "Injector",
        "data plane" => "Data plane",
        other => other,
    }
}

fn certificate(peer: &Peer) -> Vec<(&'static str, Markup)> {
    match peer {
        Peer::Anonymous | Peer::Unusable(_) => Vec::new(),
        Peer::Known { principal, not_after } => vec![
            ("Identity", html! { span.mono { (principal) } }),
            ("Certificate expires", expires(*not_after)),
        ],
    }
}

fn expires(not_after: SystemTime) -> Markup {
    let at = Timestamp {
        seconds: unix_seconds(not_after),
        nanos: 0,
    };
    with_full_time(&expiry(Some(&at), false, now()), Some(&at))
}

/// Returns the identity of the console, with which all of its users act. `user` signed in with a certificate of their own.
fn identity(peer: Option<&Peer>, user: Option<&Principal>, context: Option<&str>) -> Markup {
    html! {
        @if let Some(peer) = peer {
            section.card {
                h2 { @if user.is_some() { "The console" } @else { "You" } }
                (facts(certificate(peer)))
                @if let Some(context) = context {
                    p.detail { "The context " span.mono { (context) } " of the command line names these services." }
                }
                p.detail {
                    "The console has the rights that both services give to this identity."
                    @if let Some(user) = user { " You are signed in as " code { (user) } ", and act with these rights." }
                }
            }
        }
    }
}
