//! The places in a request to which values of secrets go.

use http::{HeaderName, header};
use proto::{SecretName, ValueFault, vault::v1::ValueFacts};
use serde::{Deserialize, Serialize};

use crate::{body_calls::BodyCalls, json_pointer::JsonPointer, template::Template};

/// The prefix of the headers that carry secrets.
const SECRET_HEADER: &str = "x-mcp-secret-";
/// The member of a JSON body that carries the secrets of the auth type skill.
const SECRETS_MEMBER: &str = "secrets";

/// The highest field number of protobuf.
const LAST_FIELD: u32 = (1 << 29) - 1;
/// Field numbers that protobuf keeps for its implementations.
const RESERVED_FIELDS: std::ops::RangeInclusive<u32> = 19_000..=19_999;

/// The rule that gives each secret of a server its place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthType {
    /// Each secret goes into a header of its own.
    #[default]
    SecretHeaders,
    /// The only secret is the bearer token in `Authorization`.
    Bearer,
    /// All secrets go into the JSON body. In gRPC calls they go into messages; without a field for them, gRPC calls are
    /// refused. In YAML the field is a key of its own.
    Skill(#[serde(skip)] Option<ProtobufSecrets>),
    /// Each injection of the server names its own place. The messages are those that get the secrets of protobuf
    /// injections; in YAML they are a key of its own.
    Custom(#[serde(skip)] ProtobufMessages),
}

/// The place of secrets in the messages of a gRPC call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtobufSecrets {
    /// A field of type `map<string, string>`.
    pub field: FieldNumber,
    pub messages: ProtobufMessages,
}

/// The messages of a gRPC request that get secrets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProtobufMessages {
    #[default]
    First,
    /// The vault decrypts the secrets again for each message.
    All,
}

/// The number of a protobuf field: 1 to 536,870,911, except 19,000 to 19,999.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldNumber(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the number of a field is 1 to {LAST_FIELD}, and not 19000 to 19999")]
pub struct NotAFieldNumber;

impl FieldNumber {
    pub fn parse(number: u32) -> Result<Self, NotAFieldNumber> {
        match number {
            1..=LAST_FIELD if !RESERVED_FIELDS.contains(&number) => Ok(Self(number)),
            _ => Err(NotAFieldNumber),
        }
    }

    pub fn get(self) -> u32 {
        self.0
    }
}

/// One place in the requests of a server, and the secrets that go there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    /// Refuses calls while one of the secrets does not exist. An injection that is not required is left out then.
    pub required: bool,
    pub placement: Placement,
}

/// A place in a request. The injector owns the place: whatever the program sends there is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// A header. In gRPC calls, the value of a header whose name ends in `-bin` is base64.
    Header { name: HeaderName, value: Template },
    /// The header `Authorization: Basic …` (RFC 7617).
    Basic { username: Template, password: Template },
    /// A parameter of the query.
    Query { name: String, value: Template },
    /// `${NAME}` in the path of the server's URL.
    Path { secret: SecretName },
    /// A cookie of the header `Cookie`.
    Cookie { name: String, value: Template },
    /// A member of the JSON body. For the auth type skill, the pointers are `/secrets/NAME`, and the injector replaces the
    /// whole member `secrets`.
    Json { pointer: JsonPointer, value: Template },
    /// A field of a body with the type `application/x-www-form-urlencoded`.
    Form { field: String, value: Template },
    /// An entry of a `map<string, string>` field of the gRPC messages. The injector replaces the whole field.
    Protobuf {
        field: FieldNumber,
        key: String,
        value: Template,
    },
}

/// A secret that one or more injections name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NamedSecret<'s> {
    pub name: &'s SecretName,
    /// True when one of the injections is required.
    pub required: bool,
}

/// Returns the secrets that `injections` name, each once, in the order in which they are first named.
pub(crate) fn distinct_secrets<'s>(
    injections: impl IntoIterator<Item = &'s Injection>,
) -> Vec<NamedSecret<'s>> {
    let mut secrets: Vec<NamedSecret<'_>> = Vec::new();
    for injection in injections {
        for name in injection.secrets() {
            match secrets.iter_mut().find(|secret| secret.name == name) {
                Some(secret) => secret.required |= injection.required,
                None => secrets.push(NamedSecret {
                    name,
                    required: injection.required,
                }),
            }
        }
    }
    secrets
}

impl Injection {
    /// Returns the secrets that go to the place, in order, as often as the injection names them.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        self.placement.secrets()
    }
}

impl Placement {
    /// Returns the secrets that go to the place, in order, as often as the placement names them.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        let (templates, secret) = match self {
            Placement::Header { name: _, value }
            | Placement::Query { name: _, value }
            | Placement::Cookie { name: _, value }
            | Placement::Json { pointer: _, value }
            | Placement::Form { field: _, value }
            | Placement::Protobuf {
                field: _,
                key: _,
                value,
            } => ([Some(value), None], None),
            Placement::Basic { username, password } => ([Some(username), Some(password)], None),
            Placement::Path { secret } => ([None, None], Some(secret)),
        };
        let named = templates.into_iter().flatten().flat_map(Template::secrets);
        named.chain(secret)
    }
}

impl AuthType {
    /// Returns the injections of `secret` for a server with this auth type. The auth type custom gives no secret a place.
    pub(crate) fn injections(self, secret: &SecretName, required: bool) -> Vec<Injection> {
        let value = Template::of(secret.clone());
        let placements = match self {
            Self::SecretHeaders => vec![Placement::Header {
                name: secret_header(secret),
                value,
            }],
            Self::Bearer => vec![Placement::Header {
                name: header::AUTHORIZATION,
                value: Template::after("Bearer ", secret.clone()),
            }],
            Self::Skill(protobuf) => {
                let message = protobuf.map(|ProtobufSecrets { field, messages: _ }| Placement::Protobuf {
                    field,
                    key: secret.to_string(),
                    value: value.clone(),
                });
                let pointer = JsonPointer::to_member(SECRETS_MEMBER, secret.as_str());
                let member = Placement::Json { pointer, value };
                std::iter::once(member).chain(message).collect()
            }
            Self::Custom(_) => Vec::new(),
        };
        let injection = |placement| Injection { required, placement };
        placements.into_iter().map(injection).collect()
    }
}

/// Returns `x-mcp-secret-github-token` for `GITHUB_TOKEN`. HTTP/2 requires header names in lower case.
fn secret_header(secret: &SecretName) -> HeaderName {
    let name = format!(
        "{SECRET_HEADER}{}",
        secret.as_str().replace('_', "-").to_ascii_lowercase()
    );
    HeaderName::from_lowercase(name.as_bytes())
        .expect("a secret's name has only letters, digits and `_`, which are legal in a header's name")
}

/// Returns true when a gRPC call sends this header's value in base64.
pub(crate) fn is_binary_metadata(name: &HeaderName) -> bool {
    name.as_str().ends_with("-bin")
}

impl Placement {
    /// Returns true for a place in the body of a request.
    pub(crate) fn is_in_body(&self) -> bool {
        match self {
            Self::Json { .. } | Self::Form { .. } | Self::Protobuf { .. } => true,
            Self::Header { .. }
            | Self::Basic { .. }
            | Self::Query { .. }
            | Self::Path { .. }
            | Self::Cookie { .. } => false,
        }
    }

    /// Returns true for a place in the messages of gRPC calls.
    pub(crate) fn is_in_messages(&self) -> bool {
        match self {
            Self::Protobuf { .. } => true,
            Self::Header { .. }
            | Self::Basic { .. }
            | Self::Query { .. }
            | Self::Path { .. }
            | Self::Cookie { .. }
            | Self::Json { .. }
            | Self::Form { .. } => false,
        }
    }

    /// Returns the reason why the place cannot hold a value of `secret` with these facts. A place that does not name the
    /// secret has no fault. Binary metadata counts as a fit place when the value is legal for gRPC calls alone.
    pub(crate) fn fault(&self, secret: &SecretName, facts: &ValueFacts) -> Option<ValueFault> {
        if !self.secrets().any(|named| named == secret) {
            return None;
        }
        match self {
            Self::Header { name, value: _ } if is_binary_metadata(name) => {
                facts.header_fault().filter(|_| facts.metadata_fault().is_some())
            }
            Self::Header { .. } => facts.header_fault(),
            Self::Basic {
                username,
                password: _,
            } if username.secrets().any(|named| named == secret) => facts.basic_username_fault(),
            Self::Basic { .. } => facts.basic_password_fault(),
            Self::Query { .. } => facts.query_fault(),
            Self::Path { .. } => facts.path_fault(),
            Self::Cookie { .. } => facts.cookie_fault(),
            Self::Json { .. } | Self::Form { .. } | Self::Protobuf { .. } => facts.text_fault(),
        }
    }
}

impl AuthType {
    /// Describes the place of `secret` for `ExplainInjection`, with the calls to which the place is limited. Returns `None`
    /// for the auth type custom, whose placements describe themselves.
    pub(crate) fn explain(self, secret: &SecretName, calls: &BodyCalls) -> Option<String> {
        match self {
            Self::SecretHeaders => Some(format!("header {}", secret_header(secret))),
            Self::Bearer => Some("header authorization: Bearer".to_owned()),
            Self::Skill(None) => Some(json_member(secret, calls)),
            Self::Skill(Some(ProtobufSecrets { field, messages: _ })) => {
                let (json, field) = (json_member(secret, calls), field.get());
                let methods = listed(&calls.grpc_methods);
                Some(format!(
                    "{json}; in gRPC message field {field} entry {secret}, of {methods}"
                ))
            }
            Self::Custom(_) => None,
        }
    }
}

impl Placement {
    /// Describes the place for `ExplainInjection`, with the calls to which the place is limited. The text has names of
    /// secrets, and never a value.
    pub(crate) fn explain(&self, calls: &BodyCalls) -> String {
        match self {
            Self::Header { name, value } => format!("header {name}: {value}"),
            Self::Basic { .. } => "basic authentication".to_owned(),
            Self::Query { name, value: _ } => format!("query parameter {name}"),
            Self::Path { secret } => format!("path variable {secret}"),
            Self::Cookie { name, value: _ } => format!("cookie {name}"),
            Self::Json { pointer, value: _ } => limited(format!("JSON body at {pointer}"), &calls.paths),
            Self::Form { field, value: _ } => limited(format!("form field {field}"), &calls.paths),
            Self::Protobuf { field, key, value: _ } => {
                let place = format!("gRPC message field {} entry {key}", field.get());
                limited(place, &calls.grpc_methods)
            }
        }
    }
}

fn json_member(secret: &SecretName, calls: &BodyCalls) -> String {
    limited(format!("body member secrets.{secret}"), &calls.paths)
}

/// Adds to the description of a place the calls to which it is limited, if any are listed.
fn limited(place: String, patterns: &[impl ToString]) -> String {
    match patterns {
        [] => place,
        patterns => format!("{place}, of {}", listed(patterns)),
    }
}

fn listed(patterns: &[impl ToString]) -> String {
    let patterns: Vec<_> = patterns.iter().map(ToString::to_string).collect();
    patterns.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_one_header() {
        for (name, header) in [
            ("GITHUB_TOKEN", "x-mcp-secret-github-token"),
            ("_A__9_", "x-mcp-secret--a--9-"),
        ] {
            let secret = SecretName::parse(name).unwrap();
            let placement = Placement::Header {
                name: HeaderName::from_static(header),
                value: Template::of(secret.clone()),
            };
            let injections = AuthType::SecretHeaders.injections(&secret, true);
            assert_eq!(
                injections,
                [Injection {
                    required: true,
                    placement
                }]
            );
        }
    }

    #[test]
    fn a_secret_is_required_when_one_of_its_injections_is() {
        let injection = |value: &str, required| Injection {
            required,
            placement: Placement::Header {
                name: HeaderName::from_static("x-key"),
                value: Template::parse(value).unwrap(),
            },
        };
        let basic = Injection {
            required: false,
            placement: Placement::Basic {
                username: Template::parse("${D}").unwrap(),
                password: Template::parse("${A}").unwrap(),
            },
        };
        let injections = [injection("${B} ${A}", false), injection("${C}${A}", true), basic];
        let secrets = distinct_secrets(&injections);
        let secrets: Vec<_> = secrets
            .iter()
            .map(|secret| (secret.name.as_str(), secret.required))
            .collect();
        assert_eq!(secrets, [("B", false), ("A", true), ("C", true), ("D", false)]);
    }

    #[test]
    fn a_field_has_a_number_that_a_proto_file_could_give_it() {
        for (number, is_one) in [
            (0, false),
            (1, true),
            (18_999, true),
            (19_000, false),
            (19_999, false),
            (20_000, true),
            (536_870_911, true),
            (536_870_912, false),
            (u32::MAX, false),
        ] {
            assert_eq!(FieldNumber::parse(number).is_ok(), is_one, "{number}");
        }
    }
}
