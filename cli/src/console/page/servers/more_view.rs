//! The parts of the form for a server that few servers need. Each is closed unless it has content or a mistake.

use maud::{Markup, html};
use proto::injector::v1::{Oauth, OnEcho, Protocol, Scrub};

use super::{
    form::{Auth, ServerForm},
    rows::PlaceKind,
};
use crate::console::view::{FormError, error_at, field, has_error, invalid};

/// The label of the box that allows `http://` to another machine.
pub(super) const ALLOW_PLAINTEXT: &str = "Allow http:// to another machine";

pub(super) fn more(form: &ServerForm, error: Option<&FormError>) -> Markup {
    let at = |names: &[&str]| names.iter().any(|name| has_error(name, error));
    html! {
        details.more open[!form.origins.is_empty() || at(&["origins"])] {
            summary { "Web pages" small { "Which pages in browsers may call the server" } }
            (origins(form, error))
        }
        details.more open[has_body_settings(form) || at(&["paths", "grpc_methods", "secrets_field", "all_messages"])] {
            summary { "Bodies and gRPC" small { "Which calls get secrets in their bodies or messages" } }
            (bodies(form, error))
        }
        details.more open[has_tls_settings(form) || at(&["ca_pem", "server_name", "client_cert", "allow_bound", "allow_plaintext", "protocol"])] {
            summary { "TLS and connection" small { "A private CA, a client certificate, cleartext, the version of HTTP" } }
            (connection(form, error))
        }
        details.more open[has_answer_settings(form) || at(&["scrub", "on_echo", "oauth"])] {
            summary { "Answers" small { "What happens when the server repeats a secret or demands another one" } }
            (answers(form, error))
        }
    }
}

fn has_body_settings(form: &ServerForm) -> bool {
    let has_messages = form.places.iter().any(|row| row.kind == PlaceKind::Protobuf);
    let is_used = form.auth == Auth::Places && has_messages;
    is_used
        || [&form.paths, &form.grpc_methods, &form.secrets_field]
            .iter()
            .any(|text| !text.is_empty())
}

fn has_tls_settings(form: &ServerForm) -> bool {
    let texts = [&form.ca_pem, &form.server_name, &form.client_cert];
    let is_set = form.allow_bound || form.allow_plaintext || form.protocol != Protocol::Auto;
    is_set || texts.iter().any(|text| !text.is_empty())
}

fn has_answer_settings(form: &ServerForm) -> bool {
    form.scrub != Scrub::Headers || form.on_echo != OnEcho::Mask || form.oauth != Oauth::Replace
}

/// A field for several lines of code.
fn lines(
    name: &'static str,
    label: &str,
    value: &str,
    example: &str,
    help: &Markup,
    error: Option<&FormError>,
) -> Markup {
    let control = html! {
        textarea.mono id=(name) name=(name) rows="2" placeholder=(example) autocomplete="off" autocapitalize="none"
            spellcheck="false" aria-describedby={ (name) "-help" } aria-invalid=[invalid(name, error)] autofocus[has_error(name, error)] { (value) }
    };
    field(name, label, help, error, &control)
}

/// A field for one line of code.
fn line(
    name: &'static str,
    label: &str,
    value: &str,
    list: Option<&str>,
    help: &Markup,
    error: Option<&FormError>,
) -> Markup {
    let control = html! {
        input.mono id=(name) name=(name) type="text" value=(value) list=[list] autocomplete="off" autocapitalize="none"
            spellcheck="false" aria-describedby={ (name) "-help" } aria-invalid=[invalid(name, error)] autofocus[has_error(name, error)];
    };
    field(name, label, help, error, &control)
}

fn check(name: &'static str, is_checked: bool, label: &str, help: &str, error: Option<&FormError>) -> Markup {
    html! {
        div.field {
            div.checks {
                label {
                    input id=(name) type="checkbox" name=(name) value="yes" checked[is_checked]
                        aria-describedby={ (name) "-help" } aria-invalid=[invalid(name, error)] autofocus[has_error(name, error)];
                    span { (label) }
                }
            }
            div.help id={ (name) "-help" } {
                (error_at(name, error))
                (help)
            }
        }
    }
}

/// A choice of one of a few values, each with its name in the API and its text.
fn choice(
    name: &str,
    label: &str,
    chosen: &str,
    values: &[(&str, &str)],
    help: &Markup,
    error: Option<&FormError>,
) -> Markup {
    let control = html! {
        select id=(name) name=(name) aria-describedby={ (name) "-help" } aria-invalid=[invalid(name, error)]
            autofocus[has_error(name, error)] {
            @for (value, text) in values { option value=(value) selected[*value == chosen] { (text) } }
        }
    };
    field(name, label, help, error, &control)
}

fn origins(form: &ServerForm, error: Option<&FormError>) -> Markup {
    let help = html! {
        "One origin per line. Pages of other origins are refused, and without an origin every page is. Programs outside of "
        "browsers need none."
    };
    lines(
        "origins",
        "Origins of pages",
        &form.origins,
        "https://app.example.com",
        &help,
        error,
    )
}

fn bodies(form: &ServerForm, error: Option<&FormError>) -> Markup {
    let paths = html! {
        "For secrets in JSON bodies and forms. One path per line; " code { "/tools/*" } " means all paths below. Empty means all."
    };
    let methods = html! {
        "For secrets in gRPC messages, which need at least one: " code { "pkg.Service/Method" } " or " code { "pkg.Service/*" }
        ", one "
        "per line."
    };
    let number = html! {
        "Only for “In the JSON body”, so that gRPC calls get the secrets too: the number of the "
        code { "map<string, string>" } " field of the message."
    };
    html! {
        (lines("paths", "Paths that get secrets", &form.paths, "/run", &paths, error))
        (lines("grpc_methods", "gRPC methods that get secrets", &form.grpc_methods, "pkg.Service/Method", &methods, error))
        (check("all_messages", form.all_messages, "Secrets in every message of a stream",
            "Otherwise only the first message gets them.", error))
        (line("secrets_field", "Number of the gRPC field", &form.secrets_field, None, &number, error))
    }
}

fn connection(form: &ServerForm, error: Option<&FormError>) -> Markup {
    let ca = html! {
        "Certificates in PEM. Empty means the CAs of the system and those that the injector's operator added."
    };
    let name = html! { "The name in the server's certificate, when it differs from the host of the URL." };
    let certificate = html! {
        "A secret with a certificate, its chain and its key in PEM, when the server asks for a client certificate."
    };
    html! {
        (lines("ca_pem", "CA of the server", &form.ca_pem, "-----BEGIN CERTIFICATE-----", &ca, error))
        (line("server_name", "Name in the certificate", &form.server_name, None, &name, error))
        (line("client_cert", "Secret with a client certificate", &form.client_cert, Some("secrets"), &certificate, error))
        (check("allow_bound", form.allow_bound, "Send bound secrets although only these settings verify the server",
            "For administrators of the workspace. Otherwise a secret that is bound to the URL is sent only when a CA of \
             the system or of the operator verifies the server.", error))
        (check("allow_plaintext", form.allow_plaintext, ALLOW_PLAINTEXT,
            "Secrets then cross the network in cleartext.", error))
        (choice("protocol", "Version of HTTP", form.protocol.as_str_name(), &[
            ("PROTOCOL_AUTO", "chosen by the server"),
            ("PROTOCOL_HTTP1", "HTTP/1.1"),
            ("PROTOCOL_HTTP2", "HTTP/2"),
        ], &html! {}, error))
    }
}

fn answers(form: &ServerForm, error: Option<&FormError>) -> Markup {
    let scrub = html! { "A value that a server repeats would otherwise reach the program." };
    html! {
        (choice("scrub", "Look for the values of secrets in", form.scrub.as_str_name(), &[
            ("SCRUB_HEADERS", "headers and trailers"),
            ("SCRUB_ALL", "headers, trailers and body"),
            ("SCRUB_OFF", "nothing"),
        ], &scrub, error))
        (choice("on_echo", "When a value is found", form.on_echo.as_str_name(), &[
            ("ON_ECHO_MASK", "replace it by asterisks"),
            ("ON_ECHO_BLOCK", "end the answer with an error"),
        ], &html! {}, error))
        (choice("oauth", "When the server rejects the credential (401)", form.oauth.as_str_name(), &[
            ("OAUTH_REPLACE", "answer with an error of the injector"),
            ("OAUTH_PASS", "pass the demand on, so that the program signs in itself"),
        ], &html! {}, error))
    }
}
