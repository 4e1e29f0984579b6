//! The identity by which the vault knows this injector: its certificate, or a token in a file.

use std::{future::pending, sync::Arc};

use chassis::{
    jwt::{ClientToken, TokenFile},
    tls::{Identity, Reloading},
};
use proto::Principal;
use tokio::time::Instant;
use tonic::{Request, Status, metadata::MetadataMap};

use super::seal_keys::Identities;

/// The principals of both ends of the connection to the vault.
#[derive(Debug, Clone)]
pub struct VaultCredentials {
    /// The principal in the vault's certificate.
    pub vault: Principal,
    pub injector: InjectorIdentity,
}

/// The identity of this injector.
#[derive(Debug, Clone)]
pub enum InjectorIdentity {
    /// The principal in the certificate of `--vault-cert`, or of the Workload API.
    Certificate(Reloading<Identity>),
    /// The token of `--vault-token-file`, whatever the certificate is.
    Token(TokenFile),
}

/// The identities of one stream. A stream keeps the token that it was opened with.
pub(super) struct StreamCredentials {
    pub(super) identities: Identities,
    pub(super) token: Option<Arc<ClientToken>>,
}

impl VaultCredentials {
    /// Returns the file of the injector's token, if the token is its identity.
    pub(crate) fn token_file(&self) -> Option<&TokenFile> {
        match &self.injector {
            InjectorIdentity::Certificate(_) => None,
            InjectorIdentity::Token(file) => Some(file),
        }
    }

    /// Returns the identities of a stream that is opened now, or the reason why there is no token or certificate for it.
    pub(super) fn present(&self) -> Result<StreamCredentials, String> {
        let (injector, token) = match &self.injector {
            InjectorIdentity::Certificate(identity) => (principal_of(identity)?, None),
            InjectorIdentity::Token(file) => {
                let token = file.current()?;
                (token.identity.principal.clone(), Some(token))
            }
        };
        Ok(StreamCredentials {
            identities: Identities {
                vault: self.vault.clone(),
                injector,
            },
            token,
        })
    }

    /// Completes when the injector's token is another than `present`, which it never is for an injector with a certificate.
    pub(super) async fn renewed(&self, present: Option<&ClientToken>) {
        match (self.token_file(), present) {
            (Some(file), Some(present)) => drop(file.renewed(&present.token).await),
            (Some(_) | None, _) => pending().await,
        }
    }

    /// Returns the principal of this injector, or a description when there is none, for the log.
    pub(super) fn presented(&self) -> String {
        match self.present() {
            Ok(StreamCredentials { identities, .. }) => identities.injector.to_string(),
            Err(_) => match &self.injector {
                InjectorIdentity::Certificate(_) => "no certificate".to_owned(),
                InjectorIdentity::Token(_) => "no valid token".to_owned(),
            },
        }
    }
}

/// Returns the principal of a certificate, or the reason why there is no certificate.
fn principal_of(identity: &Reloading<Identity>) -> Result<Principal, String> {
    let current = identity.current().and_then(|identity| identity.principal());
    current.ok_or_else(|| "no certificate has come from --spiffe-socket yet".to_owned())
}

impl StreamCredentials {
    /// Returns a request that carries the token.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            let mut headers = http::HeaderMap::new();
            headers.insert(http::header::AUTHORIZATION, token.token.header());
            *request.metadata_mut() = MetadataMap::from_headers(headers);
        }
        request
    }

    /// Returns the time at which the token expires.
    pub(super) fn expiry(&self) -> Option<Instant> {
        let not_after = self.token.as_ref()?.identity.not_after;
        let left = not_after.duration_since(std::time::SystemTime::now());
        Some(Instant::now() + left.unwrap_or_default())
    }
}

/// Returns the status of a stream that cannot be opened, because there is no token or certificate for it.
pub(super) fn no_credentials(reason: String) -> Status {
    Status::unauthenticated(reason)
}
