//! Quotas for list RPCs. A list has up to 1 MiB, and a client could request a thousand lists on one connection without
//! reading any, so each list counts against the quota of its principal.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use chassis::authz::Authorized;
use proto::{Reason, Refusal};
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;

use super::quota::{CallQuota, Quotas};

const LISTS: [&str; 4] = [
    "/vault.v1.WorkspaceService/ListWorkspaces",
    "/vault.v1.SecretService/ListSecrets",
    "/vault.v1.SecretService/ListSecretVersions",
    "/vault.v1.KeyService/ListWorkspaceKeys",
];

/// A service that starts a list RPC only once the principal's quota has room for the list.
#[derive(Clone)]
pub(crate) struct ListQuota<S> {
    inner: S,
    quotas: Quotas,
}

impl<S> ListQuota<S> {
    pub(crate) fn new(inner: S, quotas: &Quotas) -> Self {
        Self {
            inner,
            quotas: quotas.clone(),
        }
    }

    fn admit(&self, request: &http::Request<Body>) -> Result<CallQuota, Refusal> {
        let authorized = request.extensions().get::<Authorized>();
        let authorized = authorized
            .ok_or_else(|| Refusal::new(Reason::Unauthenticated, "this call was not authorized"))?;
        self.quotas.admit(authorized.principal()?)
    }
}

impl<S: NamedService> NamedService for ListQuota<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for ListQuota<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if !LISTS.contains(&request.uri().path()) {
            return Box::pin(self.inner.call(request));
        }
        let mut this = self.clone();
        Box::pin(async move {
            let quota = match this.admit(&request) {
                Ok(quota) => quota,
                Err(refusal) => return Ok(Status::from(refusal).into_http()),
            };
            let room = quota.room().await;
            let mut response = this.inner.call(request).await?;
            room.settle_most();
            response.extensions_mut().insert(quota.charge());
            Ok(response)
        })
    }
}
