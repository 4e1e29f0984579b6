//! The form for a call.

use maud::{Markup, html};
use proto::injector::v1::Server;

use super::url::UrlParts;
use crate::console::{
    fields::Fields,
    view::{FormError, field, has_error, hidden, invalid},
};

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];

/// The types of bodies that the form offers.
const MEDIA_TYPES: [(&str, &str); 4] = [
    ("application/json", "JSON"),
    ("application/x-www-form-urlencoded", "form"),
    ("text/plain", "text"),
    ("", "as a header says"),
];

/// The first message of an MCP client.
const MCP_BODY: &str = r#"{
  "jsonrpc": "2.0",
  "id": 1,
  "method": "initialize",
  "params": {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": { "name": "aerostack-console", "version": "1" }
  }
}"#;

pub(super) struct CallForm {
    pub(super) method: String,
    /// The path with its query.
    pub(super) path: String,
    /// One `NAME: VALUE` per line.
    pub(super) headers: String,
    pub(super) media_type: String,
    pub(super) body: String,
}

impl CallForm {
    pub(super) fn new() -> Self {
        Self {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            headers: String::new(),
            media_type: "application/json".to_owned(),
            body: String::new(),
        }
    }

    pub(super) fn mcp() -> Self {
        Self {
            method: "POST".to_owned(),
            path: String::new(),
            headers: "accept: application/json, text/event-stream".to_owned(),
            media_type: "application/json".to_owned(),
            body: MCP_BODY.to_owned(),
        }
    }

    pub(super) fn of(fields: &Fields) -> Self {
        let text = |name| fields.text(name).to_owned();
        Self {
            method: text("method"),
            path: text("path"),
            headers: text("headers"),
            media_type: text("media_type"),
            body: fields.raw("body").replace("\r\n", "\n"),
        }
    }
}

/// Returns true when the URL is that of an MCP server, as far as its path tells.
pub(super) fn is_mcp(server: &Server) -> bool {
    UrlParts::of(&server.url)
        .path
        .trim_end_matches('/')
        .ends_with("/mcp")
}

pub(super) fn call_form(
    path: &str,
    server: &Server,
    form: &CallForm,
    csrf: &str,
    error: Option<&FormError>,
) -> Markup {
    html! {
        form.stack method="post" action={ (path) "/call" } {
            (hidden(csrf))
            (method_and_path(server, form, error))
            (headers(form, error))
            (body(form, error))
            div.actions {
                button.button.primary type="submit" { "Send" }
                a.button href=(path) { "Back to the server" }
            }
        }
    }
}

fn method_and_path(server: &Server, form: &CallForm, error: Option<&FormError>) -> Markup {
    let base = UrlParts::of(&server.url).short();
    let help = html! { "With its query. It follows " code { (base.trim_end_matches('/')) } "." };
    let control = html! {
        div.method-and-path {
            select #method name="method" aria-label="Method" aria-invalid=[invalid("method", error)] {
                @for method in METHODS { option selected[form.method == method] { (method) } }
            }
            input #path.mono name="path" type="text" value=(form.path) maxlength="8192" placeholder="/" autocomplete="off"
                autocapitalize="none" spellcheck="false" aria-describedby="path-help" aria-invalid=[invalid("path", error)] autofocus[has_error("path", error)];
        }
    };
    field("path", "Method and path", &help, error, &control)
}

fn headers(form: &CallForm, error: Option<&FormError>) -> Markup {
    let help = html! {
        "One " code { "name: value" } " per line. No credential is needed. What you send in the place of a secret is removed."
    };
    let control = html! {
        textarea #headers.mono name="headers" rows="2" placeholder="accept: application/json" autocomplete="off"
            autocapitalize="none" spellcheck="false" aria-describedby="headers-help"
            aria-invalid=[invalid("headers", error)] autofocus[has_error("headers", error)] { (form.headers) }
    };
    field("headers", "Headers", &help, error, &control)
}

fn body(form: &CallForm, error: Option<&FormError>) -> Markup {
    let help = html! {
        "Sent as "
        select #media_type.inline name="media_type" aria-label="Type of the body" {
            @for (media_type, label) in MEDIA_TYPES {
                option value=(media_type) selected[form.media_type == media_type] { (label) }
            }
        }
        " Empty for a call without a body."
    };
    let control = html! {
        textarea #body.mono name="body" rows="5" placeholder="{}" autocomplete="off" autocapitalize="none" spellcheck="false"
            aria-describedby="body-help" aria-invalid=[invalid("body", error)] autofocus[has_error("body", error)] { (form.body) }
    };
    field("body", "Body", &help, error, &control)
}
