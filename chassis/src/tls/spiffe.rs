//! The SPIFFE Workload API: an agent on this machine gives the service its certificate and the CAs of its peers, and renews both
//! before they expire.
//!
//! The client is small and our own: of the API only the stream of X.509-SVIDs is needed, which is one RPC with two messages.

mod messages;
mod svid;

use std::{path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use http::{Uri, uri::PathAndQuery};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::{
    authorities::Authorities,
    identity::Identity,
    reloading::{Reloading, ReloadingSender},
};
use crate::telemetry::chain;
use messages::{X509SvidRequest, X509SvidResponse};
use svid::X509Context;

/// Method of the API. Its service is in no package (SPIFFE Workload API, appendix A).
const FETCH: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
/// Metadata that every request must have, so that no other protocol is taken for this one (section 5.1 of the standard for
/// workload endpoints).
const SECURITY_HEADER: &str = "workload.spiffe.io";
/// Shortest and longest pause before the stream is opened again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Time limit for connecting to the socket and for the head of the answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a response in bytes: certificates and bundles of all federated trust domains.
const MAX_RESPONSE: usize = 4 << 20;

/// The address of a Workload API, such as `unix:/run/spire/agent.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpiffeSocket(PathBuf);

/// The text is not the address of a Workload API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the address of a Workload API is unix:/PATH")]
pub(crate) struct SpiffeSocketError;

impl FromStr for SpiffeSocket {
    type Err = SpiffeSocketError;

    /// Reads `unix:/PATH` or `unix:///PATH` (section 4 of the standard for workload endpoints).
    fn from_str(text: &str) -> Result<Self, SpiffeSocketError> {
        let path = text.strip_prefix("unix:").ok_or(SpiffeSocketError)?;
        let path = path.strip_prefix("//").unwrap_or(path);
        match path.starts_with('/') && path.len() > 1 && !path.starts_with("//") {
            true => Ok(Self(path.into())),
            false => Err(SpiffeSocketError),
        }
    }
}

/// The certificate and the CAs that a Workload API gives to this service. There are none until its first answer.
#[derive(Debug)]
pub(crate) struct WorkloadApi {
    socket: SpiffeSocket,
    identity: (ReloadingSender<Identity>, Reloading<Identity>),
    authorities: (ReloadingSender<Authorities>, Reloading<Authorities>),
}

impl WorkloadApi {
    pub(crate) fn new(socket: SpiffeSocket) -> Self {
        Self {
            socket,
            identity: ReloadingSender::new(None),
            authorities: ReloadingSender::new(None),
        }
    }

    /// Returns the certificate of the service.
    pub(crate) fn identity(&self) -> Reloading<Identity> {
        self.identity.1.clone()
    }

    /// Returns the bundles of the service's trust domain and of those that are federated with it.
    pub(crate) fn authorities(&self) -> Reloading<Authorities> {
        self.authorities.1.clone()
    }

    /// Receives certificates and bundles, and opens the stream again whenever it ends. Calls `refused` for each answer that
    /// cannot be used, and for the first failure in a row. Does not return.
    pub(crate) async fn run(self, refused: impl Fn() + Send + Sync) {
        let socket = self.socket.0.display().to_string();
        let (shortest, longest) = PAUSES;
        let (mut pause, mut last) = (shortest, None);
        loop {
            let (received, status) = self.follow(&refused).await;
            if received {
                (pause, last) = (shortest, None);
            }
            let error = chain(&status);
            if last.as_ref() != Some(&error) {
                tracing::warn!(socket, code = ?status.code(), error, "the workload api cannot be used; trying again");
                refused();
            }
            last = Some(error);
            time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Receives answers until the stream ends. Returns true when an answer came, and the reason for the end.
    async fn follow(&self, refused: &impl Fn()) -> (bool, Status) {
        let mut answers = match time::timeout(OPEN_TIMEOUT, open(&self.socket)).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(status)) => return (false, status),
            Err(_) => {
                return (
                    false,
                    Status::deadline_exceeded("the workload api does not answer"),
                );
            }
        };
        let mut received = false;
        loop {
            match answers.message().await {
                Ok(Some(answer)) => {
                    received = true;
                    if let Err(error) = self.accept(answer) {
                        tracing::warn!(
                            error,
                            "the answer of the workload api cannot be used; the previous certificate and CAs stay in use"
                        );
                        refused();
                    }
                }
                Ok(None) => return (received, Status::unavailable("the workload api ended the stream")),
                Err(status) => return (received, status),
            }
        }
    }

    /// Uses the certificate and the bundles of an answer, or neither.
    fn accept(&self, answer: X509SvidResponse) -> Result<(), String> {
        let X509Context {
            identity,
            authorities,
        } = X509Context::parse(answer)?;
        let (sender, _) = &self.identity;
        match sender.current() {
            Some(current) if *current == identity => {}
            current => {
                let principal = current.and_then(|current| current.principal());
                let same = principal.map_or(Ok(()), |principal| identity.check_principal(&principal));
                same.map_err(|error| error.to_string())?;
                tracing::info!(
                    content = identity.describe(),
                    "certificate received from the workload api"
                );
                sender.replace(identity);
            }
        }
        let (sender, _) = &self.authorities;
        if sender.current().is_none_or(|current| *current != authorities) {
            tracing::info!(
                content = authorities.describe(),
                "bundles received from the workload api"
            );
            sender.replace(authorities);
        }
        Ok(())
    }
}

/// Opens the stream of X.509-SVIDs.
async fn open(socket: &SpiffeSocket) -> Result<tonic::Streaming<X509SvidResponse>, Status> {
    let path = Arc::new(socket.0.clone());
    let connect = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(&*path).await.map(TokioIo::new) }
    });
    // The address is not used: `connect` dials the socket.
    let endpoint = Endpoint::from_static("http://workload-api");
    let unreachable = |error: tonic::transport::Error| Status::new(Code::Unavailable, chain(&error));
    let channel: Channel = endpoint
        .connect_with_connector(connect)
        .await
        .map_err(unreachable)?;
    let mut client = Grpc::new(channel).max_decoding_message_size(MAX_RESPONSE);
    client.ready().await.map_err(unreachable)?;
    let mut request = Request::new(X509SvidRequest {});
    let yes = MetadataValue::from_static("true");
    request.metadata_mut().insert(SECURITY_HEADER, yes);
    let codec = ProstCodec::<X509SvidRequest, X509SvidResponse>::default();
    let path = PathAndQuery::from_static(FETCH);
    Ok(client.server_streaming(request, path, codec).await?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_workload_api_is_an_absolute_path() {
        for text in ["unix:/run/agent.sock", "unix:///run/agent.sock"] {
            assert_eq!(text.parse(), Ok(SpiffeSocket("/run/agent.sock".into())));
        }
        for text in [
            "",
            "/run/agent.sock",
            "unix:",
            "unix:/",
            "unix:run/agent.sock",
            "unix://run/agent.sock",
            "tcp://127.0.0.1:1",
        ] {
            assert_eq!(text.parse::<SpiffeSocket>(), Err(SpiffeSocketError), "{text}");
        }
    }
}
