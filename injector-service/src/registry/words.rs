//! How files spell what is one of a few things, and an upstream's TLS.

use serde::{Deserialize, Serialize};

use super::server::{Oauth, Protocol, SpecError, UpstreamTls};
use crate::placement::{AuthType, Messages};

#[derive(Default, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AuthTypeWord {
    #[default]
    SecretHeaders,
    Bearer,
    Skill,
}

#[derive(Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProtocolWord {
    #[default]
    Auto,
    Http1,
    Http2,
}

#[derive(Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum MessagesWord {
    #[default]
    First,
    All,
}

#[derive(Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OauthWord {
    #[default]
    Replace,
    Pass,
}

#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsRecord {
    #[serde(default, skip_serializing_if = "is_default")]
    ca_pem: String,
    #[serde(skip_serializing_if = "is_default")]
    server_name: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    allow_bound_secrets: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    client_cert_secret: String,
}

/// Whether it need not be written.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl From<AuthTypeWord> for AuthType {
    fn from(word: AuthTypeWord) -> Self {
        match word {
            AuthTypeWord::SecretHeaders => Self::SecretHeaders,
            AuthTypeWord::Bearer => Self::Bearer,
            AuthTypeWord::Skill => Self::Skill(None),
        }
    }
}

impl From<AuthType> for AuthTypeWord {
    fn from(auth_type: AuthType) -> Self {
        match auth_type {
            AuthType::SecretHeaders => Self::SecretHeaders,
            AuthType::Bearer => Self::Bearer,
            AuthType::Skill(_) => Self::Skill,
        }
    }
}

impl From<ProtocolWord> for Protocol {
    fn from(word: ProtocolWord) -> Self {
        match word {
            ProtocolWord::Auto => Self::Auto,
            ProtocolWord::Http1 => Self::Http1,
            ProtocolWord::Http2 => Self::Http2,
        }
    }
}

impl From<Protocol> for ProtocolWord {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Auto => Self::Auto,
            Protocol::Http1 => Self::Http1,
            Protocol::Http2 => Self::Http2,
        }
    }
}

impl From<MessagesWord> for Messages {
    fn from(word: MessagesWord) -> Self {
        match word {
            MessagesWord::First => Self::First,
            MessagesWord::All => Self::All,
        }
    }
}

impl From<Messages> for MessagesWord {
    fn from(messages: Messages) -> Self {
        match messages {
            Messages::First => Self::First,
            Messages::All => Self::All,
        }
    }
}

impl From<OauthWord> for Oauth {
    fn from(word: OauthWord) -> Self {
        match word {
            OauthWord::Replace => Self::Replace,
            OauthWord::Pass => Self::Pass,
        }
    }
}

impl From<Oauth> for OauthWord {
    fn from(oauth: Oauth) -> Self {
        match oauth {
            Oauth::Replace => Self::Replace,
            Oauth::Pass => Self::Pass,
        }
    }
}

impl TryFrom<TlsRecord> for UpstreamTls {
    type Error = SpecError;

    fn try_from(record: TlsRecord) -> Result<Self, SpecError> {
        let TlsRecord {
            ca_pem,
            server_name,
            allow_bound_secrets,
            client_cert_secret,
        } = record;
        Ok(Self {
            ca_pem,
            server_name: server_name.filter(|name| !name.is_empty()),
            allow_bound_secrets,
            client_cert_secret: Self::parse_client_cert_secret(&client_cert_secret)?,
        })
    }
}

impl From<UpstreamTls> for TlsRecord {
    fn from(tls: UpstreamTls) -> Self {
        let UpstreamTls {
            ca_pem,
            server_name,
            allow_bound_secrets,
            client_cert_secret,
        } = tls;
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
