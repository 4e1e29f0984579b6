//! The answer to a call, for people. Nothing of it is stored.

use http::{HeaderMap, StatusCode, header};
use maud::{Markup, html};
use proto::{Reason, injector::v1::Server};

use super::{
    super::paths::OfServer,
    answer::{Answer, BodyEnd, CallResult},
    indented_json::indented,
    received::received,
};
use crate::{
    console::view::{grouped, prose, sentence},
    output::{printable, printable_lines},
    program_call::Problem,
};

pub(super) fn answer_view(of: &OfServer, server: &Server, method: &str, result: &CallResult) -> Markup {
    html! {
        section #answer.answer aria-labelledby="answer-title" {
            h2 #answer-title tabindex="-1" autofocus { "Answer" }
            @match result {
                CallResult::Answered(answer) => (answered(server, method, answer)),
                CallResult::Refused { status, reason, name, problem } => (refused(of, *status, *reason, name, problem)),
            }
        }
    }
}

fn refused(of: &OfServer, status: StatusCode, reason: Reason, name: &str, problem: &Problem) -> Markup {
    let Problem { detail, call_id } = problem;
    html! {
        div.notice.bad role="alert" {
            p { "The injector refused the call." }
            @if !detail.is_empty() { p { (prose(&sentence(detail))) } }
            (remedy(of, reason))
            p.quiet {
                "Status " (status.as_u16()) ", reason " code { (name) }
                @if !call_id.is_empty() { ", call " code { (call_id) } " in the injector’s log" } "."
            }
        }
    }
}

/// Says what to do about a refusal, where the refusal itself does not say it.
fn remedy(of: &OfServer, reason: Reason) -> Markup {
    let path = of.path();
    html! {
        @match reason {
            Reason::SecretRequiredMissing
            | Reason::SecretValueNotPlaceable
            | Reason::SecretNotForThisUpstream => p { a href=(path) { "See which secret is the cause, and what to do" } },
            Reason::UpstreamRejectedCredential => p {
                "The server answered 401: the value is wrong, expired or revoked, or it goes to another place than the server "
                "expects. "
                a href=(path) { "Compare the place, and replace the value" }
            },
            Reason::UpstreamUnreachable
            | Reason::UpstreamTlsFailed
            | Reason::UpstreamCertificateUntrusted
            | Reason::UpstreamCertificateNameMismatch
            | Reason::UpstreamNotTls
            | Reason::UpstreamClientCertificateRefused
            | Reason::UpstreamAddressRefused
            | Reason::UpstreamNotVerified
            | Reason::UpstreamProtocol => p { a href={ (path) "/edit" } { "Check the server’s URL and TLS" } },
            Reason::VaultUnavailable | Reason::Sealed | Reason::KeyNotLoaded => p {
                a href="/status" { "See the state of both services" }
            },
            _ => {}
        }
    }
}

fn answered(server: &Server, method: &str, answer: &Answer) -> Markup {
    let Answer {
        status,
        version,
        headers,
        body,
        end,
        head_ms,
        total_ms,
    } = answer;
    let drawn = received(server, method, body);
    html! {
        p.summary {
            span class={ "badge " (class(*status)) } { (status.as_u16()) " " (status.canonical_reason().unwrap_or_default()) }
            span.quiet.number {
                (duration(*head_ms))
                @if total_ms - head_ms > 50.0 { " to the first byte, " (duration(*total_ms)) " in all" }
                " · " (format!("{version:?}"))
            }
        }
        @if let Some(drawn) = &drawn {
            h3 { "What the server received" }
            (drawn)
        }
        h3 { "Body" }
        (body_end(end))
        (body_view(headers, body, method))
        details.more open[drawn.is_none()] {
            summary { "Headers" small { (headers.len()) " fields" } }
            pre.request {
                @for (name, value) in headers {
                    span.line { span.quiet { (name) ": " } (printable(&String::from_utf8_lossy(value.as_bytes()))) } "\n"
                }
            }
        }
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        ..400 => "good",
        400..500 => "warn",
        _ => "bad",
    }
}

fn duration(ms: f64) -> String {
    match ms {
        ..10.0 => format!("{ms:.1} ms"),
        10.0..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1000.0),
    }
}

fn body_end(end: &BodyEnd) -> Markup {
    html! {
        @match end {
            BodyEnd::Complete => {}
            BodyEnd::TooLong => p.notice.warn { "The body is longer. This is its beginning." },
            BodyEnd::TimedOut(seconds) => p.notice.warn {
                "The server was still sending after " (seconds) " seconds. The console stopped there; a program would get the "
                "rest."
            },
            BodyEnd::BrokeOff(cause) => p.notice.bad { "The answer broke off: " (cause) },
        }
    }
}

fn body_view(headers: &HeaderMap, body: &[u8], method: &str) -> Markup {
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    html! {
        @match readable(body) {
            Some("") if method == "HEAD" => p.quiet { "An answer to HEAD has no body." },
            Some("") => p.quiet { "Empty." },
            Some(text) => pre.request.body tabindex="0" role="region" aria-label="Body of the answer" {
                (printable_lines(indented(text).as_deref().unwrap_or(text)))
            },
            None => p {
                "Binary: " (grouped(body.len())) " bytes"
                @if let Some(media_type) = media_type { " of " code { (media_type) } }
                "."
            },
        }
    }
}

/// Returns a body as text, or `None` for a binary one. A body that was cut may end within a character, which is left out.
fn readable(body: &[u8]) -> Option<&str> {
    let text = match std::str::from_utf8(body) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(body.get(..error.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    (!text.contains('\0')).then_some(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use http::{HeaderValue, Version};

    use super::*;

    #[test]
    fn text_is_shown_and_other_bodies_are_not() {
        assert_eq!(readable("größe".as_bytes()), Some("größe"));
        // A character that the limit has cut.
        assert_eq!(readable(&"größe".as_bytes()[..3]), Some("gr"));
        assert_eq!(readable(b"\x89PNG\r\n"), None);
        assert_eq!(readable(b"a\0b"), None);
        assert_eq!(readable(b""), Some(""));
    }

    #[test]
    fn an_answer_is_shown_in_the_order_in_which_it_was_sent() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-note",
            HeaderValue::from_bytes("a\u{200f}b".as_bytes()).unwrap(),
        );
        let answer = Answer {
            status: StatusCode::OK,
            version: Version::HTTP_11,
            headers,
            body: "{\"user\": \"\u{202e}nimda\u{2069}\"}\n\tnext".into(),
            end: BodyEnd::Complete,
            head_ms: 1.0,
            total_ms: 1.0,
        };
        let shown = answered(&Server::default(), "GET", &answer).into_string();
        for text in ["a\\u{200f}b", "\\u{202e}nimda\\u{2069}", "\n\tnext"] {
            assert!(shown.contains(text), "{text}: {shown}");
        }
    }

    #[test]
    fn durations_have_a_fitting_unit() {
        for (ms, text) in [
            (0.84, "0.8 ms"),
            (12.3, "12 ms"),
            (999.0, "999 ms"),
            (1234.0, "1.2 s"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }
}
