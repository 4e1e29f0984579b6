//! JSON Web Tokens (RFC 7519) that identify clients, such as those of Kubernetes' service accounts.

mod refusal;
mod setting;

use std::{sync::Arc, time::SystemTime};

use proto::{Principal, PrincipalError};

pub use refusal::TokenRefusal;
pub use setting::{IssuerSetting, IssuerSettingError};

/// The name of the issuer whose service accounts have a short form in the settings.
const KUBERNETES: &str = "kubernetes";
/// The first part of the subjects of Kubernetes' service accounts.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The issuers whose tokens a service accepts. Clones share their keys.
#[derive(Clone, Default)]
pub struct Issuers(Arc<[IssuerSetting]>);

/// The identity in a token that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    /// The issuer and the subject of the token.
    pub principal: Principal,
    /// The last moment at which the token is valid.
    pub not_after: SystemTime,
}

impl Issuers {
    /// Makes the issuers of the settings, which must differ in their URLs and names.
    pub fn new(settings: Vec<IssuerSetting>) -> Result<Self, IssuerSettingError> {
        setting::check_distinct(&settings)?;
        Ok(Self(settings.into()))
    }

    /// Returns true when no issuer is configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a principal of the settings. `system:serviceaccount:NAMESPACE:NAME` is a service account of the issuer named
    /// `kubernetes`.
    pub fn principal(&self, text: &str) -> Result<Principal, SettingPrincipalError> {
        let Some(account) = text.strip_prefix(SERVICE_ACCOUNT) else {
            return Ok(Principal::parse(text)?);
        };
        let issuer = self.0.iter().find(|issuer| issuer.name() == Some(KUBERNETES));
        let issuer = issuer.ok_or(SettingPrincipalError::NoKubernetes)?;
        let is_account = account
            .split_once(':')
            .is_some_and(|(namespace, name)| setting::is_account(namespace, name));
        if !is_account {
            return Err(SettingPrincipalError::ServiceAccount);
        }
        Principal::jwt(issuer.url(), text).ok_or(SettingPrincipalError::ServiceAccount)
    }

    /// Verifies a token: its signature (RS256, ES256 or EdDSA), `iss`, `aud`, `exp` and `nbf`. May wait for a refresh of the
    /// issuer's key set.
    pub async fn verify(&self, _token: &str) -> Result<VerifiedToken, TokenRefusal> {
        Err(TokenRefusal::KeysUnavailable)
    }
}

/// The text of a setting is not a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SettingPrincipalError {
    /// The text is not a principal of any kind.
    #[error(transparent)]
    Principal(#[from] PrincipalError),
    /// The short form of a service account needs an issuer with the name `kubernetes`.
    #[error("the short form of a service account needs a --jwt-issuer with name=kubernetes")]
    NoKubernetes,
    /// The short form lacks a namespace or a name.
    #[error("a service account is system:serviceaccount:NAMESPACE:NAME")]
    ServiceAccount,
}
