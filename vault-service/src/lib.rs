//! The vault: keeps secrets encrypted in an embedded store, and gives values to injectors only.

pub mod audit_log;
pub mod authz;
pub mod config;
pub mod crypto;
mod metrics;
pub mod new_file;
pub mod offline;
pub mod root;
mod service;
mod status;
pub mod store;
mod unlock;
pub mod vault;

use std::{io, path::PathBuf, sync::Arc, time::SystemTime};

use chassis::{
    authz::AuthzLayer,
    expiry::OwnCertificates,
    grpc,
    health::GrpcHealth,
    listen, probe, process_metrics,
    rpc_metrics::RpcMetrics,
    worker_threads::{TaskMetrics, ThreadCount},
};
use prometheus_client::registry::Registry;
use proto::vault::v1::{
    backup_service_server::BackupServiceServer, decrypt_service_server::DecryptServiceServer,
    key_service_server::KeyServiceServer, secret_service_server::SecretServiceServer,
    workspace_service_server::WorkspaceServiceServer,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};
use tower::Layer as _;

use audit_log::{AuditLog, Event, Line, Lines};
use config::Config;
use metrics::Metrics;
use service::{AuditLayer, BackupRpcs, DecryptRpcs, KeyRpcs, ListQuota, Quotas, SecretRpcs, WorkspaceRpcs};
use store::Health;
use vault::{Plan, Reader, Vault, Writer};

/// Maximum size of a request message of all other RPCs, in bytes.
const MAX_REQUEST: usize = 256 * 1024;
/// Maximum size of a decrypt request, in bytes. Every stream can hold one partly received message of this size.
const MAX_DECRYPT_REQUEST: usize = 64 * 1024;
/// Maximum size of a message with a part of a backup, in bytes.
const MAX_BACKUP_PART: usize = 1024 * 1024;

/// The sockets that the vault serves.
pub struct Listeners {
    pub grpc: TcpListener,
    /// Plain HTTP: metrics and probes.
    pub metrics: TcpListener,
}

impl Listeners {
    pub async fn bind(config: &Config) -> io::Result<Self> {
        Ok(Self {
            grpc: listen::bind(config.listen, config.tcp_timeout)?,
            metrics: listen::bind(config.metrics_listen, config.tcp_timeout)?,
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Vault(#[from] vault::OpenError),
    #[error("the audit log could not be started")]
    Audit(#[source] io::Error),
    #[error("reflection could not be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error(transparent)]
    Serve(#[from] grpc::ServeError),
    /// The last writes may not be durable.
    #[error("the store did not close cleanly")]
    Close(#[source] store::CommitError),
}

/// Serves until `shutdown` is cancelled, then finishes running calls and closes the store.
pub async fn run(config: Config, listeners: Listeners, shutdown: CancellationToken) -> Result<(), RunError> {
    let Config {
        data_dir,
        cache_bytes,
        root,
        tls,
        id,
        certificates,
        require_sealed,
        issuers,
        policy,
        audit_log,
        default_plan,
        reflection,
        shutdown_grace,
        erase_after,
        ping,
        tcp_timeout: _,
        listen: _,
        metrics_listen: _,
    } = config;
    let (writer, reader) = Vault::open_in(data_dir.clone(), cache_bytes, root).await?.split();
    writer.spawn_sweep();
    let closing = CancellationToken::new();
    let maintenance = tokio::spawn(writer.clone().run_maintenance(closing.clone()));

    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    registry.register_collector(Box::new(TaskMetrics));
    process_metrics::register(&mut registry, env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let rpc_metrics = RpcMetrics::register(&mut registry, &authz::TABLE);
    let measuring = metrics.clone().measure_store(writer.clone(), closing.clone());
    let measuring = tokio::spawn(measuring);
    registry.register_collector(Box::new(certificates.clone()));
    tokio::spawn(
        shutdown
            .clone()
            .run_until_cancelled_owned(certificates.clone().watch()),
    );
    issuers.register(&mut registry);
    tokio::spawn(
        shutdown
            .clone()
            .run_until_cancelled_owned(issuers.clone().keep_fresh()),
    );
    let audit_log = AuditLog::start(audit_log, metrics.audit.clone()).map_err(RunError::Audit)?;
    audit_log.enqueue(Lines::of(&Line::new(Event::Started)));
    // The probes are served until the running calls have finished, and answer "shutting down" meanwhile.
    let served = CancellationToken::new();
    let _end_probes = served.clone().drop_guard();
    let probes = probes(registry, &writer, &audit_log, &certificates, &shutdown);
    let ready = probes.ready.clone();
    tokio::spawn(probe::serve(listeners.metrics, probes, served));

    let health = GrpcHealth::start(ready, shutdown.clone()).await;
    let unlocking = unlock::UnlockTask {
        writer: writer.clone(),
        health: health.clone(),
        metrics: metrics.clone(),
        audit_log: audit_log.clone(),
        erase_after,
    };
    unlocking.show().await;
    if !writer.is_locked() {
        unlocking.note_unlocked();
    }
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(unlocking.run()));
    let services = Services {
        writer: writer.clone(),
        reader,
        metrics,
        audit_log: audit_log.clone(),
        id,
        require_sealed,
        data_dir,
        default_plan,
        shutdown: shutdown.clone(),
    };
    let mut routes = services.routes();
    health.serve(&mut routes, reflection.then_some(SERVICES))?;

    let authz = AuthzLayer::new(&authz::TABLE, policy);
    let started = grpc::start(
        tls,
        rpc_metrics.layer(AuditLayer(audit_log.clone()).layer(authz.layer(routes.routes().prepare()))),
        authz,
        issuers,
        grpc::Options {
            threads: ThreadCount::PerProcessor,
            ping,
            grace: shutdown_grace,
        },
        shutdown,
    );
    let served = match started {
        Ok(server) => {
            if let Ok(address) = listeners.grpc.local_addr() {
                tracing::info!(%address, "vault-service is serving");
            }
            server.serve(listeners.grpc).await
        }
        Err(error) => Err(error),
    };
    closing.cancel();
    // A panic in one of these tasks must not keep the store from being closed, so their results are ignored.
    drop((maintenance.await, measuring.await));
    let closed = writer.close().await;
    audit_log.enqueue(Lines::of(&Line::new(Event::Stopped)));
    audit_log.close().await;
    closed.map_err(RunError::Close)?;
    Ok(served?)
}

/// Names of the services that reflection describes.
const SERVICES: &[&str] = &[
    "vault.v1.WorkspaceService",
    "vault.v1.SecretService",
    "vault.v1.DecryptService",
    "vault.v1.KeyService",
    "vault.v1.BackupService",
];

struct Services {
    writer: Writer,
    reader: Reader,
    metrics: Metrics,
    audit_log: AuditLog,
    id: proto::Principal,
    require_sealed: bool,
    data_dir: PathBuf,
    default_plan: Plan,
    shutdown: CancellationToken,
}

impl Services {
    fn routes(self) -> RoutesBuilder {
        let Self {
            writer,
            reader,
            metrics,
            audit_log,
            id,
            require_sealed,
            data_dir,
            default_plan,
            shutdown,
        } = self;
        let quotas = Quotas::default();
        let workspaces = WorkspaceServiceServer::new(WorkspaceRpcs {
            writer: writer.clone(),
            default_plan,
        });
        let secrets = SecretServiceServer::new(SecretRpcs(writer.clone()));
        let keys = KeyServiceServer::new(KeyRpcs(writer.clone()));
        let decrypt = DecryptServiceServer::new(DecryptRpcs {
            reader,
            metrics,
            audit_log,
            quotas: quotas.clone(),
            id,
            require_sealed,
            shutdown: shutdown.clone(),
        });
        let backups = BackupServiceServer::new(BackupRpcs {
            writer,
            dir: data_dir,
            shutdown,
        });
        let mut routes = Routes::builder();
        routes
            .add_service(ListQuota::new(
                workspaces.max_decoding_message_size(MAX_REQUEST),
                &quotas,
            ))
            .add_service(ListQuota::new(
                secrets.max_decoding_message_size(MAX_REQUEST),
                &quotas,
            ))
            .add_service(ListQuota::new(
                keys.max_decoding_message_size(MAX_REQUEST),
                &quotas,
            ))
            .add_service(decrypt.max_decoding_message_size(MAX_DECRYPT_REQUEST))
            .add_service(backups.max_decoding_message_size(MAX_BACKUP_PART));
        routes
    }
}

fn probes(
    registry: Registry,
    writer: &Writer,
    audit_log: &AuditLog,
    certificates: &OwnCertificates,
    shutdown: &CancellationToken,
) -> probe::Probes {
    let (writer, audit_log, shutdown) = (writer.clone(), audit_log.clone(), shutdown.clone());
    let certificates = certificates.clone();
    probe::Probes {
        metrics: Arc::new(registry),
        ready: Arc::new(move || {
            if shutdown.is_cancelled() {
                return Err("shutting down".into());
            }
            certificates.check(SystemTime::now())?;
            let problem = match writer.health() {
                Health::Ready if writer.is_locked() => "locked; the root key's provider does not answer",
                Health::Ready if audit_log.admit().is_err() => "the audit log cannot be written",
                Health::Ready => return Ok(()),
                Health::DiskFull => "the disk is full",
                Health::Unresponsive => "the storage does not answer",
                Health::Stopped => "the storage failed; restart",
            };
            Err(problem.into())
        }),
        started: None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::time::Duration;

    use tokio::{task::yield_now, time::timeout};

    use super::*;
    use crate::{
        audit_log::AuditMetrics,
        authz::for_tests::admin_permit,
        crypto::RootKey,
        root::{Provider, Providers},
        store::Store,
        vault::VaultError,
    };

    /// Waits until the probe gives the answer, which changes a moment after the commit thread begins or ends a sync.
    async fn wait_for_answer(ready: &probe::Readiness, answer: Result<(), &'static str>) {
        let answer = answer.map_err(Into::into);
        let waiting = async {
            while ready() != answer {
                yield_now().await;
            }
        };
        let answered = timeout(Duration::from_secs(10), waiting).await;
        assert!(answered.is_ok(), "{:?}, and not {answer:?}", ready());
    }

    #[tokio::test]
    async fn a_vault_is_ready_unless_its_storage_hangs_or_failed_or_the_vault_shuts_down() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("vault");
        let root = Arc::new(RootKey::generate().unwrap());
        let providers = || Providers::new(Provider::File(root.clone()), Vec::new());
        let made = Vault::open(Store::open(&dir, 16 << 20).unwrap(), providers());
        made.await.unwrap().split().0.close().await.unwrap();

        let (store, syncs) = Store::hanging(&dir);
        let (writer, _reader) = Vault::open(store, providers()).await.unwrap().split();
        let stop = CancellationToken::new();
        let no_log = AuditLog::start(None, AuditMetrics::default()).unwrap();
        let certificates = OwnCertificates::default();
        let ready = probes(Registry::default(), &writer, &no_log, &certificates, &stop).ready;
        assert_eq!(ready(), Ok(()));
        let making = tokio::spawn({
            let writer = writer.clone();
            async move { writer.create_workspace(&admin_permit("w"), Plan::Free).await }
        });
        wait_for_answer(&ready, Err("the storage does not answer")).await;
        syncs.send(()).unwrap();
        making.await.unwrap().unwrap();
        wait_for_answer(&ready, Ok(())).await;
        drop(syncs);
        let failed = writer.create_workspace(&admin_permit("v"), Plan::Free).await;
        assert!(matches!(failed, Err(VaultError::OutcomeUnknown(_))), "{failed:?}");
        assert_eq!(ready(), Err("the storage failed; restart".into()));
        stop.cancel();
        assert_eq!(ready(), Err("shutting down".into()));
    }
}
