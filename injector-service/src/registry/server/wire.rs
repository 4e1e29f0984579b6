//! Servers as the API has them: conversions between [`RawServer`] and the message `injector.v1.Server`.

use proto::injector::v1 as api;

use super::{
    Oauth, OnEcho, Protocol, Scrub, Server, Spec, UpstreamTls,
    error::{MAX_SECRETS, SpecError},
    raw::{RawInjection, RawServer, RawTls, secret_names},
};
use crate::{
    address::OwnListeners,
    placement::{AuthType, ProtobufMessages},
};

impl Spec {
    /// Parses and checks the description of a server in a request. Fields that only the injector sets are not read.
    /// `own` holds the addresses of the injector's listeners, to which no server may point.
    pub(crate) fn from_wire(server: &api::Server, own: &OwnListeners) -> Result<Self, SpecError> {
        RawServer::from_wire(server.clone())?.spec()?.check(own)
    }
}

impl Server {
    pub(crate) fn to_wire(&self) -> api::Server {
        let RawServer {
            workspace,
            name,
            url,
            auth_type,
            injections,
            protocol,
            protobuf_secrets_field,
            protobuf_messages,
            grpc_methods,
            paths,
            tls: _,
            allow_plaintext,
            allowed_origins,
            oauth,
            scrub: _,
            on_echo: _,
            description,
            uid,
            revision,
            create_time: _,
            update_time: _,
            workspace_uid,
        } = RawServer::of(self);
        let required = injections.iter().filter(|injection| injection.required);
        api::Server {
            workspace,
            name,
            uid: uid.unwrap_or_default(),
            revision: revision.unwrap_or_default(),
            create_time: Some(timestamp(self.create_time)),
            update_time: Some(timestamp(self.update_time)),
            workspace_uid: workspace_uid.unwrap_or_default(),
            url,
            auth_type: api::AuthType::from(auth_type).into(),
            required_secrets: required.map(|injection| injection.secret.clone()).collect(),
            inject_secrets: injections.into_iter().map(|injection| injection.secret).collect(),
            protocol: api::Protocol::from(protocol).into(),
            tls: self.spec.tls.to_wire(),
            allow_plaintext,
            allowed_origins,
            description,
            protobuf_secrets_field,
            protobuf_messages: match protobuf_secrets_field {
                0 => api::ProtobufMessages::Unspecified.into(),
                _ => api::ProtobufMessages::from(protobuf_messages).into(),
            },
            grpc_methods,
            paths,
            oauth: api::Oauth::from(oauth).into(),
        }
    }
}

impl UpstreamTls {
    /// Returns `None` when every field has its default.
    pub(crate) fn to_wire(&self) -> Option<api::UpstreamTls> {
        let RawTls {
            ca_pem,
            server_name,
            allow_bound_secrets,
            client_cert_secret,
        } = RawTls::of(self);
        let tls = api::UpstreamTls {
            ca_pem,
            server_name: server_name.unwrap_or_default(),
            allow_bound_secrets,
            client_cert_secret,
        };
        (tls != api::UpstreamTls::default()).then_some(tls)
    }
}

impl RawServer {
    fn from_wire(server: api::Server) -> Result<Self, SpecError> {
        let api::Server {
            workspace,
            name,
            uid: _,
            revision: _,
            create_time: _,
            update_time: _,
            workspace_uid: _,
            url,
            auth_type,
            inject_secrets,
            required_secrets,
            protocol,
            tls,
            allow_plaintext,
            allowed_origins,
            description,
            protobuf_secrets_field,
            protobuf_messages,
            grpc_methods,
            paths,
            oauth,
        } = server;
        Ok(Self {
            workspace,
            name,
            url,
            auth_type: auth_type_from_wire(auth_type)?,
            protocol: protocol_from_wire(protocol)?,
            protobuf_messages: messages_from_wire(protobuf_messages)?,
            oauth: oauth_from_wire(oauth)?,
            injections: injections_from_wire(&inject_secrets, &required_secrets)?,
            protobuf_secrets_field,
            grpc_methods,
            paths,
            tls: RawTls::from_wire(tls.unwrap_or_default()),
            allow_plaintext,
            allowed_origins,
            description,
            scrub: Scrub::default(),
            on_echo: OnEcho::default(),
            uid: None,
            revision: None,
            create_time: None,
            update_time: None,
            workspace_uid: None,
        })
    }
}

impl RawTls {
    fn from_wire(tls: api::UpstreamTls) -> Self {
        let api::UpstreamTls {
            ca_pem,
            server_name,
            allow_bound_secrets,
            client_cert_secret,
        } = tls;
        Self {
            ca_pem,
            server_name: Some(server_name),
            allow_bound_secrets,
            client_cert_secret,
        }
    }
}

/// Merges the two lists of a request. Each name in `required` must be in `inject`, in any spelling.
fn injections_from_wire(inject: &[String], required: &[String]) -> Result<Vec<RawInjection>, SpecError> {
    if inject.len() > MAX_SECRETS || required.len() > MAX_SECRETS {
        return Err(SpecError::TooManySecrets);
    }
    let secrets = secret_names(inject.iter().map(String::as_str))?;
    let required = secret_names(required.iter().map(String::as_str))?;
    if let Some(stray) = required.iter().find(|name| !secrets.contains(name)) {
        return Err(SpecError::RequiredNotInjected(stray.clone()));
    }
    let raw = secrets.iter().map(|secret| RawInjection {
        secret: secret.to_string(),
        required: required.contains(secret),
    });
    Ok(raw.collect())
}

fn auth_type_from_wire(number: i32) -> Result<AuthType, SpecError> {
    match api::AuthType::try_from(number) {
        Ok(api::AuthType::Unspecified | api::AuthType::SecretHeaders) => Ok(AuthType::SecretHeaders),
        Ok(api::AuthType::Bearer) => Ok(AuthType::Bearer),
        Ok(api::AuthType::Skill) => Ok(AuthType::Skill(None)),
        Ok(api::AuthType::Custom) => Ok(AuthType::Custom(ProtobufMessages::First)),
        Err(_) => Err(SpecError::UnknownEnumValue(
            "auth_type: there is no such auth type",
        )),
    }
}

fn protocol_from_wire(number: i32) -> Result<Protocol, SpecError> {
    match api::Protocol::try_from(number) {
        Ok(api::Protocol::Unspecified | api::Protocol::Auto) => Ok(Protocol::Auto),
        Ok(api::Protocol::Http1) => Ok(Protocol::Http1),
        Ok(api::Protocol::Http2) => Ok(Protocol::Http2),
        Err(_) => Err(SpecError::UnknownEnumValue("protocol: there is no such protocol")),
    }
}

fn messages_from_wire(number: i32) -> Result<ProtobufMessages, SpecError> {
    match api::ProtobufMessages::try_from(number) {
        Ok(api::ProtobufMessages::Unspecified | api::ProtobufMessages::First) => Ok(ProtobufMessages::First),
        Ok(api::ProtobufMessages::All) => Ok(ProtobufMessages::All),
        Err(_) => Err(SpecError::UnknownEnumValue(
            "protobuf_messages: there is no such choice of messages",
        )),
    }
}

fn oauth_from_wire(number: i32) -> Result<Oauth, SpecError> {
    match api::Oauth::try_from(number) {
        Ok(api::Oauth::Unspecified | api::Oauth::Replace) => Ok(Oauth::Replace),
        Ok(api::Oauth::Pass) => Ok(Oauth::Pass),
        Err(_) => Err(SpecError::UnknownEnumValue(
            "oauth: it must be OAUTH_REPLACE or OAUTH_PASS",
        )),
    }
}

impl From<AuthType> for api::AuthType {
    fn from(auth_type: AuthType) -> Self {
        match auth_type {
            AuthType::SecretHeaders => Self::SecretHeaders,
            AuthType::Bearer => Self::Bearer,
            AuthType::Skill(_) => Self::Skill,
            AuthType::Custom(_) => Self::Custom,
        }
    }
}

impl From<Protocol> for api::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Auto => Self::Auto,
            Protocol::Http1 => Self::Http1,
            Protocol::Http2 => Self::Http2,
        }
    }
}

impl From<ProtobufMessages> for api::ProtobufMessages {
    fn from(messages: ProtobufMessages) -> Self {
        match messages {
            ProtobufMessages::First => Self::First,
            ProtobufMessages::All => Self::All,
        }
    }
}

impl From<Oauth> for api::Oauth {
    fn from(oauth: Oauth) -> Self {
        match oauth {
            Oauth::Replace => Self::Replace,
            Oauth::Pass => Self::Pass,
        }
    }
}

/// Returns a time as protobuf has it: `nanos` counts forward, also before 1970, where `jiff` has it negative.
fn timestamp(time: jiff::Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond());
    match nanos < 0 {
        true => prost_types::Timestamp {
            seconds: seconds - 1,
            nanos: nanos + 1_000_000_000,
        },
        false => prost_types::Timestamp { seconds, nanos },
    }
}

#[cfg(test)]
mod tests;
