//! The state of both services and of the data plane, as this client sees them.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use chassis::{
    caller::Peer,
    expiry,
    health::READINESS,
    healthcheck::{self, NotReady},
    jwt::ClaimedIdentity,
    telemetry::ms,
};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use proto::{
    injector::v1::{ListServersRequest, server_service_client::ServerServiceClient},
    vault::v1::{ListWorkspacesRequest, workspace_service_client::WorkspaceServiceClient},
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::Serialize;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    connect::{Connection, Remote},
    data_plane::{DataPlane, HttpVersion},
    failure::{Failure, FailureKind},
};

/// Longest time that the `/readyz` of a service may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

const READYZ_SAYS_WHY: &str =
    "its log and its /readyz, on the address of its --metrics-listen, name the cause";

#[derive(Serialize)]
pub(crate) struct StatusReport {
    pub(crate) services: Vec<ServiceStatus>,
    pub(crate) identity: Option<ClientIdentity>,
    /// The context that names the services.
    pub(crate) context: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct ServiceStatus {
    pub(crate) service: &'static str,
    pub(crate) address: String,
    pub(crate) state: ServiceState,
    pub(crate) latency_ms: Option<f64>,
    /// True when this client may list the resources of the service. Absent for the data plane.
    pub(crate) access: Option<bool>,
    /// Explanation of a `state` or an `access` that is not good.
    pub(crate) detail: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ServiceState {
    Serving,
    /// The health check succeeds, but `/readyz` reports a problem.
    NotReady,
    NotServing,
    Unreachable,
    /// A data plane whose address was not given and that does not answer on the default address.
    Unknown,
}

impl ServiceState {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::NotReady => "not ready",
            Self::NotServing => "not serving",
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
        }
    }
}

impl ServiceStatus {
    pub(crate) fn is_well(&self) -> bool {
        matches!(self.state, ServiceState::Serving | ServiceState::Unknown) && self.access != Some(false)
    }
}

#[derive(Serialize)]
pub(crate) struct ClientIdentity {
    pub(crate) principal: String,
    pub(crate) not_after: String,
    pub(crate) credential: CredentialKind,
}

/// The credential that names the client's principal.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CredentialKind {
    Certificate,
    Token,
}

impl CredentialKind {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Token => "token",
        }
    }
}

impl StatusReport {
    /// Asks both services and the data plane at the same time.
    pub(crate) async fn ask(
        connection: &Connection,
        vault: &Remote,
        injector: &Remote,
    ) -> Result<Self, Failure> {
        let data_plane = DataPlane::of(connection)?;
        let (vault_probe, injector_probe) = connection.probes();
        let (vault, injector, data_plane) = tokio::join!(
            check_service("vault", vault, vault_probe, may_list_workspaces(vault)),
            check_service("injector", injector, injector_probe, may_list_servers(injector)),
            check_data_plane(connection, &data_plane),
        );
        Ok(Self {
            services: vec![vault, injector, data_plane],
            identity: client_identity(connection),
            context: connection.context().map(ToString::to_string),
        })
    }
}

async fn check_service(
    service: &'static str,
    remote: &Remote,
    probe: Option<SocketAddr>,
    may_list: impl Future<Output = Result<(), Failure>>,
) -> ServiceStatus {
    let mut client = HealthClient::new(remote.channel.clone());
    let whole_server = HealthCheckRequest::default();
    let started = Instant::now();
    let health = remote.answer(client.check(whole_server)).await;
    let (mut state, latency_ms, mut detail) = match health {
        Ok(answer) if answer.status() == ServingStatus::Serving => {
            (ServiceState::Serving, Some(ms(started)), None)
        }
        Ok(_) => (
            ServiceState::NotServing,
            Some(ms(started)),
            Some(READYZ_SAYS_WHY.to_owned()),
        ),
        Err(failure) => (ServiceState::Unreachable, None, Some(failure.message)),
    };
    let mut access = None;
    if state == ServiceState::Serving {
        let allowed = may_list.await;
        access = Some(allowed.is_ok());
        detail = allowed.err().map(|failure| failure.message);
    }
    if latency_ms.is_some()
        && let Some(why) = problem(remote, probe).await
    {
        if state == ServiceState::Serving {
            state = ServiceState::NotReady;
        }
        detail = Some(why);
    }
    ServiceStatus {
        service,
        address: remote.address().to_owned(),
        state,
        latency_ms,
        access,
        detail,
    }
}

/// Returns the reason for which a service that answers is not ready: from its `/readyz` if the address is known, else from its
/// gRPC health, which has no text.
async fn problem(remote: &Remote, probe: Option<SocketAddr>) -> Option<String> {
    if let Some(probe) = probe {
        let ready = healthcheck::check(probe, PROBE_TIMEOUT).await;
        return match ready {
            Err(NotReady::Reported(why)) => Some(why),
            Ok(()) | Err(_) => None,
        };
    }
    let readiness = HealthCheckRequest {
        service: READINESS.to_owned(),
    };
    let mut client = HealthClient::new(remote.channel.clone());
    // An older release does not know the name.
    let answer = remote.answer(client.check(readiness)).await.ok()?;
    (answer.status() == ServingStatus::NotServing).then(|| READYZ_SAYS_WHY.to_owned())
}

async fn may_list_workspaces(vault: &Remote) -> Result<(), Failure> {
    let one = ListWorkspacesRequest {
        page_size: 1,
        page_token: String::new(),
    };
    let mut client = WorkspaceServiceClient::new(vault.channel.clone());
    vault.answer(client.list_workspaces(one)).await.map(drop)
}

async fn may_list_servers(injector: &Remote) -> Result<(), Failure> {
    let one = ListServersRequest {
        page_size: 1,
        ..Default::default()
    };
    let mut client = ServerServiceClient::new(injector.channel.clone());
    injector.answer(client.list_servers(one)).await.map(drop)
}

/// Requests `/-/status` on the data plane. Only the injector itself serves paths that begin with `/-/`.
async fn check_data_plane(connection: &Connection, data_plane: &DataPlane) -> ServiceStatus {
    let started = Instant::now();
    let answer = match Request::get("/-/status").body(Full::default()) {
        Ok(request) => data_plane.send(connection, HttpVersion::Http1, request).await,
        Err(error) => Err(Failure::new(FailureKind::Internal, error)),
    };
    let (state, detail) = match &answer {
        Ok(answer) if is_injector(answer) => (ServiceState::Serving, None),
        Err(_) if !connection.has_data_plane() => (
            ServiceState::Unknown,
            Some(format!(
                "no address of a data plane was given, and none listens on {}; a sidecar's data plane can be reached \
                 only from beside it; --data-plane names another",
                data_plane.url
            )),
        ),
        Ok(_) => (
            ServiceState::Unreachable,
            Some("the server there is not an injector".to_owned()),
        ),
        Err(failure) => (ServiceState::Unreachable, Some(failure.message.clone())),
    };
    ServiceStatus {
        service: "data plane",
        address: data_plane.url.clone(),
        state,
        latency_ms: answer.is_ok().then(|| ms(started)),
        access: None,
        detail,
    }
}

/// Returns true for the answer of an injector to `/-/status`.
fn is_injector<B>(answer: &Response<B>) -> bool {
    answer.status() == StatusCode::OK && answer.headers().contains_key("x-aerostack-call-id")
}

/// Returns the principal and the expiry of the client's certificate or token, as the report prints them.
fn client_identity(connection: &Connection) -> Option<ClientIdentity> {
    let credential = match connection.token_identity() {
        Some(_) => CredentialKind::Token,
        None => CredentialKind::Certificate,
    };
    match client_peer(connection)? {
        Peer::Known { principal, not_after } => Some(ClientIdentity {
            principal: principal.to_string(),
            not_after: expiry::text(not_after),
            credential,
        }),
        Peer::Anonymous | Peer::Unusable(_) => None,
    }
}

/// Returns the identity in the client's token, or else in its certificate.
pub(crate) fn client_peer(connection: &Connection) -> Option<Peer> {
    if let Some(ClaimedIdentity { principal, not_after }) = connection.token_identity() {
        return Some(Peer::Known { principal, not_after });
    }
    let certificate = CertificateDer::from_pem_file(connection.cert()?).ok()?;
    Some(Peer::of_verified(Some(&[certificate])))
}
