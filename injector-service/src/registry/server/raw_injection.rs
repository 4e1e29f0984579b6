//! The description of an injection before it is checked, and its YAML form.

use http::HeaderName;
use proto::SecretName;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, Unexpected},
};

use super::error::{InjectionError, MAX_PLACE_NAME};
use crate::{
    header_rules,
    json_pointer::JsonPointer,
    placement::{FieldNumber, Injection, Placement},
    template::Template,
};

/// An entry of `injections`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(into = "InjectionFields")]
pub(crate) struct RawInjection {
    pub(super) required: bool,
    pub(super) placement: RawPlacement,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum RawPlacement {
    /// The server's `auth_type` decides the place of this secret.
    Secret(String),
    Header(RawNamedValue),
    Basic(RawBasic),
    Query(RawNamedValue),
    Path(RawPath),
    Cookie(RawNamedValue),
    Json(RawJson),
    Form(RawForm),
    Protobuf(RawProtobuf),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNamedValue {
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBasic {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) username: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) password: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPath {
    pub(super) variable: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJson {
    pub(super) pointer: String,
    pub(super) value: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawForm {
    pub(super) field: String,
    pub(super) value: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProtobuf {
    pub(super) field: u32,
    /// Empty for the name of the only secret of the entry.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) key: String,
    pub(super) value: String,
}

/// The keys of an entry in YAML, exactly one of which is a place.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InjectionFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<RawNamedValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    basic: Option<RawBasic>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<RawNamedValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<RawPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cookie: Option<RawNamedValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    json: Option<RawJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    form: Option<RawForm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protobuf: Option<RawProtobuf>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    required: bool,
}

impl<'de> Deserialize<'de> for RawInjection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let InjectionFields {
            secret,
            header,
            basic,
            query,
            path,
            cookie,
            json,
            form,
            protobuf,
            required,
        } = InjectionFields::deserialize(deserializer)?;
        let places = [
            secret.map(RawPlacement::Secret),
            header.map(RawPlacement::Header),
            basic.map(RawPlacement::Basic),
            query.map(RawPlacement::Query),
            path.map(RawPlacement::Path),
            cookie.map(RawPlacement::Cookie),
            json.map(RawPlacement::Json),
            form.map(RawPlacement::Form),
            protobuf.map(RawPlacement::Protobuf),
        ];
        let mut places = places.into_iter().flatten();
        match (places.next(), places.next()) {
            (Some(placement), None) => Ok(Self { required, placement }),
            (None, _) => Err(D::Error::missing_field(
                "header, basic, query, path, cookie, json, form, protobuf or secret",
            )),
            (Some(_), Some(_)) => Err(D::Error::invalid_value(
                Unexpected::Map,
                &"only one of secret, header, basic, query, path, cookie, json, form and protobuf",
            )),
        }
    }
}

impl From<RawInjection> for InjectionFields {
    fn from(injection: RawInjection) -> Self {
        let RawInjection { required, placement } = injection;
        let mut fields = Self {
            required,
            ..Self::default()
        };
        match placement {
            RawPlacement::Secret(secret) => fields.secret = Some(secret),
            RawPlacement::Header(header) => fields.header = Some(header),
            RawPlacement::Basic(basic) => fields.basic = Some(basic),
            RawPlacement::Query(query) => fields.query = Some(query),
            RawPlacement::Path(path) => fields.path = Some(path),
            RawPlacement::Cookie(cookie) => fields.cookie = Some(cookie),
            RawPlacement::Json(json) => fields.json = Some(json),
            RawPlacement::Form(form) => fields.form = Some(form),
            RawPlacement::Protobuf(protobuf) => fields.protobuf = Some(protobuf),
        }
        fields
    }
}

impl RawInjection {
    /// Returns the entry of a secret whose place the auth type decides.
    pub(crate) fn of_secret(secret: String, required: bool) -> Self {
        Self {
            required,
            placement: RawPlacement::Secret(secret),
        }
    }

    pub(super) fn of(injection: &Injection) -> Self {
        let Injection { required, placement } = injection;
        Self {
            required: *required,
            placement: RawPlacement::of(placement),
        }
    }

    /// Returns true when the entry names its own place.
    pub(super) fn has_place(&self) -> bool {
        !matches!(self.placement, RawPlacement::Secret(_))
    }

    pub(super) fn parse(&self) -> Result<Injection, InjectionError> {
        let placement = self.placement.parse()?;
        // A URL lacks a part without the secret.
        let required = self.required || matches!(placement, Placement::Path { .. });
        let injection = Injection { required, placement };
        if injection.secrets().next().is_none() {
            return Err(InjectionError::NoSecret);
        }
        Ok(injection)
    }
}

impl RawPlacement {
    fn of(placement: &Placement) -> Self {
        let named = |name: &str, value: &Template| RawNamedValue {
            name: name.to_owned(),
            value: value.to_string(),
        };
        match placement {
            Placement::Header { name, value } => Self::Header(named(name.as_str(), value)),
            Placement::Basic { username, password } => Self::Basic(RawBasic {
                username: username.to_string(),
                password: password.to_string(),
            }),
            Placement::Query { name, value } => Self::Query(named(name, value)),
            Placement::Path { secret } => Self::Path(RawPath {
                variable: secret.to_string(),
            }),
            Placement::Cookie { name, value } => Self::Cookie(named(name, value)),
            Placement::Json { pointer, value } => Self::Json(RawJson {
                pointer: pointer.to_string(),
                value: value.to_string(),
            }),
            Placement::Form { field, value } => Self::Form(RawForm {
                field: field.clone(),
                value: value.to_string(),
            }),
            Placement::Protobuf { field, key, value } => Self::Protobuf(RawProtobuf {
                field: field.get(),
                key: key.clone(),
                value: value.to_string(),
            }),
        }
    }

    fn parse(&self) -> Result<Placement, InjectionError> {
        Ok(match self {
            Self::Secret(_) => return Err(InjectionError::NoPlace),
            Self::Header(RawNamedValue { name, value }) => Placement::Header {
                name: header_name(name)?,
                value: header_value(value)?,
            },
            Self::Basic(RawBasic { username, password }) => Placement::Basic {
                username: basic_username(username)?,
                password: template("basic.password", password)?,
            },
            Self::Query(RawNamedValue { name, value }) => Placement::Query {
                name: place_name("query.name", name)?,
                value: template("query.value", value)?,
            },
            Self::Path(RawPath { variable }) => Placement::Path {
                secret: SecretName::parse(variable).map_err(InjectionError::PathVariable)?,
            },
            Self::Cookie(RawNamedValue { name, value }) => Placement::Cookie {
                name: cookie_name(name)?,
                value: cookie_value(value)?,
            },
            Self::Json(RawJson { pointer, value }) => Placement::Json {
                pointer: JsonPointer::parse(pointer)?,
                value: template("json.value", value)?,
            },
            Self::Form(RawForm { field, value }) => Placement::Form {
                field: place_name("form.field", field)?,
                value: template("form.value", value)?,
            },
            Self::Protobuf(RawProtobuf { field, key, value }) => {
                let value = template("protobuf.value", value)?;
                Placement::Protobuf {
                    field: FieldNumber::parse(*field)?,
                    key: map_key(key, &value)?,
                    value,
                }
            }
        })
    }
}

fn template(field: &'static str, text: &str) -> Result<Template, InjectionError> {
    Template::parse(text).map_err(|error| InjectionError::Template(field, error))
}

fn header_name(name: &str) -> Result<HeaderName, InjectionError> {
    let name = HeaderName::try_from(name).map_err(|_| InjectionError::HeaderName)?;
    match header_rules::may_be_injected(&name) {
        true => Ok(name),
        false => Err(InjectionError::ReservedHeader),
    }
}

/// Refuses outer spaces, because recipients remove them (RFC 9110, section 5.5).
fn header_value(text: &str) -> Result<Template, InjectionError> {
    match text.starts_with(' ') || text.ends_with(' ') {
        true => Err(InjectionError::OuterSpace),
        false => template("header.value", text),
    }
}

fn basic_username(text: &str) -> Result<Template, InjectionError> {
    let template = template("basic.username", text)?;
    let has_colon = template.texts().any(|text| text.contains(':'));
    match has_colon {
        true => Err(InjectionError::UsernameColon),
        false => Ok(template),
    }
}

/// Refuses a name that is no token (RFC 6265, section 4.1.1). The names of headers are tokens too.
fn cookie_name(name: &str) -> Result<String, InjectionError> {
    match name.len() <= MAX_PLACE_NAME && HeaderName::try_from(name).is_ok() {
        true => Ok(name.to_owned()),
        false => Err(InjectionError::CookieName),
    }
}

fn cookie_value(text: &str) -> Result<Template, InjectionError> {
    let template = template("cookie.value", text)?;
    let is_legal = |text: &str| !text.contains([' ', ',', ';', '"', '\\']);
    let all_legal = template.texts().all(is_legal);
    match all_legal {
        true => Ok(template),
        false => Err(InjectionError::CookieText),
    }
}

/// Returns the key of an entry in a map. An entry without a key has the name of its secret.
fn map_key(key: &str, value: &Template) -> Result<String, InjectionError> {
    if !key.is_empty() {
        return place_name("protobuf.key", key);
    }
    let mut secrets = value.secrets();
    let first = secrets.next().ok_or(InjectionError::NoSecret)?;
    match secrets.all(|name| name == first) {
        true => Ok(first.to_string()),
        false => Err(InjectionError::MapKey),
    }
}

fn place_name(field: &'static str, name: &str) -> Result<String, InjectionError> {
    match (1..=MAX_PLACE_NAME).contains(&name.len()) && !name.chars().any(char::is_control) {
        true => Ok(name.to_owned()),
        false => Err(InjectionError::PlaceName(field)),
    }
}
