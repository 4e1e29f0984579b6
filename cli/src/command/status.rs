//! `aerostack status`

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use chassis::{
    caller::Peer,
    health::READINESS,
    healthcheck::{self, NotReady},
    telemetry::ms,
};
use clap::Args;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
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
    output::{OutputArgs, Report, table},
};

/// Longest time that the `/readyz` of a service may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

const READYZ_SAYS_WHY: &str =
    "its log and its /readyz, on the address of its --metrics-listen, name the cause";

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct StatusReport {
    services: Vec<ServiceStatus>,
    identity: Option<ClientIdentity>,
}

#[derive(Serialize)]
struct ServiceStatus {
    service: &'static str,
    address: String,
    state: ServiceState,
    latency_ms: Option<f64>,
    /// True when this client may list the resources of the service. Absent for the data plane.
    access: Option<bool>,
    /// Explanation of a `state` or an `access` that is not good.
    detail: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum ServiceState {
    Serving,
    /// The health check succeeds, but `/readyz` reports a problem.
    NotReady,
    NotServing,
    Unreachable,
    /// A data plane whose address was not given and that does not answer on the default address.
    Unknown,
}

impl ServiceState {
    fn label(self) -> &'static str {
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
    fn is_well(&self) -> bool {
        matches!(self.state, ServiceState::Serving | ServiceState::Unknown) && self.access != Some(false)
    }
}

#[derive(Serialize)]
struct ClientIdentity {
    principal: String,
    not_after: String,
}

impl StatusArgs {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        let (vault, injector) = (connection.vault()?, connection.injector()?);
        let data_plane = DataPlane::of(connection)?;
        let (vault_probe, injector_probe) = connection.probes();
        let (vault, injector, data_plane) = tokio::join!(
            check_service("vault", &vault, vault_probe, may_list_workspaces(&vault)),
            check_service("injector", &injector, injector_probe, may_list_servers(&injector)),
            check_data_plane(connection, &data_plane),
        );
        let status = StatusReport {
            services: vec![vault, injector, data_plane],
            identity: client_identity(connection),
        };
        let is_negative = !status.services.iter().all(ServiceStatus::is_well);
        let report = Report::new(self.output, &status, status_text)?;
        Ok(Report {
            is_negative,
            ..report
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

/// Returns the principal and the expiry of the client's certificate.
fn client_identity(connection: &Connection) -> Option<ClientIdentity> {
    let certificate = CertificateDer::from_pem_file(connection.cert()?).ok()?;
    match Peer::of_verified(Some(&[certificate])) {
        Peer::Known { principal, not_after } => Some(ClientIdentity {
            principal: principal.to_string(),
            not_after: utc(not_after),
        }),
        Peer::Anonymous => None,
    }
}

fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let stamp = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    stamp.map(|stamp| stamp.to_string()).unwrap_or_default()
}

fn status_text(status: &StatusReport) -> String {
    let rows = status.services.iter().map(|service| {
        let access = match service.access {
            Some(true) => "allowed",
            Some(false) => "refused",
            None => "",
        };
        [
            service.service.to_owned(),
            service.address.clone(),
            service.state.label().to_owned(),
            service
                .latency_ms
                .map(|ms| format!("{ms:.1} ms"))
                .unwrap_or_default(),
            access.to_owned(),
        ]
    });
    let mut text = table(["SERVICE", "ADDRESS", "STATE", "ANSWERED IN", "ACCESS"], rows);
    for service in &status.services {
        if let Some(detail) = &service.detail {
            text.push_str(&format!(
                "{}: {}\n",
                service.service,
                crate::output::printable(detail)
            ));
        }
    }
    if let Some(ClientIdentity { principal, not_after }) = &status.identity {
        text.push_str(&format!(
            "You are {principal}; the certificate is valid until {not_after}.\n"
        ));
    }
    text
}
