//! Puts the values of secrets into a request.
//!
//! [`RequestSecrets::new`] brings every value into the form that its place requires, or refuses the whole call. The
//! code of this module is pure: it never waits, dials or logs. `crate::header_rules` has removed the fields that a
//! program must not send before [`RequestSecrets::insert`] adds the injector's own.

mod basic;
mod client_certificate;
mod cookie;
pub mod form;
mod head;
mod header;
pub mod json;
pub(crate) mod parameter_name;
pub mod protobuf;
mod render;
pub(crate) mod request_target;
mod resolved_secrets;
mod text_value;

use http::{HeaderMap, HeaderName, HeaderValue};
use proto::{Reason, Refusal};

use crate::{
    dialect::Dialect,
    placement::{AuthType, FieldNumber, Injection, Placement, ProtobufSecrets},
    template::Template,
};
pub use client_certificate::client_certificate;
use head::HeadSecrets;
use json::SecretsObject;
use protobuf::SecretEntries;
pub use resolved_secrets::{ResolvedSecret, ResolvedSecrets};

/// The secrets of one request, in the form in which they go into its headers and its body.
pub struct RequestSecrets<'v> {
    head: HeadSecrets<'v>,
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

impl<'v> RequestSecrets<'v> {
    /// Puts the values of `secrets` into the form that the places of `injections` require. Leaves out an injection with a
    /// secret that does not exist. Fails when one value does not fit its place.
    pub fn new(
        body: BodyPlacement,
        dialect: Dialect,
        injections: &'v [Injection],
        secrets: &'v ResolvedSecrets<'_>,
    ) -> Result<Self, Refusal> {
        let head = HeadSecrets::new(dialect, injections, secrets)?;
        let body = match body {
            BodyPlacement::None => BodySecrets::None,
            BodyPlacement::Json => BodySecrets::Json(secrets_object(injections, secrets)?),
            BodyPlacement::Protobuf(ProtobufSecrets { field, messages: _ }) => {
                BodySecrets::Protobuf(message_entries(field, injections, secrets)?)
            }
        };
        Ok(Self { head, body })
    }

    /// Inserts the header fields, in place of any that are present, adds the cookies, and returns the secrets for the
    /// body. `placeholder` may return a placeholder to insert instead of the value of a field.
    pub fn insert(
        self,
        headers: &mut HeaderMap,
        placeholder: impl FnMut(&HeaderName, &[u8]) -> Option<HeaderValue>,
    ) -> Result<BodySecrets, Refusal> {
        self.head.insert(headers, placeholder)?;
        Ok(self.body)
    }
}

fn secrets_object(injections: &[Injection], secrets: &ResolvedSecrets<'_>) -> Result<SecretsObject, Refusal> {
    let members = injections
        .iter()
        .filter_map(|injection| match &injection.placement {
            Placement::Json { pointer, value } => body_value(pointer.tokens().next_back()?, value, secrets),
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

fn not_text(secret: &str, place: &str) -> Refusal {
    let message = format!("secret {secret}: its value is not UTF-8, so it cannot be {place}");
    Refusal::new(Reason::SecretValueNotPlaceable, message)
}

#[cfg(test)]
mod tests;
