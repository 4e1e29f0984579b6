//! JSON Web Tokens (RFC 7519) that identify clients, such as those of Kubernetes' service accounts.
//!
//! ring, which also does the cryptography of TLS in this project, verifies the signatures. A library for JWS would add little: the tokens
//! have three parts and one of three algorithms. [`Issuers::verify`] parses a token (`jws`), finds its issuer and key
//! (`issuer_keys`), checks the signature (`public_key`), and only then the claims (`claims`).

mod bearer;
mod claims;
mod fetch;
mod issuer_keys;
mod jws;
mod key_set;
mod key_state;
mod metrics;
mod public_key;
mod refusal;
mod refusal_log;
mod setting;
mod source;
#[cfg(test)]
mod test_keys;
#[cfg(test)]
mod tests;
mod token_file;
mod verified_tokens;

use std::{sync::Arc, time::SystemTime};

use futures_util::future::join_all;
use prometheus_client::registry::Registry;
use proto::{Principal, PrincipalError};

pub use bearer::{BearerToken, ClaimedIdentity, TokenFileError};
use issuer_keys::IssuerKeys;
use jws::ParsedToken;
pub use key_state::TokenKey;
use metrics::JwtMetrics;
pub use refusal::TokenRefusal;
use refusal_log::RefusalLog;
pub use setting::{IssuerSetting, IssuerSettingError};
pub use token_file::{ClientToken, TokenExpiry, TokenFile};
pub use verified_tokens::VerifiedToken;
use verified_tokens::{TokenDigest, VerifiedTokens};

/// The name of the issuer whose service accounts have a short form in the settings.
const KUBERNETES: &str = "kubernetes";
/// The first part of the subjects of Kubernetes' service accounts.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The issuers whose tokens a service accepts. Clones share their keys.
///
/// [`Issuers::keep_fresh`] has to run while tokens are verified.
#[derive(Clone, Default)]
pub struct Issuers(Arc<SharedIssuers>);

#[derive(Default)]
struct SharedIssuers {
    issuers: Vec<IssuerKeys>,
    verified: VerifiedTokens,
    metrics: JwtMetrics,
    log: RefusalLog,
}

impl Issuers {
    /// Makes the issuers of the settings, which must differ in their URLs and names.
    pub fn new(settings: Vec<IssuerSetting>) -> Result<Self, IssuerSettingError> {
        setting::check_distinct(&settings)?;
        let metrics = JwtMetrics::default();
        for setting in &settings {
            metrics.add_issuer(setting.label());
        }
        Ok(Self(Arc::new(SharedIssuers {
            issuers: settings.into_iter().map(IssuerKeys::new).collect(),
            verified: VerifiedTokens::default(),
            metrics,
            log: RefusalLog::default(),
        })))
    }

    /// Returns true when no issuer is configured.
    pub fn is_empty(&self) -> bool {
        self.0.issuers.is_empty()
    }

    /// Reads a principal of the settings. `system:serviceaccount:NAMESPACE:NAME` is a service account of the issuer named
    /// `kubernetes`.
    pub fn principal(&self, text: &str) -> Result<Principal, SettingPrincipalError> {
        let Some(account) = text.strip_prefix(SERVICE_ACCOUNT) else {
            return Ok(Principal::parse(text)?);
        };
        let mut settings = self.0.issuers.iter().map(|issuer| &issuer.setting);
        let issuer = settings.find(|setting| setting.name() == Some(KUBERNETES));
        let issuer = issuer.ok_or(SettingPrincipalError::NoKubernetes)?;
        let is_account = account
            .split_once(':')
            .is_some_and(|(namespace, name)| setting::is_account(namespace, name));
        if !is_account {
            return Err(SettingPrincipalError::ServiceAccount);
        }
        Principal::jwt(&issuer.url, text).ok_or(SettingPrincipalError::ServiceAccount)
    }

    /// Registers the metrics of the issuers and of their tokens.
    pub fn register(&self, registry: &mut Registry) {
        self.0.metrics.register(registry);
    }

    /// Reads the key sets of all issuers again and again. Does not return, unless there is no issuer.
    pub async fn keep_fresh(self) {
        let SharedIssuers { issuers, metrics, .. } = &*self.0;
        join_all(issuers.iter().map(|issuer| issuer.keep_fresh(metrics))).await;
    }

    /// Verifies a token: its signature (RS256, ES256 or EdDSA), `iss`, `aud`, `exp`, `nbf` and life. May wait for a refresh of the
    /// issuer's key set. The log names the reason of a refusal, at most once in 10 seconds.
    pub async fn verify(&self, token: &str) -> Result<VerifiedToken, TokenRefusal> {
        let verified = self.verify_uncounted(token).await;
        self.0.metrics.count(verified.as_ref().err().copied());
        verified
    }

    async fn verify_uncounted(&self, token: &str) -> Result<VerifiedToken, TokenRefusal> {
        let (digest, log) = (TokenDigest::of(token), &self.0.log);
        if let Some(known) = self.0.verified.get(&digest, SystemTime::now()) {
            return Ok(known);
        }
        let parsed = ParsedToken::parse(token).inspect_err(|refusal| log.unverified(*refusal, None))?;
        let issuer = self
            .issuer(&parsed)
            .inspect_err(|refusal| log.unverified(*refusal, None))?;
        let key = signing_key(issuer, &parsed).await;
        let key = key.inspect_err(|refusal| log.unverified(*refusal, Some(&*issuer.setting.url)))?;
        let verified =
            check_claims(issuer, &parsed, key).inspect_err(|refusal| log.verified(*refusal, &parsed))?;
        self.0
            .verified
            .insert(digest, verified.clone(), SystemTime::now());
        Ok(verified)
    }

    fn issuer(&self, token: &ParsedToken<'_>) -> Result<&IssuerKeys, TokenRefusal> {
        let mut issuers = self.0.issuers.iter();
        let issuer = issuers.find(|issuer| issuer.setting.url == token.claims.iss);
        issuer.ok_or(TokenRefusal::UnknownIssuer)
    }
}

/// Returns the key that the token is signed with.
async fn signing_key(issuer: &IssuerKeys, token: &ParsedToken<'_>) -> Result<TokenKey, TokenRefusal> {
    let key = issuer.find(token.kid.as_deref(), token.algorithm).await?;
    token.check_signature(key.public_key())?;
    Ok(key)
}

/// Checks the claims of a token that `key` has signed.
fn check_claims(
    issuer: &IssuerKeys,
    token: &ParsedToken<'_>,
    key: TokenKey,
) -> Result<VerifiedToken, TokenRefusal> {
    let IssuerSetting {
        audience, max_life, ..
    } = &issuer.setting;
    let not_after = token.claims.check(audience, *max_life, SystemTime::now())?;
    let principal = Principal::jwt(&token.claims.iss, &token.claims.sub).ok_or(TokenRefusal::Subject)?;
    Ok(VerifiedToken {
        principal,
        not_after,
        key,
    })
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
