//! Puts the values of secrets into a request.
//!
//! [`RequestSecrets::new`] brings every value into the form that its place requires, or refuses the whole call. The
//! code of this module is pure: it never waits, dials or logs. `crate::header_rules` has removed the fields that a
//! program must not send before [`RequestSecrets::insert`] adds the injector's own.

mod client_certificate;
pub mod json;
pub mod protobuf;
mod text_value;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use proto::{
    Reason, Refusal, SecretName, SecretValue, ValueFault, value_facts::MAX_HEADER_VALUE,
    vault::v1::ValueFacts,
};
use zeroize::Zeroizing;

use crate::{
    dialect::Dialect,
    placement::{AuthType, FieldNumber, Placement, ProtobufSecrets, is_binary_metadata},
};
pub use client_certificate::client_certificate;
use json::SecretsObject;
use protobuf::SecretEntries;

pub struct ResolvedSecret<'s> {
    pub secret: &'s SecretName,
    pub placement: &'s Placement,
    /// None when the workspace has no such secret.
    pub value: Option<SecretValue>,
}

/// The secrets of one request, in the form in which they go into its headers and its body.
pub struct RequestSecrets {
    headers: Vec<(HeaderName, Zeroizing<Vec<u8>>)>,
    body: BodySecrets,
}

/// The secrets that go into a request's body.
pub enum BodySecrets {
    None,
    /// The member `secrets` of a JSON object.
    Json(SecretsObject),
    /// The entries of a map field in a protobuf message.
    Protobuf(SecretEntries),
}

/// The way in which the body of a request carries secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyPlacement {
    None,
    /// The body is one JSON object.
    Json,
    /// The body consists of gRPC messages.
    Protobuf(ProtobufSecrets),
}

impl BodyPlacement {
    /// Returns the placement for calls of a server with `auth_type`.
    pub fn of(auth_type: AuthType, dialect: Dialect) -> Result<Self, Refusal> {
        match (auth_type, dialect) {
            (AuthType::SecretHeaders | AuthType::Bearer, _) => Ok(Self::None),
            (AuthType::Skill(_), Dialect::Http) => Ok(Self::Json),
            (AuthType::Skill(Some(protobuf)), Dialect::Grpc) => Ok(Self::Protobuf(protobuf)),
            (AuthType::Skill(None), Dialect::Grpc) => Err(Refusal::new(
                Reason::BodyTypeUnsupported,
                "this server gets its secrets in a JSON body; to be called by gRPC it needs a protobuf_secrets_field",
            )),
        }
    }
}

impl RequestSecrets {
    /// Takes the values of all secrets that exist. Fails when one value does not fit its place.
    pub fn new(
        body: BodyPlacement,
        dialect: Dialect,
        secrets: &[ResolvedSecret<'_>],
    ) -> Result<Self, Refusal> {
        let mut headers = Vec::new();
        for ResolvedSecret {
            secret,
            placement,
            value,
        } in secrets
        {
            let Some(value) = value else { continue };
            match placement {
                Placement::Header(name) => {
                    headers.push((name.clone(), header_value(name, dialect, secret, value)?))
                }
                Placement::Bearer => headers.push((header::AUTHORIZATION, bearer_value(secret, value)?)),
                Placement::Body(_) | Placement::ClientCertificate => {}
            }
        }
        let body = match body {
            BodyPlacement::None => BodySecrets::None,
            BodyPlacement::Json => BodySecrets::Json(secrets_object(secrets)?),
            BodyPlacement::Protobuf(ProtobufSecrets { field, messages: _ }) => {
                BodySecrets::Protobuf(message_entries(field, secrets)?)
            }
        };
        Ok(Self { headers, body })
    }

    /// Inserts the header fields, in place of any that are present, and returns the secrets for the body. `placeholder`
    /// may return a placeholder to insert instead of a value.
    pub fn insert(
        self,
        headers: &mut HeaderMap,
        mut placeholder: impl FnMut(&HeaderName, &[u8]) -> Option<HeaderValue>,
    ) -> Result<BodySecrets, Refusal> {
        for (name, value) in self.headers {
            let value = match placeholder(&name, &value) {
                Some(placeholder) => placeholder,
                None => sensitive(&value)?,
            };
            headers.insert(name, value);
        }
        Ok(self.body)
    }
}

fn secrets_object(secrets: &[ResolvedSecret<'_>]) -> Result<SecretsObject, Refusal> {
    SecretsObject::new(body_secrets(secrets)).map_err(|error| not_text(&error.name, "a JSON string"))
}

/// Returns the entries of the map field `field` for one gRPC message.
pub fn message_entries(field: FieldNumber, secrets: &[ResolvedSecret<'_>]) -> Result<SecretEntries, Refusal> {
    SecretEntries::new(field, body_secrets(secrets))
        .map_err(|error| not_text(&error.name, "a protobuf string"))
}

fn body_secrets<'s>(secrets: &'s [ResolvedSecret<'_>]) -> impl Iterator<Item = (&'s str, &'s [u8])> {
    secrets.iter().filter_map(|secret| match secret.placement {
        Placement::Body(_) => Some((secret.secret.as_str(), secret.value.as_ref()?.expose())),
        Placement::Header(_) | Placement::Bearer | Placement::ClientCertificate => None,
    })
}

/// Returns the value of an `X-Mcp-Secret-…` field. In gRPC, a field whose name ends in `-bin` is binary metadata, whose
/// value is base64.
fn header_value(
    name: &HeaderName,
    dialect: Dialect,
    secret: &SecretName,
    value: &SecretValue,
) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    if dialect == Dialect::Grpc && is_binary_metadata(name) {
        let encoded = Zeroizing::new(STANDARD_NO_PAD.encode(value.expose()).into_bytes());
        return check_legal(secret, encoded);
    }
    check_legal(secret, Zeroizing::new(value.expose().to_vec()))
}

fn bearer_value(secret: &SecretName, value: &SecretValue) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    // Checked without the prefix, because the limit and the rule on outer spaces apply to the secret's value.
    let value = check_legal(secret, Zeroizing::new(value.expose().to_vec()))?;
    let mut text = Zeroizing::new(Vec::with_capacity(7 + value.len()));
    text.extend_from_slice(b"Bearer ");
    text.extend_from_slice(&value);
    Ok(text)
}

/// Returns `value` if every server reads it unchanged from a header field.
fn check_legal(secret: &SecretName, value: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    match ValueFacts::of(&value).header_fault() {
        None => Ok(value),
        Some(fault) => Err(not_for_header(secret, fault)),
    }
}

fn sensitive(value: &[u8]) -> Result<HeaderValue, Refusal> {
    let mut value = HeaderValue::from_bytes(value)
        .map_err(|_| Refusal::new(Reason::Internal, "a value that is legal in a header is not"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn not_text(secret: &str, place: &str) -> Refusal {
    let message = format!("secret {secret}: its value is not UTF-8, so it cannot be {place}");
    Refusal::new(Reason::SecretValueNotPlaceable, message)
}

fn not_for_header(secret: &SecretName, fault: ValueFault) -> Refusal {
    let message = format!(
        "secret {secret}: its value {fault}, so it cannot be a header, which takes 1 to {MAX_HEADER_VALUE} bytes of \
         printable ASCII without outer spaces"
    );
    Refusal::new(Reason::SecretValueNotPlaceable, message)
}

#[cfg(test)]
mod tests;
