//! Where in a request a secret's value goes.

use http::HeaderName;
use proto::{SecretName, ValueFault, vault::v1::ValueFacts};

use crate::body_calls::BodyCalls;

/// The prefix of the headers that carry secrets.
pub const SECRET_HEADER: &str = "x-mcp-secret-";

/// The most that the number of a field can be, and the numbers that protobuf keeps for itself.
const LAST_FIELD: u32 = (1 << 29) - 1;
const RESERVED_FIELDS: std::ops::RangeInclusive<u32> = 19_000..=19_999;

/// Where a server's secrets go, as its administrator chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthType {
    /// Each in a header of its own.
    SecretHeaders,
    /// The only one as a bearer token.
    Bearer,
    /// All in the body: in JSON, and where gRPC is spoken in the messages, if it is known where.
    Skill(Option<ProtobufSecrets>),
}

/// Where in the messages of a gRPC call secrets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtobufSecrets {
    /// A field of type `map<string, string>`.
    pub field: FieldNumber,
    /// In which messages.
    pub messages: Messages,
}

/// Which messages of a call's request get secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Messages {
    /// The first.
    First,
    /// Each, decrypted anew for each.
    All,
}

/// The number of a field: 1 to 536,870,911, but for 19,000 to 19,999.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldNumber(u32);

/// No field has this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the number of a field is 1 to {LAST_FIELD}, and not 19000 to 19999")]
pub struct NotAFieldNumber;

impl FieldNumber {
    /// Reads a number.
    pub fn parse(number: u32) -> Result<Self, NotAFieldNumber> {
        match number {
            1..=LAST_FIELD if !RESERVED_FIELDS.contains(&number) => Ok(Self(number)),
            _ => Err(NotAFieldNumber),
        }
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// Where one value goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// As the value of this header.
    Header(HeaderName),
    /// As `Authorization: Bearer {value}`.
    Bearer,
    /// As an entry of the JSON body's member `secrets`, or of this field of a gRPC message.
    Body(Option<FieldNumber>),
}

impl AuthType {
    /// Where a secret of this name goes.
    pub fn place(self, secret: &SecretName) -> Placement {
        match self {
            Self::SecretHeaders => Placement::Header(secret_header(secret)),
            Self::Bearer => Placement::Bearer,
            Self::Skill(protobuf) => Placement::Body(protobuf.map(|protobuf| protobuf.field)),
        }
    }
}

/// `GITHUB_TOKEN` as `x-mcp-secret-github-token`: names of headers go out in lower case, as HTTP/2 demands.
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
    /// Returns the reason why a value with these facts is refused in this place, or `None` when it is not. A value for
    /// binary metadata may be legal for gRPC calls alone; then it is not refused.
    pub(crate) fn fault(&self, facts: &ValueFacts) -> Option<ValueFault> {
        match self {
            Self::Header(name) if is_binary_metadata(name) => {
                facts.header_fault().filter(|_| facts.metadata_fault().is_some())
            }
            Self::Header(_) | Self::Bearer => facts.header_fault(),
            Self::Body(_) => facts.text_fault(),
        }
    }

    /// Describes the place of `secret` for `ExplainInjection`, with the calls that the place is limited to.
    pub(crate) fn explain(&self, secret: &SecretName, calls: &BodyCalls) -> String {
        match self {
            Self::Header(name) => format!("header {name}"),
            Self::Bearer => "header authorization: Bearer".to_owned(),
            Self::Body(None) => json_member(secret, calls),
            Self::Body(Some(field)) => {
                let (json, field) = (json_member(secret, calls), field.get());
                let methods = listed(&calls.grpc_methods);
                format!("{json}; in gRPC message field {field} entry {secret}, of {methods}")
            }
        }
    }
}

fn json_member(secret: &SecretName, calls: &BodyCalls) -> String {
    match calls.paths.as_slice() {
        [] => format!("body member secrets.{secret}"),
        paths => format!("body member secrets.{secret}, of {}", listed(paths)),
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
            let placement = AuthType::SecretHeaders.place(&SecretName::parse(name).unwrap());
            assert_eq!(placement, Placement::Header(HeaderName::from_static(header)));
        }
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
