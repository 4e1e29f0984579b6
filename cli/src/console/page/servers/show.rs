//! `/w/{workspace}/servers/{name}`: a server, what a call to it would carry now, and how programs call it.

use axum::response::Response;
use maud::{Markup, html};
use proto::injector::v1::{AuthType, Oauth, OnEcho, ProtobufMessages, Protocol, Scrub, Server};

use super::{
    super::{
        frame::{failure_page, render},
        paths::OfServer,
    },
    access::{looking_only, may_change},
    breadcrumb::server_breadcrumb,
    explained::next_call,
    list::tls,
    url::UrlParts,
};
use crate::console::{
    guard::PageRequest,
    view::{Section, chips, facts, moment, now, with_full_time},
};

pub(in crate::console) async fn show(of: OfServer, visit: PageRequest) -> Response {
    let services = &visit.app.services;
    let (server, explained, may_change) = tokio::join!(
        services.server(&of.workspace, &of.name),
        services.explain(of.workspace.as_str(), of.name.as_str()),
        may_change(&visit, &of.workspace),
    );
    let server = match server {
        Ok(server) => server,
        Err(failure) => return failure_page(&visit, Section::Workspaces, failure),
    };
    let (path, name) = (of.path(), of.name.as_str());
    let body = html! {
        (server_breadcrumb(of.workspace.as_str(), None))
        div.heading {
            h1.mono { (name) }
            div.actions {
                @if visit.app.allows_calls() { a.button.primary href={ (path) "/call" } { "Try a call" } }
                @if may_change {
                    a.button href={ (path) "/edit" } { "Edit" }
                    a.button href={ (path) "/delete" } { "Delete" }
                }
            }
        }
        @if !server.description.is_empty() { p.quiet { (server.description) } }
        @if !may_change { (looking_only(&visit)) }
        section.columns {
            div {
                h2 { "What a call carries now" }
                (next_call(&server, &explained, may_change))
            }
            div {
                h2 { "How programs call it" }
                (usage(&of, &server, &services.connection.data_plane()))
            }
        }
        h2 { "Settings" }
        (settings(&server))
    };
    render(&visit, name, Section::Workspaces, &body)
}

/// Says how a program calls the server, in texts to copy.
fn usage(of: &OfServer, server: &Server, data_plane: &str) -> Markup {
    let url = format!("{data_plane}/{}/{}/", of.workspace, of.name);
    let has_messages = !server.grpc_methods.is_empty();
    html! {
        p {
            "A program sends its requests here instead of to " code { (UrlParts::of(&server.url).short()) }
            ", without a credential:"
        }
        (copyable("URL", &url))
        (copyable("With curl", &format!("curl {url}")))
        @if has_messages {
            p { "A gRPC client keeps its method's path, and names the server in the metadata:" }
            (copyable("Metadata", &format!("x-aerostack-workspace: {}\nx-aerostack-server: {}", of.workspace, of.name)))
        }
        p.help {
            "What comes after the last " code { "/" } " goes to the server unchanged. "
            "The address is that of the injector beside this console; a program elsewhere uses its own injector."
        }
    }
}

/// Returns a text with a button that copies it. The button appears where scripts run.
fn copyable(label: &str, text: &str) -> Markup {
    html! {
        figure.copyable {
            figcaption { (label) }
            pre { (text) }
            button.button.small type="button" data-copy hidden aria-label={ "Copy: " (label) } { "Copy" }
        }
    }
}

fn settings(server: &Server) -> Markup {
    let now = now();
    let texts = |texts: &[String], none: &'static str| {
        html! {
            @if texts.is_empty() { span.quiet { (none) } } @else { (chips(texts.iter().map(String::as_str))) }
        }
    };
    let mut rows = vec![
        ("URL", html! { span.mono { (server.url) } }),
        ("Credential", html! { (auth_type(server.auth_type())) }),
        ("TLS", tls(server)),
        ("Version of HTTP", html! { (protocol_text(server.protocol())) }),
        (
            "Web pages that may call it",
            texts(&server.allowed_origins, "none"),
        ),
        (
            "Search of answers",
            html! { (scrub_text(server.scrub(), server.on_echo())) },
        ),
        ("A rejected credential", html! { (oauth_text(server.oauth())) }),
        (
            "Changed",
            with_full_time(
                &moment(server.update_time.as_ref(), now),
                server.update_time.as_ref(),
            ),
        ),
        (
            "Added",
            with_full_time(
                &moment(server.create_time.as_ref(), now),
                server.create_time.as_ref(),
            ),
        ),
    ];
    if !server.paths.is_empty() {
        rows.push(("Paths that get secrets", texts(&server.paths, "")));
    }
    if !server.grpc_methods.is_empty() {
        rows.push(("gRPC methods that get secrets", texts(&server.grpc_methods, "")));
        let every = server.protobuf_messages() == ProtobufMessages::All;
        rows.push((
            "gRPC messages",
            html! { @if every { "every message" } @else { "the first message" } },
        ));
    }
    if server.protobuf_secrets_field != 0 {
        rows.push((
            "Number of the gRPC field",
            html! { (server.protobuf_secrets_field) },
        ));
    }
    if let Some(tls) = server.tls.as_ref().filter(|tls| !tls.server_name.is_empty()) {
        rows.push((
            "Name in its certificate",
            html! { span.mono { (tls.server_name) } },
        ));
    }
    if server.tls.as_ref().is_some_and(|tls| tls.allow_bound_secrets) {
        rows.push((
            "Bound secrets",
            html! { "sent although only these TLS settings verify the server" },
        ));
    }
    facts(rows)
}

fn auth_type(auth_type: AuthType) -> &'static str {
    match auth_type {
        AuthType::Bearer => "bearer token",
        AuthType::SecretHeaders | AuthType::Unspecified => "a header for each secret",
        AuthType::Skill => "in the JSON body",
        AuthType::Custom => "places of its own",
    }
}

pub(super) fn protocol_text(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Unspecified | Protocol::Auto => "chosen by the server",
        Protocol::Http1 => "HTTP/1.1",
        Protocol::Http2 => "HTTP/2",
    }
}

pub(super) fn scrub_text(scrub: Scrub, on_echo: OnEcho) -> String {
    let searched = match scrub {
        Scrub::Off => return "off".to_owned(),
        Scrub::Unspecified | Scrub::Headers => "headers",
        Scrub::All => "headers and body",
    };
    match on_echo {
        OnEcho::Unspecified | OnEcho::Mask => format!("{searched}; a value is masked"),
        OnEcho::Block => format!("{searched}; a value ends the answer"),
    }
}

pub(super) fn oauth_text(oauth: Oauth) -> &'static str {
    match oauth {
        Oauth::Unspecified | Oauth::Replace => "an error of the injector",
        Oauth::Pass => "passed on to the program",
    }
}
