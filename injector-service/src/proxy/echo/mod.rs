//! Looks for the values that a call sent in the answer of its upstream, and masks them.
//!
//! | part of the answer | file |
//! |---|---|
//! | head and trailers | `head.rs` |
//! | body | `body.rs`, over `stream.rs`, which gives out a stream of payloads and their framing |
//! | bytes that are searched | `payload.rs` |
//! | framing of gRPC messages and of WebSocket frames | `grpc.rs`, `websocket.rs` |
//! | compressed body | `content_coding.rs`, with a file for each format |
//!
//! `crate::scrub` finds the values. A stream holds its last bytes back for [`TAIL_DELAY`] at most, or for
//! [`BEGUN_DELAY`] when a value has almost certainly begun in them.

mod body;
mod content_coding;
mod grpc;
mod head;
mod payload;
mod stream;
mod websocket;

use std::{sync::Arc, time::Duration};

use chassis::telemetry::field;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use proto::{CallId, Reason, Refusal, SecretName};
use smallvec::SmallVec;

use crate::{
    dialect::Dialect,
    header_rules,
    inject::ResolvedSecrets,
    placement::Placement,
    proxy::call_record::LaterRecord,
    registry::{
        EchoPart, Entry,
        server::{OnEcho, Scrub, Spec},
    },
    scrub::{Fingerprints, SearchScope, SecretSet},
    upstream::AnswerConnection,
};
pub(super) use body::{MaskedBody, mask_body};
pub(super) use stream::{Framing, MaskedStream};

/// The time after which the last bytes of a stream are given out when nothing follows them.
pub(super) const TAIL_DELAY: Duration = Duration::from_millis(10);
/// The time after which the last bytes are given out although a value has begun in them. An upstream that shows only the
/// beginning of a value in an interactive stream then delays the stream, and does not stop it.
pub(super) const BEGUN_DELAY: Duration = Duration::from_secs(1);

/// The header by which a program asks that the whole answer be searched, whatever the server's setting `scrub` says.
const SCRUB: HeaderName = HeaderName::from_static("x-aerostack-scrub");

/// The values that a call sent, as fingerprints, and the treatment of an answer that contains one of them.
#[derive(Clone)]
pub(super) struct EchoFilter {
    call: Arc<FilteredCall>,
    /// The connection of the answer, once there is one.
    connection: Option<Arc<AnswerConnection>>,
}

struct FilteredCall {
    fingerprints: Arc<Fingerprints>,
    /// The names of the values, in the order of the fingerprints.
    names: SmallVec<[SecretName; 1]>,
    entry: Arc<Entry>,
    call_id: CallId,
    scrub: Scrub,
}

/// Returns the parts of the answer to search: those of the server's setting, or all of them when the request asks for it.
pub(super) fn scrub_for(headers: &HeaderMap, setting: Scrub) -> Result<Scrub, Refusal> {
    let mut asked = headers.get_all(SCRUB).iter().map(|value| value == "all");
    match asked.next() {
        None => Ok(setting),
        Some(true) if asked.all(|is_all| is_all) => Ok(Scrub::All),
        Some(_) => Err(Refusal::new(
            Reason::RequestMalformed,
            "the only value of x-aerostack-scrub is `all`",
        )),
    }
}

/// Asks the upstream for a whole answer whose body can be searched.
pub(super) fn request_plain_body(headers: &mut HeaderMap, scrub: Scrub, dialect: Dialect) {
    if scrub != Scrub::All {
        return;
    }
    header_rules::clean_searched_request(headers);
    let identity = HeaderValue::from_static("identity");
    headers.insert(header::ACCEPT_ENCODING, identity.clone());
    // gRPC-Web and Connect compress each message as well, when the program offers it.
    for name in ["grpc-accept-encoding", "connect-accept-encoding"] {
        if headers.contains_key(name) || dialect == Dialect::Grpc && name.starts_with("grpc") {
            headers.insert(name, identity.clone());
        }
    }
}

impl EchoFilter {
    /// Returns `None` when `scrub` leaves out every value, or no value is long enough.
    pub(super) fn new(
        entry: &Arc<Entry>,
        call_id: &CallId,
        secrets: &ResolvedSecrets<'_>,
        scrub: Scrub,
    ) -> Option<Self> {
        let spec = &entry.server.spec;
        let is_sought = |name: &SecretName| scrub != Scrub::Off || is_in_url(spec, name);
        let scope = match scrub {
            Scrub::Off | Scrub::Headers => SearchScope::Heads,
            Scrub::All => SearchScope::Bodies,
        };
        let (fingerprints, names) = secrets.fingerprints(is_sought, scope)?;
        Some(Self {
            call: Arc::new(FilteredCall {
                fingerprints,
                names,
                entry: entry.clone(),
                call_id: call_id.clone(),
                scrub,
            }),
            connection: None,
        })
    }

    /// Returns the filter of an answer that comes over `connection`, which takes no further call when a value is found.
    pub(super) fn of_answer(self, connection: &Arc<AnswerConnection>) -> Self {
        let connection = Some(connection.clone());
        Self { connection, ..self }
    }

    pub(super) fn masks_bodies(&self) -> bool {
        self.call.scrub == Scrub::All
    }

    /// Returns true when an answer may be broken off after its head: because of a value in it, or because values in it
    /// cannot be masked.
    pub(super) fn may_break_off(&self) -> bool {
        self.masks_bodies() || self.call.entry.server.spec.on_echo == OnEcho::Block
    }

    /// Returns the record of the filtered call after its head.
    pub(super) fn record(&self) -> LaterRecord {
        LaterRecord::new(self.call.call_id.clone(), self.call.entry.clone())
    }

    /// Logs and counts an echo, and retires the connection, whose buffers have the value. Returns an error when the server's
    /// setting `on_echo` blocks the answer.
    fn report(&self, part: EchoPart, found: SecretSet) -> Result<(), Refusal> {
        if found.is_empty() {
            return Ok(());
        }
        if let Some(connection) = &self.connection {
            connection.retire();
        }
        let FilteredCall { entry, call_id, .. } = &*self.call;
        let names = found
            .positions()
            .filter_map(|position| self.call.names.get(position));
        let names: Vec<&str> = names.map(SecretName::as_str).collect();
        let secrets = names.join(",");
        entry.call_counts().count_echo(part);
        tracing::warn!(
            { field::WORKSPACE } = entry.server.workspace.as_str(),
            { field::SERVER } = entry.server.name.as_str(),
            part = part.name(),
            secrets,
            { field::CALL_ID } = call_id.as_str(),
            "secret echoed by the upstream"
        );
        match entry.server.spec.on_echo {
            OnEcho::Mask => Ok(()),
            OnEcho::Block => {
                let message = format!("the upstream's answer contains the value of a secret: {secrets}");
                Err(Refusal::new(Reason::UpstreamEchoedSecret, message))
            }
        }
    }
}

/// Returns true for a secret in the URL. Upstreams repeat their URLs in redirects and links as a matter of course.
fn is_in_url(spec: &Spec, name: &SecretName) -> bool {
    let mut injections = spec.injections.iter();
    injections.any(|injection| match &injection.placement {
        Placement::Query { .. } | Placement::Path { .. } => injection.secrets().any(|secret| secret == name),
        Placement::Header { .. }
        | Placement::Basic { .. }
        | Placement::Cookie { .. }
        | Placement::Json { .. }
        | Placement::Form { .. }
        | Placement::Protobuf { .. } => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what the fields of a request become, in the order of their names.
    fn requested(fields: &[(&'static str, &'static str)], scrub: Scrub) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        request_plain_body(&mut headers, scrub, Dialect::Http);
        let line =
            |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        let mut lines: Vec<String> = headers.iter().map(line).collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn a_program_cannot_ask_for_a_part_of_an_answer_that_is_searched() {
        let parts = [
            ("range", "bytes=0-1010"),
            ("range", "bytes=1011-"),
            ("if-range", "\"tag\""),
            ("if_range", "\"tag\""),
            ("request-range", "bytes=0-1010"),
            ("request_range", "bytes=0-1010"),
            ("x-ms-range", "bytes=0-1010"),
            ("x.ms_range", "bytes=0-1010"),
            ("a-im", "range"),
            ("a_im", "vcdiff"),
            ("if-match", "\"tag\""),
        ];
        assert_eq!(
            requested(&parts, Scrub::All),
            ["accept-encoding: identity", "if-match: \"tag\""]
        );
        for scrub in [Scrub::Off, Scrub::Headers] {
            assert_eq!(requested(&parts, scrub).len(), parts.len());
        }
    }

    #[test]
    fn a_program_cannot_ask_for_a_compressed_answer_in_another_spelling() {
        let compressed = [
            ("accept-encoding", "br"),
            ("accept_encoding", "gzip"),
            ("sec-websocket-extensions", "permessage-deflate"),
            ("sec_websocket-extensions", "permessage-deflate"),
        ];
        assert_eq!(requested(&compressed, Scrub::All), ["accept-encoding: identity"]);
    }
}
