//! Puts the values of secrets into a request.
//!
//! [`RequestSecrets::new`] brings every value into the form that its place requires, or refuses the whole call. The
//! code of this module is pure: it never waits, dials or logs. `crate::header_rules` has removed the fields that a
//! program must not send before [`RequestSecrets::insert`] adds the injector's own.

mod client_certificate;
pub mod json;
pub mod protobuf;
mod resolved_secrets;
mod text_value;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use proto::{Reason, Refusal, SecretName, ValueFault, value_facts::MAX_HEADER_VALUE, vault::v1::ValueFacts};
use zeroize::Zeroizing;

use crate::{
    dialect::Dialect,
    placement::{AuthType, FieldNumber, Injection, Placement, ProtobufSecrets, is_binary_metadata},
    template::{Part, Template},
};
pub use client_certificate::client_certificate;
use json::SecretsObject;
use protobuf::SecretEntries;
pub use resolved_secrets::{ResolvedSecret, ResolvedSecrets};

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
            (AuthType::SecretHeaders | AuthType::Bearer | AuthType::Custom(_), _) => Ok(Self::None),
            (AuthType::Skill(_), Dialect::Http) => Ok(Self::Json),
            (AuthType::Skill(Some(protobuf)), Dialect::Grpc) => Ok(Self::Protobuf(protobuf)),
            (AuthType::Skill(None), Dialect::Grpc) => Err(Refusal::new(
                Reason::BodyTypeUnsupported,
                "this server gets its secrets in a JSON body; to be called by gRPC it needs a protobuf_secrets_field",
            )),
        }
    }

    /// Returns true when a request with this body carries the secrets of `placement`.
    pub fn carries(&self, placement: &Placement) -> bool {
        match placement {
            Placement::Header { .. }
            | Placement::Basic { .. }
            | Placement::Query { .. }
            | Placement::Path { .. }
            | Placement::Cookie { .. } => true,
            Placement::Json { .. } => matches!(self, Self::Json),
            Placement::Protobuf { .. } => matches!(self, Self::Protobuf(_)),
            Placement::Form { .. } => false,
        }
    }
}

impl RequestSecrets {
    /// Puts the values of `secrets` into the form that the places of `injections` require. Leaves out an injection with a
    /// secret that does not exist. Fails when one value does not fit its place.
    pub fn new(
        body: BodyPlacement,
        dialect: Dialect,
        injections: &[Injection],
        secrets: &ResolvedSecrets<'_>,
    ) -> Result<Self, Refusal> {
        let mut headers = Vec::new();
        for Injection {
            required: _,
            placement,
        } in injections
        {
            match placement {
                Placement::Header { name, value } => {
                    let value = header_value(name, dialect, value, secrets)?;
                    headers.extend(value.map(|value| (name.clone(), value)));
                }
                Placement::Basic { .. }
                | Placement::Query { .. }
                | Placement::Path { .. }
                | Placement::Cookie { .. }
                | Placement::Json { .. }
                | Placement::Form { .. }
                | Placement::Protobuf { .. } => {}
            }
        }
        let body = match body {
            BodyPlacement::None => BodySecrets::None,
            BodyPlacement::Json => BodySecrets::Json(secrets_object(injections, secrets)?),
            BodyPlacement::Protobuf(ProtobufSecrets { field, messages: _ }) => {
                BodySecrets::Protobuf(message_entries(field, injections, secrets)?)
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

fn secrets_object(injections: &[Injection], secrets: &ResolvedSecrets<'_>) -> Result<SecretsObject, Refusal> {
    let members = injections
        .iter()
        .filter_map(|injection| match &injection.placement {
            Placement::Json { pointer, value } => body_value(pointer.tokens().last()?, value, secrets),
            _ => None,
        });
    SecretsObject::new(members).map_err(|error| not_text(&error.name, "a JSON string"))
}

/// Returns the entries of the map field `field` for one gRPC message.
pub fn message_entries(
    field: FieldNumber,
    injections: &[Injection],
    secrets: &ResolvedSecrets<'_>,
) -> Result<SecretEntries, Refusal> {
    let entries = injections
        .iter()
        .filter_map(|injection| match &injection.placement {
            Placement::Protobuf { field: _, key, value } => body_value(key, value, secrets),
            _ => None,
        });
    SecretEntries::new(field, entries).map_err(|error| not_text(&error.name, "a protobuf string"))
}

/// Returns the entry `name` of a body with the only secret of a template.
fn body_value<'s>(
    name: &'s str,
    template: &'s Template,
    secrets: &'s ResolvedSecrets<'_>,
) -> Option<(&'s str, &'s [u8])> {
    let value = secrets.value(template.secrets().next()?)?;
    Some((name, value.expose()))
}

/// Returns the value of a header, or `None` when one of its secrets does not exist. In gRPC, a header whose name ends in
/// `-bin` is binary metadata, whose value is base64.
fn header_value(
    name: &HeaderName,
    dialect: Dialect,
    template: &Template,
    secrets: &ResolvedSecrets<'_>,
) -> Result<Option<Zeroizing<Vec<u8>>>, Refusal> {
    let is_binary = dialect == Dialect::Grpc && is_binary_metadata(name);
    let mut pieces: Vec<&[u8]> = Vec::with_capacity(template.parts().len());
    for part in template.parts() {
        pieces.push(match part {
            Part::Text(text) => text.as_bytes(),
            Part::Secret(secret) => {
                let Some(value) = secrets.value(secret) else {
                    return Ok(None);
                };
                if !is_binary {
                    // Checked without the text of the template, because the limit applies to the secret's value.
                    check_legal(secret, value.expose())?;
                }
                value.expose()
            }
        });
    }
    let mut value = Zeroizing::new(Vec::with_capacity(pieces.iter().map(|piece| piece.len()).sum()));
    pieces.iter().for_each(|piece| value.extend_from_slice(piece));
    if is_binary {
        value = Zeroizing::new(STANDARD_NO_PAD.encode(&*value).into_bytes());
        if let Some(secret) = template.secrets().next() {
            check_legal(secret, &value)?;
        }
    }
    Ok(Some(value))
}

/// Refuses a value that some server would not read unchanged from a header field.
fn check_legal(secret: &SecretName, value: &[u8]) -> Result<(), Refusal> {
    match ValueFacts::of(value).header_fault() {
        None => Ok(()),
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
