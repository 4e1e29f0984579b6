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
use proto::{Reason, Refusal, vault::v1::ValueFacts};

use crate::{
    dialect::Dialect,
    placement::{AuthType, Injection, Placement, ProtobufMessages, ProtobufSecrets},
    template::Template,
};
pub use client_certificate::client_certificate;
use form::FormFields;
use head::HeadSecrets;
use json::{JsonMembers, JsonString, SecretsObject};
use protobuf::SecretEntries;
use render::FilledTemplate;
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
    /// Members of a JSON object and of the objects in it.
    Members(JsonMembers),
    /// The fields of a form.
    Form(FormFields),
    /// Entries of the map fields in a protobuf message.
    Protobuf(SecretEntries),
}

/// The way in which the body of a request carries secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyPlacement {
    None,
    /// The body is one JSON object, which gets the member `secrets`.
    Json,
    /// The body is one JSON object, which gets members at JSON Pointers. `or_form` is true when the server takes forms as
    /// well, so that a body of another type may be either.
    Members {
        or_form: bool,
    },
    /// The body is a form (`application/x-www-form-urlencoded`).
    Form,
    /// The body consists of gRPC messages, some of which get entries in map fields.
    Protobuf(ProtobufMessages),
}

impl BodyPlacement {
    /// Returns the placement for calls of a server with these settings. `is_form` is true when the request has a form. A
    /// body of another type than the placement needs is refused when the body is read.
    pub fn of(
        auth_type: AuthType,
        injections: &[Injection],
        dialect: Dialect,
        is_form: bool,
    ) -> Result<Self, Refusal> {
        match (auth_type, dialect) {
            (AuthType::SecretHeaders | AuthType::Bearer, _) => Ok(Self::None),
            (AuthType::Skill(_), Dialect::Http) => Ok(Self::Json),
            (AuthType::Skill(Some(ProtobufSecrets { field: _, messages })), Dialect::Grpc) => {
                Ok(Self::Protobuf(messages))
            }
            (AuthType::Skill(None), Dialect::Grpc) => Err(not_for_grpc("a protobuf_secrets_field")),
            (AuthType::Custom(_), Dialect::Http) => Ok(Self::of_http_body(injections, is_form)),
            (AuthType::Custom(messages), Dialect::Grpc) => Self::of_messages(messages, injections),
        }
    }

    fn of_http_body(injections: &[Injection], is_form: bool) -> Self {
        let mut places = injections.iter().map(|injection| &injection.placement);
        let has_json = places
            .clone()
            .any(|place| matches!(place, Placement::Json { .. }));
        let has_form = places.any(|place| matches!(place, Placement::Form { .. }));
        match (has_json, has_form) {
            (false, false) => Self::None,
            (false, true) => Self::Form,
            (true, true) if is_form => Self::Form,
            (true, or_form) => Self::Members { or_form },
        }
    }

    fn of_messages(messages: ProtobufMessages, injections: &[Injection]) -> Result<Self, Refusal> {
        let mut places = injections.iter().map(|injection| &injection.placement);
        let mut in_bodies = places.clone().filter(|place| place.is_in_body());
        if places.any(Placement::is_in_messages) {
            return Ok(Self::Protobuf(messages));
        }
        match in_bodies.next() {
            None => Ok(Self::None),
            Some(_) => Err(not_for_grpc("an injection into a protobuf field")),
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
            Placement::Json { .. } => matches!(self, Self::Json | Self::Members { .. }),
            Placement::Protobuf { .. } => matches!(self, Self::Protobuf(_)),
            Placement::Form { .. } => matches!(self, Self::Form),
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
            BodyPlacement::Members { or_form: _ } => BodySecrets::Members(json_members(injections, secrets)?),
            BodyPlacement::Form => BodySecrets::Form(form_fields(injections, secrets)?),
            BodyPlacement::Protobuf(_) => BodySecrets::Protobuf(message_entries(injections, secrets)?),
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
    SecretsObject::new(members).map_err(|error| not_text(&error.name))
}

fn json_members(injections: &[Injection], secrets: &ResolvedSecrets<'_>) -> Result<JsonMembers, Refusal> {
    let mut members = Vec::new();
    for injection in injections {
        if let Placement::Json { pointer, value } = &injection.placement {
            let value = texts(value, secrets, "be a JSON string")?;
            members.push((pointer, value.map(|texts| JsonString::concat(&texts))));
        }
    }
    JsonMembers::new(members).map_err(|error| Refusal::new(Reason::Internal, error))
}

fn form_fields(injections: &[Injection], secrets: &ResolvedSecrets<'_>) -> Result<FormFields, Refusal> {
    let mut fields = Vec::new();
    for injection in injections {
        if let Placement::Form { field, value } = &injection.placement {
            fields.push((field.as_str(), texts(value, secrets, "be a form field")?));
        }
    }
    Ok(FormFields::new(fields))
}

/// Returns the texts and values of a template, or `None` when one of its secrets does not exist. Fails when a value is no
/// text; `place` completes "it cannot …".
fn texts<'s>(
    template: &'s Template,
    secrets: &'s ResolvedSecrets<'_>,
    place: &str,
) -> Result<Option<Vec<&'s str>>, Refusal> {
    let Some(filled) = FilledTemplate::new(template, secrets) else {
        return Ok(None);
    };
    filled.check(place, |value| ValueFacts::of(value.expose()).text_fault())?;
    let texts: Result<_, _> = filled.pieces().map(str::from_utf8).collect();
    texts
        .map(Some)
        .map_err(|_| Refusal::new(Reason::Internal, "a value that is text is no text"))
}

/// Returns the entries of the map fields for one gRPC message.
pub fn message_entries(
    injections: &[Injection],
    secrets: &ResolvedSecrets<'_>,
) -> Result<SecretEntries, Refusal> {
    let mut entries = Vec::new();
    for injection in injections {
        if let Placement::Protobuf { field, key, value } = &injection.placement
            && let Some(value) = texts(value, secrets, "be a protobuf string")?
        {
            entries.push((*field, key.as_str(), value));
        }
    }
    Ok(SecretEntries::new(entries))
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

fn not_for_grpc(needed: &str) -> Refusal {
    let message =
        format!("this server gets its secrets in an HTTP body; to be called by gRPC it needs {needed}");
    Refusal::new(Reason::BodyTypeUnsupported, message)
}

fn not_text(secret: &str) -> Refusal {
    let message = format!("secret {secret}: its value is not UTF-8, so it cannot be a JSON string");
    Refusal::new(Reason::SecretValueNotPlaceable, message)
}

#[cfg(test)]
mod tests;
