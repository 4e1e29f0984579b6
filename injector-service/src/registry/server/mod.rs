//! A server: an upstream and the secrets that its requests get.
//!
//! A server is described in three places: in the servers file, in the catalog and in requests of the API. Every
//! description becomes a `RawServer`, from which `RawServer::spec` parses a [`Spec`]; inside the injector there are
//! only [`Spec`]s, whose fields are valid.
//!
//! # Adding a field
//!
//! 1. Add the field to the message `Server` in `proto/injector/v1/server.proto`.
//! 2. Add the field to [`Spec`] and to `RawServer`, which is also the YAML form. The compiler then names the places that
//!    lack the field: the four conversions in `raw.rs` and `wire.rs`, `service/catalog.rs` and `cli/src/model/server.rs`. A rule
//!    about several fields goes into `Spec::check`, its message into [`SpecError`]. Only if entries of the catalog may have
//!    the field, add it in `catalog/file.rs` too.
//! 3. Add the field to `FIELDS` in `service/field_mask.rs`, so that an update can change it. A test compares this table
//!    with the message. The command line has its flag in `cli/src/command/server/spec.rs`,
//!    and its path in `cli/src/command/apply/steps.rs`, where a test compares too.
//!
//! `CONTRIBUTING.md` has the steps for a new place of secrets, a variant of [`Placement`].

mod error;
mod origin_binding;
mod raw;
mod raw_injection;
mod upstream_tls;
mod upstream_url;
mod url_injections;
mod url_variables;
mod web_origin;
mod wire;

use proto::{SecretName, ServerName, Uid, ValueFault, WorkspaceName, vault::v1::ValueFacts};
use serde::{Deserialize, Serialize};

use crate::{
    address::{OwnListeners, refused_literal},
    body_calls::BodyCalls,
    placement::{AuthType, Injection, NamedSecret, Placement, ProtobufMessages, distinct_secrets},
    same_place::{have_same_place, is_in_query},
};

pub(crate) use error::{InjectionError, SpecError};
pub(crate) use origin_binding::BindingError;
pub(crate) use raw::{RawServer, RawTls};
pub(crate) use raw_injection::RawInjection;
pub(crate) use upstream_tls::UpstreamTls;
pub(crate) use upstream_url::UpstreamUrl;
pub(crate) use web_origin::WebOrigin;

use error::{MAX_DESCRIPTION, MAX_INJECTIONS, MAX_SECRETS};

/// The settings of a server: everything but its names and its history. A value of this type has passed
/// `Spec::check`, except in the catalog, whose entries may lack secrets.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub url: UpstreamUrl,
    pub auth_type: AuthType,
    /// The places of the server's secrets. No two injections have the same place. Those in the URL come last.
    pub injections: Vec<Injection>,
    pub body_calls: BodyCalls,
    pub protocol: Protocol,
    pub tls: UpstreamTls,
    /// Allows `http://` to another machine, so that secrets cross the network in cleartext.
    pub allow_plaintext: bool,
    /// Origins of the web pages that may call the server through the injector.
    pub allowed_origins: Vec<WebOrigin>,
    pub oauth: Oauth,
    pub scrub: Scrub,
    pub on_echo: OnEcho,
    pub description: String,
}

/// A server in the registry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Server {
    /// The workspace of the server's secrets.
    pub workspace: WorkspaceName,
    pub name: ServerName,
    /// Differs from the uid of an earlier server that had the same name.
    pub uid: Uid,
    /// Increases with every change, also after a change in the file.
    pub revision: u64,
    pub create_time: jiff::Timestamp,
    pub update_time: jiff::Timestamp,
    /// The uid of the workspace when the server was added. A server that a person wrote into the file may have none:
    /// then the vault's first answer after a start decides which workspace it is.
    pub workspace_uid: Option<Uid>,
    pub spec: Spec,
}

/// The version of HTTP that the injector speaks to an upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Over TLS the version that ALPN selects; in cleartext HTTP/2 for gRPC and HTTP/1.1 for other calls.
    #[default]
    Auto,
    Http1,
    Http2,
}

/// The treatment of an upstream's demand for a credential: a response 401, or a header `WWW-Authenticate`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Oauth {
    /// The program gets an error of the injector, because the rejected credential is the injector's.
    #[default]
    Replace,
    /// The program gets the demand and may authenticate itself.
    Pass,
}

/// The parts of a response in which the injector looks for the values that the call sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scrub {
    /// No part. Values in the URL are still masked in the headers of a response.
    Off,
    /// The headers and the trailers.
    #[default]
    Headers,
    /// The headers, the trailers and the body.
    All,
}

/// The treatment of a response that contains a value that the call sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnEcho {
    /// The injector replaces every byte of the value by `*`.
    #[default]
    Mask,
    /// The response ends with an error.
    Block,
}

impl Spec {
    /// Checks the rules that concern several fields. `own` holds the addresses of the injector's listeners, to which no
    /// server may point.
    pub(crate) fn check(self, own: &OwnListeners) -> Result<Self, SpecError> {
        match self.auth_type {
            AuthType::Custom(_) => self.check_places()?,
            // Counted first, because the time to compare the secrets with each other grows with the square of their number.
            _ if self.injections.len() > 2 * MAX_SECRETS => return Err(SpecError::TooManySecrets),
            AuthType::SecretHeaders | AuthType::Bearer | AuthType::Skill(_) => {}
        }
        if self.secrets().len() > MAX_SECRETS {
            return Err(SpecError::TooManySecrets);
        }
        if self.auth_type == AuthType::Bearer && self.injections.len() != 1 {
            return Err(SpecError::BearerCount(self.injections.len()));
        }
        self.check_all_but_secrets(own)?;
        Ok(self)
    }

    /// Checks like `Self::check`, but allows any number of secrets.
    pub(crate) fn check_all_but_secrets(&self, own: &OwnListeners) -> Result<(), SpecError> {
        if let Some(reason) = refused_literal(self.url.host(), self.url.port(), own) {
            return Err(SpecError::Address(reason.to_string()));
        }
        if !self.url.is_tls() && !self.url.is_loopback() && !self.allow_plaintext {
            return Err(SpecError::Plaintext);
        }
        let is_custom = matches!(self.auth_type, AuthType::Custom(_));
        if self.url.has_variables() && !is_custom {
            return Err(SpecError::UrlVariable);
        }
        if !self.url.is_tls() && self.tls.is_special() {
            return Err(SpecError::TlsOfPlaintext);
        }
        if self.description.chars().count() > MAX_DESCRIPTION {
            return Err(SpecError::Description);
        }
        self.check_body_calls()?;
        self.tls.check()
    }

    /// Checks that each injection has a place of its own.
    fn check_places(&self) -> Result<(), SpecError> {
        match self.injections.len() {
            0 => return Err(SpecError::CustomWithoutInjections),
            1..=MAX_INJECTIONS => {}
            _ => return Err(SpecError::TooManyInjections),
        }
        let placements = || (1..).zip(self.injections.iter().map(|injection| &injection.placement));
        for (number, placement) in placements() {
            if is_in_query(placement, self.url.fixed_query()) {
                return Err(SpecError::Injection(number, InjectionError::FixedParameter));
            }
            let mut before = placements().take_while(|(other, _)| *other < number);
            if let Some((other, _)) = before.find(|(_, other)| have_same_place(placement, other)) {
                return Err(SpecError::SamePlace(other, number));
            }
        }
        Ok(())
    }

    fn check_body_calls(&self) -> Result<(), SpecError> {
        let BodyCalls { paths, grpc_methods } = &self.body_calls;
        let (in_bodies, in_messages) = match self.auth_type {
            AuthType::SecretHeaders | AuthType::Bearer => (false, false),
            AuthType::Skill(protobuf) => (true, protobuf.is_some()),
            AuthType::Custom(_) => (
                self.has(|placement| matches!(placement, Placement::Json { .. } | Placement::Form { .. })),
                self.has(Placement::is_in_messages),
            ),
        };
        if !in_bodies && !paths.is_empty() {
            return Err(SpecError::PathsWithoutSkill);
        }
        match (in_messages, grpc_methods.is_empty()) {
            (true, true) => Err(SpecError::NoGrpcMethods),
            (false, false) => Err(SpecError::GrpcMethodsWithoutField),
            (false, true) if self.auth_type == AuthType::Custom(ProtobufMessages::All) => {
                Err(SpecError::ProtobufMessages)
            }
            (true, false) | (false, true) => Ok(()),
        }
    }

    /// Returns true when a placement of the server is one that `is_wanted` accepts.
    fn has(&self, is_wanted: impl Fn(&Placement) -> bool) -> bool {
        let mut placements = self.injections.iter().map(|injection| &injection.placement);
        placements.any(is_wanted)
    }

    /// Returns true when calls may get secrets in their bodies.
    pub(crate) fn has_place_in_bodies(&self) -> bool {
        let mut injections = self.injections.iter();
        matches!(self.auth_type, AuthType::Skill(_))
            || injections.any(|injection| injection.placement.is_in_body())
    }

    /// Returns the secrets of the injections, each once, in the order in which they are first named.
    pub(crate) fn secrets(&self) -> Vec<NamedSecret<'_>> {
        distinct_secrets(&self.injections)
    }

    /// Returns the reason why one of the places of `secret` cannot hold a value with these facts.
    pub(crate) fn fault(&self, secret: &SecretName, facts: &ValueFacts) -> Option<ValueFault> {
        self.injections
            .iter()
            .find_map(|injection| injection.placement.fault(secret, facts))
    }

    /// Returns the secret with the client certificate for the upstream.
    pub(crate) fn client_certificate(&self) -> Option<NamedSecret<'_>> {
        let name = self.tls.client_cert_secret.as_ref()?;
        Some(NamedSecret { name, required: true })
    }

    /// Returns every secret that a call may need: [`Self::secrets`], then the client certificate, whose secret may also be
    /// among them.
    pub(crate) fn secrets_and_certificate(&self) -> Vec<NamedSecret<'_>> {
        let mut secrets = self.secrets();
        secrets.extend(self.client_certificate());
        secrets
    }
}

#[cfg(test)]
impl Spec {
    /// Returns the spec of a server at `url` that gets no secrets and has every other field at its default.
    pub(crate) fn of_url(url: &str) -> Self {
        Self {
            url: UpstreamUrl::parse(url).expect("the test gives a URL"),
            auth_type: AuthType::SecretHeaders,
            injections: Vec::new(),
            body_calls: BodyCalls::default(),
            protocol: Protocol::Auto,
            tls: UpstreamTls::default(),
            allow_plaintext: false,
            allowed_origins: Vec::new(),
            oauth: Oauth::Replace,
            scrub: Scrub::Headers,
            on_echo: OnEcho::Mask,
            description: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{FieldNumber, ProtobufSecrets};

    #[test]
    fn a_bearer_server_has_exactly_one_secret() {
        let check = |auth_type: AuthType, count: usize| {
            let injections = |n| {
                let secret = SecretName::parse(&format!("N{n}")).unwrap();
                auth_type.injections(&secret, false)
            };
            let spec = Spec {
                auth_type,
                injections: (0..count).flat_map(injections).collect(),
                ..Spec::of_url("https://a.example")
            };
            spec.check(&OwnListeners::default()).map(drop)
        };
        for count in [0, 2] {
            assert_eq!(check(AuthType::Bearer, count), Err(SpecError::BearerCount(count)));
        }
        assert_eq!(check(AuthType::Bearer, 1), Ok(()));
        assert_eq!(check(AuthType::SecretHeaders, 64), Ok(()));
        assert_eq!(check(AuthType::SecretHeaders, 65), Err(SpecError::TooManySecrets));
        let skill = AuthType::Skill(Some(ProtobufSecrets {
            field: FieldNumber::parse(7).unwrap(),
            messages: ProtobufMessages::First,
        }));
        // A secret has two injections here. `NoGrpcMethods` is the error of the next check.
        assert_eq!(check(skill, 64), Err(SpecError::NoGrpcMethods));
        assert_eq!(check(skill, 65), Err(SpecError::TooManySecrets));
    }

    #[test]
    fn an_address_that_the_injector_never_dials_is_refused() {
        let own = OwnListeners::new(["127.0.0.1:7100".parse().unwrap()]);
        for (url, stored) in [
            ("http://127.0.0.1:7100/x", false),
            ("http://localhost:7100", false),
            ("http://0x7f000001:7100", false),
            ("http://0xa9fea9fe/latest", false),
            ("http://[::ffff:169.254.169.254]", false),
            ("http://0", false),
            ("http://127.0.0.1:7101", true),
            ("http://example.com:7100", true),
        ] {
            let spec = Spec {
                allow_plaintext: true,
                ..Spec::of_url(url)
            };
            let checked = spec.check(&own);
            assert_eq!(checked.is_ok(), stored, "{url}");
            assert!(stored || matches!(checked, Err(SpecError::Address(_))), "{url}");
        }
    }
}
