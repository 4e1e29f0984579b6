//! Putting values into a request: pure, and all or nothing.
//!
//! [`inject`] puts every value in its place or refuses the whole call. `crate::header_rules` has removed the fields
//! that the downstream may not send. The code of this module never waits, dials or logs.

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

/// A secret as the vault answered for it.
pub struct Resolved<'s> {
    /// Which one.
    pub secret: &'s SecretName,
    /// Where its value goes.
    pub placement: &'s Placement,
    /// Its value, or none when the workspace has no such secret.
    pub value: Option<SecretValue>,
}

/// What is put into a request: complete, or there is none.
pub struct Injected {
    headers: Vec<(HeaderName, Zeroizing<Vec<u8>>)>,
    body: BodySecrets,
}

/// What belongs into a request's body.
pub enum BodySecrets {
    /// Nothing.
    None,
    /// A member of its JSON.
    Json(SecretsObject),
    /// A field of its messages.
    Protobuf(SecretEntries),
}

/// What of a request's body carries secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// Nothing.
    None,
    /// All of it, as JSON.
    Json,
    /// Its messages.
    Protobuf(ProtobufSecrets),
}

impl Carrier {
    /// What it is for the calls of a server.
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

/// Makes what a call carries, from everything that was resolved for it.
pub fn inject(carrier: Carrier, dialect: Dialect, resolved: &[Resolved<'_>]) -> Result<Injected, Refusal> {
    let mut headers = Vec::new();
    for Resolved {
        secret,
        placement,
        value,
    } in resolved
    {
        let Some(value) = value else { continue };
        match placement {
            Placement::Header(name) => {
                headers.push((name.clone(), secret_header(name, dialect, secret, value)?))
            }
            Placement::Bearer => headers.push((header::AUTHORIZATION, bearer(secret, value)?)),
            Placement::Body(_) => {}
        }
    }
    let body = match carrier {
        Carrier::None => BodySecrets::None,
        Carrier::Json => BodySecrets::Json(members(resolved)?),
        Carrier::Protobuf(ProtobufSecrets { field, messages: _ }) => {
            BodySecrets::Protobuf(entries(field, resolved)?)
        }
    };
    Ok(Injected { headers, body })
}

fn members(resolved: &[Resolved<'_>]) -> Result<SecretsObject, Refusal> {
    SecretsObject::new(for_the_body(resolved)).map_err(|error| not_text(&error.name, "a JSON string"))
}

/// Makes what one message carries.
pub fn entries(field: FieldNumber, resolved: &[Resolved<'_>]) -> Result<SecretEntries, Refusal> {
    SecretEntries::new(field, for_the_body(resolved))
        .map_err(|error| not_text(&error.name, "a protobuf string"))
}

fn for_the_body<'r>(resolved: &'r [Resolved<'_>]) -> impl Iterator<Item = (&'r str, &'r [u8])> {
    resolved.iter().filter_map(|resolved| match resolved.placement {
        Placement::Body(_) => Some((resolved.secret.as_str(), resolved.value.as_ref()?.expose())),
        Placement::Header(_) | Placement::Bearer => None,
    })
}

fn not_text(secret: &str, place: &str) -> Refusal {
    let message = format!("secret {secret}: its value is not UTF-8, so it cannot be {place}");
    Refusal::new(Reason::SecretValueNotPlaceable, message)
}

impl Injected {
    /// Inserts the headers, replaces any that are present, and returns the part that belongs into the body. `cover` may
    /// replace the value of a field by a stand-in.
    pub fn apply(
        self,
        request: &mut HeaderMap,
        mut cover: impl FnMut(&HeaderName, &[u8]) -> Option<HeaderValue>,
    ) -> Result<BodySecrets, Refusal> {
        for (name, value) in self.headers {
            let value = match cover(&name, &value) {
                Some(stand_in) => stand_in,
                None => sensitive(&value)?,
            };
            request.insert(name, value);
        }
        Ok(self.body)
    }
}

/// `X-Mcp-Secret-{NAME}: value`; to gRPC a name that ends in `-bin` is binary metadata, which is base64.
fn secret_header(
    name: &HeaderName,
    dialect: Dialect,
    secret: &SecretName,
    value: &SecretValue,
) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    if dialect == Dialect::Grpc && is_binary_metadata(name) {
        let encoded = Zeroizing::new(STANDARD_NO_PAD.encode(value.expose()).into_bytes());
        return legal(secret, encoded);
    }
    legal(secret, Zeroizing::new(value.expose().to_vec()))
}

fn bearer(secret: &SecretName, value: &SecretValue) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    // Checked alone first: the limit and the rule on outer spaces are the value's.
    let value = legal(secret, Zeroizing::new(value.expose().to_vec()))?;
    let mut text = Zeroizing::new(Vec::with_capacity(7 + value.len()));
    text.extend_from_slice(b"Bearer ");
    text.extend_from_slice(&value);
    Ok(text)
}

/// A value that every server reads as it was meant.
fn legal(secret: &SecretName, value: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    match ValueFacts::of(&value).header_fault() {
        None => Ok(value),
        Some(fault) => Err(not_for_a_header(secret, fault)),
    }
}

/// The value itself, as a header.
fn sensitive(value: &[u8]) -> Result<HeaderValue, Refusal> {
    let mut value = HeaderValue::from_bytes(value)
        .map_err(|_| Refusal::new(Reason::Internal, "a value that is legal in a header is not"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn not_for_a_header(secret: &SecretName, fault: ValueFault) -> Refusal {
    let message = format!(
        "secret {secret}: its value {fault}, so it cannot be a header, which takes 1 to {MAX_HEADER_VALUE} bytes of \
         printable ASCII without outer spaces"
    );
    Refusal::new(Reason::SecretValueNotPlaceable, message)
}

#[cfg(test)]
mod tests;
