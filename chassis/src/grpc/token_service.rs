//! The service that identifies clients by the JSON Web Tokens in their requests.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use proto::{Reason, Refusal};
use tonic::body::Body;
use tower::Service;

use super::{admission::Admission, connection::GrpcService, connection_slot::ConnectionSlot};
use crate::{
    authz::RefusedToken,
    caller::{Caller, Peer},
    jwt::{Issuers, TokenKey, TokenRefusal, VerifiedToken},
};

/// Gives each request with a token the [`Caller`] that the token names, instead of the one of the client's certificate. A
/// request whose token is refused gets an anonymous caller and a [`RefusedToken`], one whose token is accepted its [`TokenKey`]. No
/// later service sees the token.
#[derive(Clone)]
pub(super) struct TokenService<S> {
    inner: S,
    admission: Admission,
    slot: ConnectionSlot,
}

impl<S> TokenService<S> {
    /// `slot` is that of the connection whose requests `inner` answers.
    pub(super) fn new(inner: S, admission: Admission, slot: ConnectionSlot) -> Self {
        Self {
            inner,
            admission,
            slot,
        }
    }
}

impl<S: GrpcService> Service<http::Request<Body>> for TokenService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let Some(token) = take_token(request.headers_mut()) else {
            return Either::Left(self.inner.call(request));
        };
        if self.admission.authz.is_for_anyone(request.uri().path()) {
            // The call needs no identity, so it does not wait for the verification of a token.
            set_peer(&mut request, Peer::Anonymous);
            return Either::Left(self.inner.call(request));
        }
        // The clone replaces the service that `poll_ready` found ready.
        let inner = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, inner);
        let (admission, slot) = (self.admission.clone(), self.slot.clone());
        Either::Right(Box::pin(async move {
            let identified = match token {
                Ok(token) => identify(&admission, &slot, &token).await,
                Err(refusal) => Err(refusal.refusal()),
            };
            set_caller(&mut request, identified);
            inner.call(request).await
        }))
    }
}

/// Takes the token out of the headers. Returns `None` when there is none.
fn take_token(headers: &mut HeaderMap) -> Option<Result<HeaderValue, TokenRefusal>> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let first = values.next()?;
    let only = match values.next() {
        None => Ok(first.clone()),
        Some(_) => Err(TokenRefusal::Header),
    };
    headers.remove(AUTHORIZATION);
    Some(only)
}

async fn identify(
    admission: &Admission,
    slot: &ConnectionSlot,
    authorization: &HeaderValue,
) -> Result<(Peer, TokenKey), Refusal> {
    let verified = verify(&admission.issuers, authorization).await;
    let VerifiedToken {
        principal,
        not_after,
        key,
    } = verified.map_err(TokenRefusal::refusal)?;
    let peer = Peer::Known { principal, not_after };
    if !admission.identify(slot, &peer) {
        let message = "this identity has its share of all connections; use fewer connections";
        return Err(Refusal::new(Reason::QuotaExceeded, message));
    }
    Ok((peer, key))
}

async fn verify(issuers: &Issuers, authorization: &HeaderValue) -> Result<VerifiedToken, TokenRefusal> {
    if issuers.is_empty() {
        return Err(TokenRefusal::NotAccepted);
    }
    let token = bearer_token(authorization).ok_or(TokenRefusal::Header)?;
    issuers.verify(token).await
}

/// Returns the token of the scheme `Bearer` (RFC 6750, section 2.1), whose name has no case (RFC 9110, section 11.1).
fn bearer_token(authorization: &HeaderValue) -> Option<&str> {
    let (scheme, token) = authorization.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
}

/// Replaces the caller of the request: only the token counts, whatever the client's certificate is.
fn set_caller(request: &mut http::Request<Body>, identified: Result<(Peer, TokenKey), Refusal>) {
    match identified {
        Ok((peer, key)) => {
            set_peer(request, peer);
            request.extensions_mut().insert(key);
        }
        Err(refusal) => {
            set_peer(request, Peer::Anonymous);
            request.extensions_mut().insert(RefusedToken(refusal));
        }
    }
}

fn set_peer(request: &mut http::Request<Body>, peer: Peer) {
    if let Some(caller) = request.extensions_mut().get_mut::<Caller>() {
        caller.peer = Arc::new(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_bearer_and_the_header_occurs_once() {
        let token = |text: &'static str| {
            let value = HeaderValue::from_static(text);
            bearer_token(&value).map(ToOwned::to_owned)
        };
        for accepted in ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c"] {
            assert_eq!(token(accepted).as_deref(), Some("a.b.c"), "{accepted}");
        }
        for refused in ["Basic a.b.c", "a.b.c", "Bearer", "Bearera.b.c", ""] {
            assert_eq!(token(refused), None, "{refused}");
        }
        let mut headers = HeaderMap::new();
        assert_eq!(take_token(&mut headers), None);
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer b"));
        assert_eq!(take_token(&mut headers), Some(Err(TokenRefusal::Header)));
        assert!(headers.is_empty());
    }
}
