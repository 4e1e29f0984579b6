//! The vault: owns secrets, encrypted in an embedded store, write-only for all but injectors.

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

use std::{io, sync::Arc, time::SystemTime};

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
use tonic::service::Routes;
use tower::Layer as _;

use audit_log::{AuditLog, Event, Line, Lines};
use config::Config;
use metrics::Metrics;
use service::{AuditLayer, BackupRpcs, DecryptRpcs, KeyRpcs, ListQuota, Quotas, SecretRpcs, WorkspaceRpcs};
use store::Health;
use vault::{Vault, Writer};

/// The largest message that a client may send.
const MAX_REQUEST: usize = 256 * 1024;
/// Largest message of a decrypt request, in bytes. Every stream can hold one partly received message of this size.
const MAX_DECRYPT_REQUEST: usize = 64 * 1024;
/// The same of a piece of a backup.
const MAX_CHUNK: usize = 1024 * 1024;

/// The sockets that the vault serves.
pub struct Listeners {
    /// gRPC.
    pub grpc: TcpListener,
    /// Probes.
    pub metrics: TcpListener,
}

impl Listeners {
    /// Binds the addresses of `config`.
    pub async fn bind(config: &Config) -> io::Result<Self> {
        Ok(Self {
            grpc: listen::bind(config.listen, config.tcp_timeout)?,
            metrics: listen::bind(config.metrics_listen, config.tcp_timeout)?,
        })
    }
}

/// Why the vault stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The store did not open, or is not this vault's.
    #[error(transparent)]
    Vault(#[from] vault::OpenError),
    /// The audit log's thread did not start.
    #[error("the audit log could not be started")]
    Audit(#[source] io::Error),
    /// Reflection could not be set up.
    #[error("reflection could not be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The gRPC server failed.
    #[error(transparent)]
    Serve(#[from] grpc::ServeError),
    /// What was written last may not be durable.
    #[error("the store did not close cleanly")]
    Close(#[source] store::CommitError),
}

/// Serves until `shutdown` is cancelled; then finishes calls under way and closes the store.
pub async fn run(config: Config, listeners: Listeners, shutdown: CancellationToken) -> Result<(), RunError> {
    let Config {
        data_dir,
        cache_bytes,
        root,
        tls,
        id,
        certificates,
        require_sealed,
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
    let house = tokio::spawn(writer.clone().run_maintenance(closing.clone()));

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
    let audit_log = AuditLog::start(audit_log, metrics.audit.clone()).map_err(RunError::Audit)?;
    audit_log.enqueue(Lines::of(&Line::new(Event::Started)));
    // While calls under way finish, probes are told so.
    let served = CancellationToken::new();
    let _end_probes = served.clone().drop_guard();
    tokio::spawn(probe::serve(
        listeners.metrics,
        probes(registry, &writer, &audit_log, &certificates, &shutdown),
        served,
    ));

    let health = GrpcHealth::new(shutdown.clone());
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
    let quotas = Quotas::default();
    let decrypting = DecryptRpcs {
        reader,
        metrics,
        audit_log: audit_log.clone(),
        quotas: quotas.clone(),
        id,
        require_sealed,
        shutdown: shutdown.clone(),
    };
    let backups = BackupRpcs {
        writer: writer.clone(),
        dir: data_dir,
        shutdown: shutdown.clone(),
    };
    let workspaces = WorkspaceServiceServer::new(WorkspaceRpcs {
        writer: writer.clone(),
        default_plan,
    });
    let secrets = SecretServiceServer::new(SecretRpcs(writer.clone()));
    let keys = KeyServiceServer::new(KeyRpcs(writer.clone()));
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
        .add_service(DecryptServiceServer::new(decrypting).max_decoding_message_size(MAX_DECRYPT_REQUEST))
        .add_service(BackupServiceServer::new(backups).max_decoding_message_size(MAX_CHUNK));
    let services = [
        "vault.v1.WorkspaceService",
        "vault.v1.SecretService",
        "vault.v1.DecryptService",
        "vault.v1.KeyService",
        "vault.v1.BackupService",
    ];
    health.serve(&mut routes, reflection.then_some(services.as_slice()))?;

    if let Ok(address) = listeners.grpc.local_addr() {
        tracing::info!(%address, "vault-service is serving");
    }
    let authz = AuthzLayer::new(&authz::TABLE, policy);
    let served = grpc::serve(
        listeners.grpc,
        tls,
        rpc_metrics.layer(AuditLayer(audit_log.clone()).layer(authz.layer(routes.routes().prepare()))),
        authz,
        grpc::Options {
            threads: ThreadCount::PerProcessor,
            ping,
            grace: shutdown_grace,
        },
        shutdown,
    )
    .await;
    closing.cancel();
    // Both end by themselves; should one have panicked, closing matters more.
    drop((house.await, measuring.await));
    let closed = writer.close().await;
    audit_log.enqueue(Lines::of(&Line::new(Event::Stopped)));
    audit_log.close().await;
    closed.map_err(RunError::Close)?;
    Ok(served?)
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
                Health::Ready if writer.is_locked() => "sealed; the root key's provider does not answer",
                Health::Ready if audit_log.admit().is_err() => "the audit log cannot be written",
                Health::Ready => return Ok(()),
                Health::DiskFull => "the disk is full",
                Health::Unresponsive => "the storage does not answer",
                Health::Stopped => "the storage failed; restart",
            };
            Err(problem.into())
        }),
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
        vault::{Plan, VaultError},
    };

    /// The commit thread is seen to be in a sync, or out of it, a moment later.
    async fn becomes(ready: &probe::Readiness, answer: Result<(), &'static str>) {
        let answer = answer.map_err(Into::into);
        let becoming = async {
            while ready() != answer {
                yield_now().await;
            }
        };
        let became = timeout(Duration::from_secs(10), becoming).await;
        assert!(became.is_ok(), "{:?}, and not {answer:?}", ready());
    }

    #[tokio::test]
    async fn a_vault_is_ready_unless_its_storage_hangs_or_failed_or_it_stops() {
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
        becomes(&ready, Err("the storage does not answer")).await;
        syncs.send(()).unwrap();
        making.await.unwrap().unwrap();
        becomes(&ready, Ok(())).await;
        drop(syncs);
        let failed = writer.create_workspace(&admin_permit("v"), Plan::Free).await;
        assert!(matches!(failed, Err(VaultError::OutcomeUnknown(_))), "{failed:?}");
        assert_eq!(ready(), Err("the storage failed; restart".into()));
        stop.cancel();
        assert_eq!(ready(), Err("shutting down".into()));
    }
}
