//! The places in a request to which values of secrets go.

use http::HeaderName;
use proto::{SecretName, ValueFault, vault::v1::ValueFacts};
use serde::{Deserialize, Serialize};

use crate::body_calls::BodyCalls;

/// The prefix of the headers that carry secrets.
const SECRET_HEADER: &str = "x-mcp-secret-";

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

/// The place of one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// The value of this header.
    Header(HeaderName),
    /// The header `Authorization: Bearer {value}`.
    Bearer,
    /// An entry of the member `secrets` of the JSON body, or of this field of a gRPC message.
    Body(Option<FieldNumber>),
    /// The TLS handshake with the upstream, for which the value is a certificate with its key. No part of the request.
    ClientCertificate,
}

impl AuthType {
    pub(crate) fn place(self, secret: &SecretName) -> Placement {
        match self {
            Self::SecretHeaders => Placement::Header(secret_header(secret)),
            Self::Bearer => Placement::Bearer,
            Self::Skill(protobuf) => Placement::Body(protobuf.map(|protobuf| protobuf.field)),
        }
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
    /// Returns the reason why the place cannot hold a value with these facts. Binary metadata counts as a fit place when
    /// the value is legal for gRPC calls alone.
    pub(crate) fn fault(&self, facts: &ValueFacts) -> Option<ValueFault> {
        match self {
            Self::Header(name) if is_binary_metadata(name) => {
                facts.header_fault().filter(|_| facts.metadata_fault().is_some())
            }
            Self::Header(_) | Self::Bearer => facts.header_fault(),
            Self::Body(_) => facts.text_fault(),
            Self::ClientCertificate => facts.pem_fault(),
        }
    }

    /// Describes the place of `secret` for `ExplainInjection`, with the calls to which it is limited.
    pub(crate) fn explain(&self, secret: &SecretName, calls: &BodyCalls) -> String {
        match self {
            Self::Header(name) => format!("header {name}"),
            Self::Bearer => "header authorization: Bearer".to_owned(),
            Self::ClientCertificate => "client certificate of the TLS connection".to_owned(),
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
