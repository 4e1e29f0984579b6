//! Servers as the API has them: conversions between [`RawServer`] and the message `injector.v1.Server`.

mod injection;

use proto::injector::v1 as api;

use super::{
    Oauth, OnEcho, Protocol, Scrub, Server, Spec, UpstreamTls,
    error::{MAX_INJECTIONS, MAX_SECRETS, SpecError},
    raw::{RawServer, RawTls, secret_names},
    raw_injection::RawInjection,
};
use crate::{
    address::OwnListeners,
    placement::{AuthType, Placement, ProtobufMessages},
};

impl Spec {
    /// Parses and checks the description of a server in a request. Fields that only the injector sets are not read.
    /// `own` holds the addresses of the injector's listeners, to which no server may point.
    pub(crate) fn from_wire(server: &api::Server, own: &OwnListeners) -> Result<Self, SpecError> {
        let spec = RawServer::from_wire(server.clone())?.spec()?.check(own)?;
        match spec.auth_type {
            AuthType::SecretHeaders | AuthType::Bearer | AuthType::Skill(_) => {
                spec.check_injections(server)?
            }
            AuthType::Custom(_) => spec.check_secrets(server)?,
        }
        Ok(spec)
    }

    /// Refuses an origin that no web page has, in a new server or in an update that changes the origins of `before`. The
    /// servers file may have such an origin, because earlier releases stored it.
    pub(crate) fn check_wildcard_origins(&self, before: Option<&Self>) -> Result<(), SpecError> {
        if before.is_some_and(|before| before.allowed_origins == self.allowed_origins) {
            return Ok(());
        }
        let mut origins = (1..).zip(&self.allowed_origins);
        match origins.find(|(_, origin)| origin.has_wildcard()) {
            Some((number, _)) => Err(SpecError::WebOrigin(number)),
            None => Ok(()),
        }
    }

    /// Returns the injections as the API has them, with those in the URL.
    pub(crate) fn injections_to_wire(&self) -> Vec<api::Injection> {
        let injections = self.injections.iter().map(RawInjection::of);
        injections.map(RawInjection::into_wire).collect()
    }

    /// Checks that the injections in the description of a server with a short form, if there are any, are those of the
    /// spec. A response has both views of a server, and may be sent back.
    fn check_injections(&self, server: &api::Server) -> Result<(), SpecError> {
        let given = server.injections.iter().map(RawInjection::from_wire);
        let given = given.map(|given| given.and_then(|given| given.parse()));
        let agree = server.injections.is_empty() || given.eq(self.injections.iter().cloned().map(Ok));
        agree.then_some(()).ok_or(SpecError::InjectionsOfShortForm)
    }

    /// Checks that the secrets in the description of a server with injections, if there are any, are those of the spec.
    fn check_secrets(&self, server: &api::Server) -> Result<(), SpecError> {
        let secrets = self.secrets();
        let required = secrets.iter().filter(|secret| secret.required);
        let required: Vec<_> = required.map(|secret| secret.name.clone()).collect();
        let secrets: Vec<_> = secrets.iter().map(|secret| secret.name.clone()).collect();
        for (field, given, expected) in [
            ("inject_secrets", &server.inject_secrets, secrets),
            ("required_secrets", &server.required_secrets, required),
        ] {
            if !given.is_empty() && secret_names(given.iter().map(String::as_str))? != expected {
                return Err(SpecError::SecretsOfInjections(field));
            }
        }
        Ok(())
    }
}

impl Server {
    pub(crate) fn to_wire(&self) -> api::Server {
        let Self {
            workspace,
            name,
            uid,
            revision,
            create_time,
            update_time,
            workspace_uid,
            spec,
        } = self;
        api::Server {
            workspace: workspace.to_string(),
            name: name.to_string(),
            uid: uid.to_string(),
            revision: *revision,
            create_time: Some(timestamp(*create_time)),
            update_time: Some(timestamp(*update_time)),
            workspace_uid: workspace_uid.map(|uid| uid.to_string()).unwrap_or_default(),
            ..spec.to_wire()
        }
    }
}

impl Spec {
    /// Parses the settings of a server that an injector answered with. They have passed [`Spec::check`] there.
    pub(crate) fn of_answer(server: &api::Server) -> Result<Self, SpecError> {
        RawServer::from_wire(server.clone())?.spec()
    }

    /// Returns a server with these settings, without the fields that identify it.
    pub(crate) fn to_wire(&self) -> api::Server {
        let RawServer {
            workspace: _,
            name: _,
            url,
            auth_type: _,
            injections: _,
            protocol,
            protobuf_secrets_field,
            protobuf_messages,
            grpc_methods,
            paths,
            tls: _,
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
        } = RawServer::of_spec(self);
        let secrets = self.secrets();
        let required = secrets.iter().filter(|secret| secret.required);
        let has_messages = self.has(Placement::is_in_messages);
        api::Server {
            url,
            auth_type: api::AuthType::from(self.auth_type).into(),
            required_secrets: required.map(|secret| secret.name.to_string()).collect(),
            inject_secrets: secrets.iter().map(|secret| secret.name.to_string()).collect(),
            injections: self.injections_to_wire(),
            protocol: api::Protocol::from(protocol).into(),
            tls: self.tls.to_wire(),
            allow_plaintext,
            allowed_origins,
            description,
            protobuf_secrets_field,
            protobuf_messages: match protobuf_secrets_field != 0 || has_messages {
                false => api::ProtobufMessages::Unspecified.into(),
                true => api::ProtobufMessages::from(protobuf_messages).into(),
            },
            grpc_methods,
            paths,
            oauth: api::Oauth::from(oauth).into(),
            scrub: api::Scrub::from(scrub).into(),
            on_echo: api::OnEcho::from(on_echo).into(),
            ..Default::default()
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
            injections,
            scrub,
            on_echo,
        } = server;
        // A short form may have two injections for a secret.
        if injections.len() > 2 * MAX_SECRETS.max(MAX_INJECTIONS) {
            return Err(SpecError::TooManyInjections);
        }
        let auth_type = auth_type_from_wire(auth_type)?;
        let is_custom = match auth_type {
            None => !injections.is_empty(),
            Some(auth_type) => matches!(auth_type, AuthType::Custom(_)),
        };
        Ok(Self {
            workspace,
            name,
            url,
            auth_type,
            protocol: protocol_from_wire(protocol)?,
            protobuf_messages: messages_from_wire(protobuf_messages)?,
            oauth: oauth_from_wire(oauth)?,
            scrub: scrub_from_wire(scrub)?,
            on_echo: on_echo_from_wire(on_echo)?,
            injections: match is_custom {
                true => custom_from_wire(&injections)?,
                false => injections_from_wire(&inject_secrets, &required_secrets)?,
            },
            protobuf_secrets_field,
            grpc_methods,
            paths,
            tls: RawTls::from_wire(tls.unwrap_or_default()),
            allow_plaintext,
            allowed_origins,
            description,
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
    let raw = secrets
        .iter()
        .map(|secret| RawInjection::of_secret(secret.to_string(), required.contains(secret)));
    Ok(raw.collect())
}

fn custom_from_wire(injections: &[api::Injection]) -> Result<Vec<RawInjection>, SpecError> {
    let injections = (1..).zip(injections).map(|(number, injection)| {
        RawInjection::from_wire(injection).map_err(|error| SpecError::Injection(number, error))
    });
    injections.collect()
}

/// Returns `None` when the request leaves the auth type out.
fn auth_type_from_wire(number: i32) -> Result<Option<AuthType>, SpecError> {
    match api::AuthType::try_from(number) {
        Ok(api::AuthType::Unspecified) => Ok(None),
        Ok(api::AuthType::SecretHeaders) => Ok(Some(AuthType::SecretHeaders)),
        Ok(api::AuthType::Bearer) => Ok(Some(AuthType::Bearer)),
        Ok(api::AuthType::Skill) => Ok(Some(AuthType::Skill(None))),
        Ok(api::AuthType::Custom) => Ok(Some(AuthType::Custom(ProtobufMessages::First))),
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

fn scrub_from_wire(number: i32) -> Result<Scrub, SpecError> {
    match api::Scrub::try_from(number) {
        Ok(api::Scrub::Unspecified | api::Scrub::Headers) => Ok(Scrub::Headers),
        Ok(api::Scrub::Off) => Ok(Scrub::Off),
        Ok(api::Scrub::All) => Ok(Scrub::All),
        Err(_) => Err(SpecError::UnknownEnumValue(
            "scrub: it must be SCRUB_OFF, SCRUB_HEADERS or SCRUB_ALL",
        )),
    }
}

fn on_echo_from_wire(number: i32) -> Result<OnEcho, SpecError> {
    match api::OnEcho::try_from(number) {
        Ok(api::OnEcho::Unspecified | api::OnEcho::Mask) => Ok(OnEcho::Mask),
        Ok(api::OnEcho::Block) => Ok(OnEcho::Block),
        Err(_) => Err(SpecError::UnknownEnumValue(
            "on_echo: it must be ON_ECHO_MASK or ON_ECHO_BLOCK",
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

impl From<Scrub> for api::Scrub {
    fn from(scrub: Scrub) -> Self {
        match scrub {
            Scrub::Off => Self::Off,
            Scrub::Headers => Self::Headers,
            Scrub::All => Self::All,
        }
    }
}

impl From<OnEcho> for api::OnEcho {
    fn from(on_echo: OnEcho) -> Self {
        match on_echo {
            OnEcho::Mask => Self::Mask,
            OnEcho::Block => Self::Block,
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
