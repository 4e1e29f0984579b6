//! gRPC clients that identify themselves by a token.

use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::header::AUTHORIZATION;
use tonic::{Status, body::Body, transport::Channel};
use tower::Service;

use crate::{blocking::blocking, jwt::BearerToken};

/// An error of tonic's channel, or a [`Status`] when the token cannot be read.
type CallError = Box<dyn std::error::Error + Send + Sync>;

/// A channel to a service. With the file of a token, each request carries the token, which is read for each request, so that a
/// renewed token counts at once.
#[derive(Debug, Clone)]
pub struct ServiceChannel {
    channel: Channel,
    token: Option<Arc<Path>>,
}

impl ServiceChannel {
    /// Makes a channel whose requests carry the token in the file `token`, if there is one.
    pub fn new(channel: Channel, token: Option<PathBuf>) -> Self {
        Self {
            channel,
            token: token.map(Into::into),
        }
    }
}

impl Service<http::Request<Body>> for ServiceChannel {
    type Response = http::Response<Body>;
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, CallError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        self.channel.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The clone replaces the channel that `poll_ready` found ready.
        let channel = self.channel.clone();
        let mut channel = std::mem::replace(&mut self.channel, channel);
        let token = self.token.clone();
        Box::pin(async move {
            if let Some(path) = token {
                let token = blocking(move || BearerToken::read(&path))
                    .await
                    .map_err(|error| Status::unauthenticated(error.to_string()))?;
                request.headers_mut().insert(AUTHORIZATION, token.header());
            }
            Ok(channel.call(request).await?)
        })
    }
}
