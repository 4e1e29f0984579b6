//! The schema of a line, and the only place where a line is made. `docs/audit.md` describes each field.

use std::{fmt, net::SocketAddr};

use chassis::caller::{Caller, Peer};
use jiff::Timestamp;
use proto::{CallId, Principal, WorkspaceName};
use serde::{Serialize, Serializer};

/// Maximum length of an unvalidated text from a client, in characters.
const MAX_TEXT: usize = 128;

/// The kind of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// A call of an RPC.
    Call,
    /// One decrypt of a stream.
    Decrypt,
    /// The vault began to serve.
    Started,
    /// The vault got its root key. The value in the log is older than the word `unlocked`.
    #[serde(rename = "unsealed")]
    Unlocked,
    /// A rotation of a key ended.
    RotationEnded,
    /// The vault stopped serving.
    Stopped,
    /// A command of the binary on a store that no vault serves ended.
    Command,
    /// Some lines were not written.
    Omitted,
}

/// The end of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// The vault carried the call out.
    Ok,
    /// The vault refused the call; the line has the reason.
    Refused,
    /// The caller stopped waiting before the vault had an answer.
    Unknown,
    /// The command failed, or found damage.
    Failed,
}

/// The result of a decrypt for one secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SecretOutcome {
    Ok,
    NotFound,
    Expired,
    DataLoss,
    KeyNotLoaded,
}

/// One secret of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct SecretEntry<'a> {
    /// The normalized name.
    pub(crate) name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<SecretOutcome>,
}

/// The identity behind a line.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Actor<'a> {
    /// The principal that a client certificate names, also one that has expired since.
    Principal(&'a Principal),
    /// The user who ran a command on the vault's machine.
    User(u32),
}

impl fmt::Display for Actor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Principal(principal) => principal.fmt(f),
            Self::User(id) => write!(f, "uid:{id}"),
        }
    }
}

/// One line. A field that does not apply is absent.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line<'a> {
    pub(crate) event: Event,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "displayed")]
    pub(crate) principal: Option<Actor<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<SocketAddr>,
    #[serde(skip_serializing_if = "str::is_empty", serialize_with = "printable")]
    pub(crate) method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "displayed")]
    pub(crate) workspace: Option<&'a WorkspaceName>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) secrets: &'a [SecretEntry<'a>],
    #[serde(skip_serializing_if = "str::is_empty", serialize_with = "printable")]
    pub(crate) server: &'a str,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "displayed")]
    pub(crate) call_id: Option<&'a CallId>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) check_only: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) key_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<u64>,
}

impl<'a> Line<'a> {
    /// Makes a line of this kind without any other field.
    pub(crate) const fn new(event: Event) -> Self {
        Self {
            event,
            principal: None,
            peer: None,
            method: "",
            workspace: None,
            secrets: &[],
            server: "",
            call_id: None,
            check_only: false,
            key_id: "",
            outcome: None,
            reason: "",
            count: None,
        }
    }

    /// Adds the identity and the address of `caller` to the line.
    pub(crate) fn by(self, caller: Option<&'a Caller>) -> Self {
        let principal = caller.and_then(|caller| match &*caller.peer {
            Peer::Known { principal, .. } => Some(Actor::Principal(principal)),
            Peer::Anonymous | Peer::Unusable(_) => None,
        });
        Self {
            principal,
            peer: caller.map(Caller::canonical_address),
            ..self
        }
    }
}

/// Encoded lines that are written together.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(super) bytes: Vec<u8>,
    pub(super) count: u64,
    time: Timestamp,
}

impl Lines {
    /// Makes an empty list of lines; all lines added later get the current time.
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            count: 0,
            time: Timestamp::now(),
        }
    }

    /// Encodes one line.
    pub(crate) fn of(line: &Line<'_>) -> Self {
        let mut lines = Self::new();
        lines.push(line);
        lines
    }

    pub(crate) fn push(&mut self, line: &Line<'_>) {
        #[derive(Serialize)]
        struct Timed<'a> {
            #[serde(serialize_with = "to_the_microsecond")]
            time: Timestamp,
            #[serde(flatten)]
            line: &'a Line<'a>,
        }
        let time = self.time;
        serde_json::to_writer(&mut self.bytes, &Timed { time, line })
            .expect("a vector takes all bytes, and a line has string keys only");
        self.bytes.push(b'\n');
        self.count += 1;
    }
}

fn to_the_microsecond<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.6}"))
}

fn displayed<T: fmt::Display, S: Serializer>(shown: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match shown {
        Some(shown) => serializer.collect_str(shown),
        None => serializer.serialize_none(),
    }
}

/// Serializes unvalidated text, cut to [`MAX_TEXT`]. Every character but printable ASCII becomes `?`, because control
/// characters and marks that change the direction of text could forge lines on a terminal.
fn printable<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let is_safe = |char: char| char.is_ascii_graphic() || char == ' ';
    if text.len() <= MAX_TEXT && text.chars().all(is_safe) {
        return serializer.serialize_str(text);
    }
    let safe: String = text
        .chars()
        .take(MAX_TEXT)
        .map(|char| if is_safe(char) { char } else { '?' })
        .collect();
    serializer.serialize_str(&safe)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use serde_json::{Value, json};

    use super::*;

    fn encoded(line: &Line<'_>) -> String {
        String::from_utf8(Lines::of(line).bytes).unwrap()
    }

    #[test]
    fn a_line_has_the_documented_fields_in_their_order() {
        let caller = Caller {
            peer: Arc::new(Peer::Known {
                principal: Principal::parse("spiffe://td/injector").unwrap(),
                not_after: SystemTime::UNIX_EPOCH,
            }),
            address: "[::ffff:10.0.0.7]:4711".parse().unwrap(),
        };
        let workspace = WorkspaceName::parse("w").unwrap();
        let call_id = CallId::parse("c-1").unwrap();
        let secret = |name, version, outcome| SecretEntry {
            name,
            version,
            outcome: Some(outcome),
        };
        let line = Line {
            method: "vault.v1.DecryptService/DecryptStream",
            workspace: Some(&workspace),
            secrets: &[
                secret("A", Some(3), SecretOutcome::Ok),
                secret("B", None, SecretOutcome::NotFound),
            ],
            server: "github",
            call_id: Some(&call_id),
            check_only: true,
            key_id: "k",
            outcome: Some(Outcome::Refused),
            reason: "PERMISSION_DENIED",
            count: Some(1),
            ..Line::new(Event::Call).by(Some(&caller))
        };
        let text = encoded(&line);
        let (time, rest) = text.split_at(r#"{"time":"2026-11-29T08:00:00.000000Z""#.len());
        assert!(
            time.starts_with(r#"{"time":"2"#) && time.ends_with("Z\""),
            "{time}"
        );
        assert_eq!(
            rest,
            r#","event":"call","principal":"spiffe://td/injector","peer":"10.0.0.7:4711","#.to_owned()
                + r#""method":"vault.v1.DecryptService/DecryptStream","workspace":"w","#
                + r#""secrets":[{"name":"A","version":3,"outcome":"ok"},{"name":"B","outcome":"not_found"}],"#
                + r#""server":"github","call_id":"c-1","check_only":true,"key_id":"k","#
                + r#""outcome":"refused","reason":"PERMISSION_DENIED","count":1}"#
                + "\n"
        );
        let line: Value = serde_json::from_str(&encoded(&Line::new(Event::Stopped))).unwrap();
        assert_eq!(line, json!({"time": line["time"], "event": "stopped"}));
    }

    #[test]
    fn every_field_and_event_is_documented() {
        let documented = include_str!("../../../docs/audit.md");
        let has_row = |field: &str| documented.contains(&format!("\n| `{field}` |"));
        let workspace = WorkspaceName::parse("w").unwrap();
        let call_id = CallId::parse("c").unwrap();
        let full = Line {
            event: Event::Call,
            principal: Some(Actor::User(0)),
            peer: Some("127.0.0.1:1".parse().unwrap()),
            method: "m",
            workspace: Some(&workspace),
            secrets: &[SecretEntry {
                name: "A",
                version: Some(1),
                outcome: Some(SecretOutcome::Ok),
            }],
            server: "s",
            call_id: Some(&call_id),
            check_only: true,
            key_id: "k",
            outcome: Some(Outcome::Ok),
            reason: "R",
            count: Some(1),
        };
        let full: Value = serde_json::from_str(&encoded(&full)).unwrap();
        for (field, value) in full.as_object().unwrap() {
            assert!(has_row(field), "{field}");
            for part in value.as_array().into_iter().flatten() {
                for name in part.as_object().unwrap().keys() {
                    assert!(has_row(&format!("{field}[].{name}")), "{name}");
                }
            }
        }
        let words = [
            json!([Event::Call, Event::Decrypt, Event::Started, Event::Unlocked]),
            json!([
                Event::RotationEnded,
                Event::Stopped,
                Event::Command,
                Event::Omitted
            ]),
            json!([Outcome::Ok, Outcome::Refused, Outcome::Unknown, Outcome::Failed]),
            json!([
                SecretOutcome::NotFound,
                SecretOutcome::Expired,
                SecretOutcome::DataLoss,
                SecretOutcome::KeyNotLoaded
            ]),
        ];
        for word in words.iter().flat_map(|words| words.as_array().unwrap()) {
            let word = word.as_str().unwrap();
            assert!(documented.contains(&format!("`{word}`")), "{word}");
        }
    }

    #[test]
    fn text_of_a_client_can_neither_break_a_line_nor_make_it_long() {
        let hostile =
            "a\"\\\n\r\u{0}\u{1b}[2J\u{7f}\u{85}\u{2028}\u{202e}{}".to_owned() + &"x".repeat(10_000);
        let line = Line {
            method: &hostile,
            server: &hostile,
            ..Line::new(Event::Call)
        };
        let text = encoded(&line);
        assert!(text.len() < 500, "{}", text.len());
        let body = text.strip_suffix('\n').unwrap();
        assert!(body.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{body:?}");
        let parsed: Value = serde_json::from_str(body).unwrap();
        let shown = parsed["server"].as_str().unwrap();
        assert!(shown.starts_with("a\"\\????[2J????{}xxx"), "{shown}");
    }
}
