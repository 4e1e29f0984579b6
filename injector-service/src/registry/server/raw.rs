//! The description of a server before it is checked, and its YAML form.
//!
//! The servers file, the catalog and the requests of the API all become a [`RawServer`]. Its fields hold whatever was
//! written; [`RawServer::spec`] parses them, so each rule about a field exists once.

use serde::{Deserialize, Serialize};

use super::{
    Oauth, OnEcho, Protocol, Scrub, Server, Spec, UpstreamTls, UpstreamUrl, WebOrigin,
    error::{InjectionError, MAX_WEB_ORIGINS, SpecError},
    raw_injection::{RawInjection, RawPlacement},
    url_injections::{add_those_of_url, of_url},
    web_origin::NotAWebOrigin,
};
use crate::{
    body_calls::{BodyCalls, MAX_PATTERNS, MethodPattern, PathPattern},
    placement::{AuthType, FieldNumber, Injection, NamedSecret, ProtobufMessages, ProtobufSecrets},
};
use proto::{SecretName, distinct};

/// A server as an entry of the servers file describes it. The injector writes the last five fields; an entry that a
/// person wrote may lack them. A document about one workspace leaves out the workspace of its servers.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawServer {
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) workspace: String,
    pub(crate) name: String,
    pub(crate) url: String,
    /// Without one, the auth type is custom when an injection names its place, and `secret_headers` otherwise.
    #[serde(default)]
    pub(crate) auth_type: Option<AuthType>,
    #[serde(default)]
    pub(crate) injections: Vec<RawInjection>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) protocol: Protocol,
    /// The value 0 means that no field of a gRPC message gets secrets.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) protobuf_secrets_field: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) protobuf_messages: ProtobufMessages,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) grpc_methods: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) paths: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) tls: RawTls,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) allow_plaintext: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) allowed_origins: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) oauth: Oauth,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) scrub: Scrub,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) on_echo: OnEcho,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) description: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) uid: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) revision: Option<u64>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) create_time: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) update_time: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) workspace_uid: Option<String>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTls {
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) ca_pem: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) server_name: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) allow_bound_secrets: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) client_cert_secret: String,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl RawServer {
    /// Parses every field but those that identify the server. [`Spec::check`] must follow: it compares the fields with
    /// each other.
    pub(crate) fn spec(self) -> Result<Spec, SpecError> {
        let Self {
            workspace: _,
            name: _,
            url,
            auth_type,
            injections,
            protocol,
            protobuf_secrets_field,
            protobuf_messages,
            grpc_methods,
            paths,
            tls,
            allow_plaintext,
            allowed_origins,
            oauth,
            scrub,
            on_echo,
            description,
            uid: _,
            revision: _,
            create_time: _,
            update_time: _,
            workspace_uid: _,
        } = self;
        let url = UpstreamUrl::parse(&url)?;
        let has_places = injections.iter().any(RawInjection::has_place);
        let is_custom = has_places || injections.is_empty() && url.has_variables();
        let auth_type = auth_type.unwrap_or(match is_custom {
            true => AuthType::Custom(ProtobufMessages::First),
            false => AuthType::SecretHeaders,
        });
        let auth_type = parse_auth_type(auth_type, protobuf_secrets_field, protobuf_messages)?;
        Ok(Spec {
            injections: parse_injections(auth_type, &injections, &url)?,
            url,
            auth_type,
            body_calls: parse_body_calls(&paths, &grpc_methods)?,
            protocol,
            tls: tls.parse()?,
            allow_plaintext,
            allowed_origins: parse_web_origins(&allowed_origins)?,
            oauth,
            scrub,
            on_echo,
            description,
        })
    }

    /// Returns the description that parses to `server`.
    pub(crate) fn of(server: &Server) -> Self {
        let Server {
            workspace,
            name,
            uid,
            revision,
            create_time,
            update_time,
            workspace_uid,
            spec,
        } = server;
        Self {
            workspace: workspace.to_string(),
            name: name.to_string(),
            uid: Some(uid.to_string()),
            revision: Some(*revision),
            create_time: Some(create_time.to_string()),
            update_time: Some(update_time.to_string()),
            workspace_uid: workspace_uid.map(|uid| uid.to_string()),
            ..Self::of_spec(spec)
        }
    }

    /// Returns the description that parses to `spec`, without the fields that identify a server.
    pub(crate) fn of_spec(spec: &Spec) -> Self {
        let Spec {
            url,
            auth_type,
            injections,
            body_calls: BodyCalls { paths, grpc_methods },
            protocol,
            tls,
            allow_plaintext,
            allowed_origins,
            oauth,
            scrub,
            on_echo,
            description,
        } = spec;
        let (protobuf_secrets_field, protobuf_messages) = match auth_type {
            AuthType::Skill(Some(ProtobufSecrets { field, messages })) => (field.get(), *messages),
            AuthType::Custom(messages) => (0, *messages),
            AuthType::Skill(None) | AuthType::SecretHeaders | AuthType::Bearer => {
                (0, ProtobufMessages::default())
            }
        };
        Self {
            url: url.as_str().to_owned(),
            auth_type: Some(*auth_type),
            injections: match auth_type {
                AuthType::SecretHeaders | AuthType::Bearer | AuthType::Skill(_) => {
                    spec.secrets().into_iter().map(entry_of_secret).collect()
                }
                AuthType::Custom(_) => {
                    let of_url = of_url(url);
                    let own = injections.iter().filter(|injection| !of_url.contains(injection));
                    own.map(RawInjection::of).collect()
                }
            },
            protocol: *protocol,
            protobuf_secrets_field,
            protobuf_messages,
            grpc_methods: grpc_methods.iter().map(ToString::to_string).collect(),
            paths: paths.iter().map(ToString::to_string).collect(),
            tls: RawTls::of(tls),
            allow_plaintext: *allow_plaintext,
            allowed_origins: allowed_origins
                .iter()
                .map(|origin| origin.as_str().to_owned())
                .collect(),
            oauth: *oauth,
            scrub: *scrub,
            on_echo: *on_echo,
            description: description.clone(),
            ..Self::default()
        }
    }
}

fn entry_of_secret(secret: NamedSecret<'_>) -> RawInjection {
    let NamedSecret { name, required } = secret;
    RawInjection::of_secret(name.to_string(), required)
}

impl RawTls {
    fn parse(self) -> Result<UpstreamTls, SpecError> {
        let Self {
            ca_pem,
            server_name,
            allow_bound_secrets,
            client_cert_secret,
        } = self;
        let client_cert_secret = match client_cert_secret.as_str() {
            "" => None,
            name => Some(SecretName::parse(name).map_err(SpecError::ClientCertSecret)?),
        };
        Ok(UpstreamTls {
            ca_pem,
            server_name: server_name.filter(|name| !name.is_empty()),
            allow_bound_secrets,
            client_cert_secret,
        })
    }

    pub(super) fn of(tls: &UpstreamTls) -> Self {
        let UpstreamTls {
            ca_pem,
            server_name,
            allow_bound_secrets,
            client_cert_secret,
        } = tls.clone();
        Self {
            ca_pem,
            server_name,
            allow_bound_secrets,
            client_cert_secret: client_cert_secret
                .map(|name| name.to_string())
                .unwrap_or_default(),
        }
    }
}

/// Adds to the auth type the field of gRPC messages that gets secrets.
fn parse_auth_type(
    auth_type: AuthType,
    field: u32,
    messages: ProtobufMessages,
) -> Result<AuthType, SpecError> {
    match (auth_type, field, messages) {
        (AuthType::Custom(_), 0, messages) => Ok(AuthType::Custom(messages)),
        (_, 0, ProtobufMessages::All) => Err(SpecError::ProtobufMessages),
        (_, 0, ProtobufMessages::First) => Ok(auth_type),
        (AuthType::Skill(_), number, messages) => Ok(AuthType::Skill(Some(ProtobufSecrets {
            field: FieldNumber::parse(number)?,
            messages,
        }))),
        (AuthType::SecretHeaders | AuthType::Bearer | AuthType::Custom(_), ..) => {
            Err(SpecError::ProtobufWithoutSkill)
        }
    }
}

fn parse_injections(
    auth_type: AuthType,
    raw: &[RawInjection],
    url: &UpstreamUrl,
) -> Result<Vec<Injection>, SpecError> {
    if let AuthType::Custom(_) = auth_type {
        let listed = numbered(raw, |number, raw: &RawInjection| {
            raw.parse().map_err(|error| SpecError::Injection(number, error))
        });
        return add_those_of_url(listed?, url);
    }
    let secrets = numbered(raw, |number, raw: &RawInjection| match &raw.placement {
        RawPlacement::Secret(secret) => Ok(secret.clone()),
        _ => Err(SpecError::Injection(number, InjectionError::PlaceOfShortForm)),
    })?;
    let secrets = secret_names(secrets.iter().map(String::as_str))?;
    let secrets = secrets.iter().zip(raw);
    let injections = secrets.flat_map(|(secret, raw)| auth_type.injections(secret, raw.required));
    Ok(injections.collect())
}

/// Parses names of secrets, and refuses two spellings of the same name.
pub(super) fn secret_names<'a>(
    texts: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<SecretName>, SpecError> {
    let names = texts
        .into_iter()
        .map(SecretName::parse)
        .collect::<Result<_, _>>()?;
    Ok(distinct(names)?)
}

fn parse_body_calls(paths: &[String], grpc_methods: &[String]) -> Result<BodyCalls, SpecError> {
    for (field, list) in [("paths", paths), ("grpc_methods", grpc_methods)] {
        if list.len() > MAX_PATTERNS {
            return Err(SpecError::TooManyPatterns(field));
        }
    }
    let path =
        |number, text: &String| PathPattern::parse(text).map_err(|error| SpecError::Path(number, error));
    let method = |number, text: &String| {
        MethodPattern::parse(text).map_err(|error| SpecError::GrpcMethod(number, error))
    };
    Ok(BodyCalls {
        paths: numbered(paths, path)?,
        grpc_methods: numbered(grpc_methods, method)?,
    })
}

fn parse_web_origins(texts: &[String]) -> Result<Vec<WebOrigin>, SpecError> {
    if texts.len() > MAX_WEB_ORIGINS {
        return Err(SpecError::TooManyWebOrigins);
    }
    numbered(texts, |number, text| {
        WebOrigin::parse(text).map_err(|NotAWebOrigin| SpecError::WebOrigin(number))
    })
}

/// Parses a list whose errors name the number of the entry, from 1.
fn numbered<R, T>(
    entries: &[R],
    parse: impl Fn(usize, &R) -> Result<T, SpecError>,
) -> Result<Vec<T>, SpecError> {
    (1..)
        .zip(entries)
        .map(|(number, entry)| parse(number, entry))
        .collect()
}

#[cfg(test)]
mod tests {
    use proto::{DuplicateName, secret_name::SecretNameError};

    use super::*;
    use crate::{address::OwnListeners, body_calls::NotAPathPattern, placement::NotAFieldNumber};

    #[test]
    fn only_a_skill_puts_secrets_into_messages() {
        let skill = AuthType::Skill(None);
        let with = |number, messages| {
            let field = FieldNumber::parse(number).unwrap();
            Ok(AuthType::Skill(Some(ProtobufSecrets { field, messages })))
        };
        for (auth_type, field, messages, expected) in [
            (skill, 0, ProtobufMessages::First, Ok(skill)),
            (skill, 0, ProtobufMessages::All, Err(SpecError::ProtobufMessages)),
            (
                skill,
                7,
                ProtobufMessages::First,
                with(7, ProtobufMessages::First),
            ),
            (skill, 7, ProtobufMessages::All, with(7, ProtobufMessages::All)),
            (
                skill,
                19_000,
                ProtobufMessages::First,
                Err(NotAFieldNumber.into()),
            ),
            (AuthType::Bearer, 0, ProtobufMessages::First, Ok(AuthType::Bearer)),
            (
                AuthType::Bearer,
                7,
                ProtobufMessages::First,
                Err(SpecError::ProtobufWithoutSkill),
            ),
        ] {
            assert_eq!(parse_auth_type(auth_type, field, messages), expected);
        }
    }

    #[test]
    fn methods_and_a_field_of_their_messages_belong_together() {
        let (skill, bearer) = (AuthType::Skill(None), AuthType::Bearer);
        let messages = parse_auth_type(skill, 7, ProtobufMessages::First).unwrap();
        for (auth_type, paths, methods, expected) in [
            (bearer, &[][..], &[][..], Ok(())),
            (bearer, &["/run"], &[], Err(SpecError::PathsWithoutSkill)),
            (bearer, &[], &["S/M"], Err(SpecError::GrpcMethodsWithoutField)),
            (skill, &["/run"], &[], Ok(())),
            (skill, &[], &["S/M"], Err(SpecError::GrpcMethodsWithoutField)),
            (messages, &["/run"], &[], Err(SpecError::NoGrpcMethods)),
            (messages, &[], &["S/M", "T/*"], Ok(())),
        ] {
            let lists = [paths, methods].map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
            let spec = Spec {
                auth_type,
                body_calls: parse_body_calls(&lists[0], &lists[1]).unwrap(),
                ..Spec::of_url("https://a.example")
            };
            assert_eq!(spec.check_all_but_secrets(&OwnListeners::default()), expected);
        }
        let many = vec!["/run".to_owned(); MAX_PATTERNS + 1];
        assert_eq!(
            parse_body_calls(&many, &[]),
            Err(SpecError::TooManyPatterns("paths"))
        );
        let wrong = parse_body_calls(&["/run".into(), "run".into()], &[]);
        assert_eq!(wrong, Err(SpecError::Path(2, NotAPathPattern)));
    }

    #[test]
    fn one_secret_in_two_spellings_is_refused() {
        assert_eq!(secret_names(["a", "b"]).map(|names| names.len()), Ok(2));
        let twice = DuplicateName(SecretName::parse("GITHUB_TOKEN").unwrap());
        assert_eq!(
            secret_names(["github-token", "x", "GITHUB.TOKEN"]),
            Err(twice.into())
        );
        assert_eq!(secret_names(["a", ""]), Err(SecretNameError::Empty.into()));
    }

    #[test]
    fn a_server_has_at_most_64_web_origins() {
        let many = vec!["https://a.example".to_owned(); MAX_WEB_ORIGINS + 1];
        assert_eq!(parse_web_origins(&many), Err(SpecError::TooManyWebOrigins));
    }
}
