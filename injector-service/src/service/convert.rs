//! Servers on the wire, and as the registry has them.

use prost_types::Timestamp;
use proto::{
    Reason, Refusal,
    injector::v1::{self as api, explained_secret::State},
};

use crate::{
    address::OwnListeners,
    body_calls::BodyCalls,
    placement::{AuthType, Messages, Placement, ProtobufSecrets},
    registry::{
        BindingError, Entry,
        server::{Injection, Oauth, Protocol, Server, Spec, SpecError, UpstreamTls, UpstreamUrl},
    },
    resolve::SecretState,
    status,
};

/// Reads what a request says of a server. What only the injector says is not looked at.
pub(super) fn parse(server: &api::Server, own: &OwnListeners) -> Result<Spec, Refusal> {
    let api::Server {
        workspace: _,
        name: _,
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
    let auth_type = parse_auth_type(*auth_type)?;
    let protocol = parse_protocol(*protocol)?;
    let messages = parse_messages(*protobuf_messages)?;
    let oauth = parse_oauth(*oauth)?;
    let spec = || {
        let auth_type = Spec::auth_type(auth_type, *protobuf_secrets_field, messages)?;
        let secrets = Spec::secrets(inject_secrets.iter().map(String::as_str))?;
        let required = Spec::secrets(required_secrets.iter().map(String::as_str))?;
        let spec = Spec {
            url: UpstreamUrl::parse(url)?,
            auth_type,
            injections: Spec::injections(auth_type, secrets, &required)?,
            body_calls: Spec::body_calls(paths, grpc_methods)?,
            protocol,
            tls: parse_tls(tls.clone().unwrap_or_default())?,
            allow_plaintext: *allow_plaintext,
            allowed_origins: Spec::web_origins(allowed_origins)?,
            oauth,
            description: description.clone(),
        };
        spec.check(own)
    };
    spec().map_err(status::spec)
}

fn parse_tls(tls: api::UpstreamTls) -> Result<UpstreamTls, SpecError> {
    let api::UpstreamTls {
        ca_pem,
        server_name,
        allow_bound_secrets,
        client_cert_secret,
    } = tls;
    Ok(UpstreamTls {
        ca_pem,
        server_name: (!server_name.is_empty()).then_some(server_name),
        allow_bound_secrets,
        client_cert_secret: UpstreamTls::parse_client_cert_secret(&client_cert_secret)?,
    })
}

fn parse_auth_type(number: i32) -> Result<AuthType, Refusal> {
    match api::AuthType::try_from(number) {
        Ok(api::AuthType::Unspecified | api::AuthType::SecretHeaders) => Ok(AuthType::SecretHeaders),
        Ok(api::AuthType::Bearer) => Ok(AuthType::Bearer),
        Ok(api::AuthType::Skill) => Ok(AuthType::Skill(None)),
        Err(_) => Err(Refusal::new(
            Reason::RequestMalformed,
            "server.auth_type: there is no such auth type",
        )),
    }
}

fn parse_protocol(number: i32) -> Result<Protocol, Refusal> {
    match api::Protocol::try_from(number) {
        Ok(api::Protocol::Unspecified | api::Protocol::Auto) => Ok(Protocol::Auto),
        Ok(api::Protocol::Http1) => Ok(Protocol::Http1),
        Ok(api::Protocol::Http2) => Ok(Protocol::Http2),
        Err(_) => Err(Refusal::new(
            Reason::RequestMalformed,
            "server.protocol: there is no such protocol",
        )),
    }
}

fn parse_messages(number: i32) -> Result<Option<Messages>, Refusal> {
    match api::ProtobufMessages::try_from(number) {
        Ok(api::ProtobufMessages::Unspecified) => Ok(None),
        Ok(api::ProtobufMessages::First) => Ok(Some(Messages::First)),
        Ok(api::ProtobufMessages::All) => Ok(Some(Messages::All)),
        Err(_) => Err(Refusal::new(
            Reason::RequestMalformed,
            "server.protobuf_messages: there is no such choice of messages",
        )),
    }
}

fn parse_oauth(number: i32) -> Result<Oauth, Refusal> {
    match api::Oauth::try_from(number) {
        Ok(api::Oauth::Unspecified | api::Oauth::Replace) => Ok(Oauth::Replace),
        Ok(api::Oauth::Pass) => Ok(Oauth::Pass),
        Err(_) => Err(Refusal::new(
            Reason::RequestMalformed,
            "server.oauth: it must be OAUTH_REPLACE or OAUTH_PASS",
        )),
    }
}

/// A server as it goes out.
pub(super) fn shown(entry: &Entry) -> api::Server {
    let Server {
        workspace,
        name,
        uid,
        revision,
        create_time,
        update_time,
        workspace_uid: _,
        spec,
    } = &entry.server;
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
        description,
    } = spec;
    let name_of = |injection: &Injection| injection.secret.to_string();
    let (field, messages) = shown_protobuf(*auth_type);
    api::Server {
        workspace: workspace.to_string(),
        name: name.to_string(),
        uid: uid.to_string(),
        revision: *revision,
        create_time: Some(timestamp(*create_time)),
        update_time: Some(timestamp(*update_time)),
        workspace_uid: entry
            .workspace_uid()
            .map(|uid| uid.to_string())
            .unwrap_or_default(),
        url: url.as_str().to_owned(),
        auth_type: shown_auth_type(*auth_type).into(),
        inject_secrets: injections.iter().map(name_of).collect(),
        required_secrets: injections
            .iter()
            .filter(|injection| injection.required)
            .map(name_of)
            .collect(),
        protocol: shown_protocol(*protocol).into(),
        tls: shown_tls(tls),
        allow_plaintext: *allow_plaintext,
        allowed_origins: allowed_origins
            .iter()
            .map(|origin| origin.as_str().to_owned())
            .collect(),
        description: description.clone(),
        protobuf_secrets_field: field,
        protobuf_messages: messages.into(),
        grpc_methods: grpc_methods.iter().map(ToString::to_string).collect(),
        paths: paths.iter().map(ToString::to_string).collect(),
        oauth: shown_oauth(*oauth).into(),
    }
}

pub(super) fn shown_auth_type(auth_type: AuthType) -> api::AuthType {
    match auth_type {
        AuthType::SecretHeaders => api::AuthType::SecretHeaders,
        AuthType::Bearer => api::AuthType::Bearer,
        AuthType::Skill(_) => api::AuthType::Skill,
    }
}

/// The number of the field, and which messages; zeroes when there is no field.
fn shown_protobuf(auth_type: AuthType) -> (u32, api::ProtobufMessages) {
    match auth_type {
        AuthType::Skill(Some(ProtobufSecrets { field, messages })) => match messages {
            Messages::First => (field.get(), api::ProtobufMessages::First),
            Messages::All => (field.get(), api::ProtobufMessages::All),
        },
        AuthType::Skill(None) | AuthType::SecretHeaders | AuthType::Bearer => {
            (0, api::ProtobufMessages::Unspecified)
        }
    }
}

pub(super) fn shown_protocol(protocol: Protocol) -> api::Protocol {
    match protocol {
        Protocol::Auto => api::Protocol::Auto,
        Protocol::Http1 => api::Protocol::Http1,
        Protocol::Http2 => api::Protocol::Http2,
    }
}

fn shown_oauth(oauth: Oauth) -> api::Oauth {
    match oauth {
        Oauth::Replace => api::Oauth::Replace,
        Oauth::Pass => api::Oauth::Pass,
    }
}

/// None when it is ordinary.
pub(super) fn shown_tls(tls: &UpstreamTls) -> Option<api::UpstreamTls> {
    let UpstreamTls {
        ca_pem,
        server_name,
        allow_bound_secrets,
        client_cert_secret,
    } = tls;
    (*tls != UpstreamTls::default()).then(|| api::UpstreamTls {
        ca_pem: ca_pem.clone(),
        server_name: server_name.clone().unwrap_or_default(),
        allow_bound_secrets: *allow_bound_secrets,
        client_cert_secret: client_cert_secret
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    })
}

/// Seconds and a fraction that counts forward, before 1970 too, as protobuf has it.
fn timestamp(time: jiff::Timestamp) -> Timestamp {
    let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond());
    match nanos < 0 {
        true => Timestamp {
            seconds: seconds - 1,
            nanos: nanos + 1_000_000_000,
        },
        false => Timestamp { seconds, nanos },
    }
}

/// What a call to this server would carry, given what the vault says of each of its secrets. `requires` returns
/// true for a secret without which a call is refused.
pub(super) fn explain(
    entry: &Entry,
    checked: &[SecretState],
    requires: impl Fn(&Injection) -> bool,
) -> api::ExplainInjectionResponse {
    let injections = &entry.server.spec.injections;
    let secrets: Vec<_> = injections
        .iter()
        .zip(checked)
        .map(|(injection, checked)| api::ExplainedSecret {
            required: requires(injection),
            ..explain_one(entry, injection, checked)
        })
        .collect();
    let forwards = |secret: &api::ExplainedSecret| match secret.state() {
        State::Injected => true,
        State::Missing | State::Expired => !secret.required,
        State::OriginRefused
        | State::UpstreamNotVerified
        | State::Unfit
        | State::Unreadable
        | State::Unspecified => false,
    };
    let would_forward = secrets.len() == injections.len() && secrets.iter().all(forwards);
    api::ExplainInjectionResponse {
        secrets,
        would_forward,
    }
}

fn explain_one(entry: &Entry, injection: &Injection, checked: &SecretState) -> api::ExplainedSecret {
    let Injection {
        secret,
        required,
        placement,
    } = injection;
    let (state, detail) = outcome(entry, placement, checked);
    let version = match checked {
        SecretState::Found { version, .. } => *version,
        SecretState::Missing | SecretState::Expired | SecretState::Unreadable => 0,
    };
    api::ExplainedSecret {
        name: secret.to_string(),
        placement: placement.explain(secret, &entry.server.spec.body_calls),
        required: *required,
        state: state.into(),
        version,
        detail,
    }
}

/// What becomes of a secret in a call, and why it is not sent; that is empty when it is.
fn outcome(entry: &Entry, placement: &Placement, state: &SecretState) -> (State, String) {
    match state {
        SecretState::Found {
            version: _,
            origins,
            facts,
        } => match (
            entry.server.spec.check_binding(origins),
            facts.and_then(|facts| placement.fault(&facts)),
        ) {
            (Err(error @ BindingError::OtherOrigin(_)), _) => {
                (State::OriginRefused, format!("the secret is {error}"))
            }
            (Err(error @ BindingError::NotVerified(_)), _) => {
                (State::UpstreamNotVerified, format!("the secret is {error}"))
            }
            (Ok(()), Some(fault)) => (
                State::Unfit,
                format!("the value {fault}, so it does not fit its place"),
            ),
            (Ok(()), None) => (State::Injected, String::new()),
        },
        SecretState::Missing => (State::Missing, "the secret does not exist".to_owned()),
        SecretState::Expired => (State::Expired, "the secret has expired".to_owned()),
        SecretState::Unreadable => (
            State::Unreadable,
            "the vault cannot decrypt the secret".to_owned(),
        ),
    }
}

/// Refuses a server when one of its secrets may not be sent to it.
pub(super) fn check_bindings(entry: &Entry, checked: &[SecretState]) -> Result<(), Refusal> {
    let spec = &entry.server.spec;
    for (injection, checked) in spec.injections.iter().zip(checked) {
        if let SecretState::Found { origins, .. } = checked {
            spec.check_binding(origins).map_err(|error| {
                status::binding(&injection.secret, &error, "it would never be sent there")
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
