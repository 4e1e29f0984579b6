//! The gRPC listener, through which administrators read and change servers.

use chassis::{
    authz::AuthzLayer, grpc, health::GrpcHealth, jwt::Issuers, probe::Readiness, rpc_metrics::RpcMetrics,
};
use proto::injector::v1::{
    catalog_service_server::CatalogServiceServer, server_service_server::ServerServiceServer,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, service::Routes};
use tower::Layer as _;

use crate::{
    RunError, authz,
    catalog::Catalog,
    config::AdminConfig,
    registry::Registry,
    resolve::Resolver,
    service::{CatalogEntries, Servers},
};

/// The largest gRPC message that a client may send, in bytes.
const MAX_REQUEST: usize = 256 * 1024;

/// The state behind the RPCs.
pub(crate) struct AdminServices {
    pub(crate) registry: Registry,
    pub(crate) resolver: Resolver,
    pub(crate) catalog: Option<Catalog>,
    /// The issuers whose tokens identify clients.
    pub(crate) issuers: Issuers,
    pub(crate) ready: Readiness,
}

impl AdminServices {
    /// Serves until the shutdown, and then until the calls under way have ended.
    pub(crate) async fn serve(
        self,
        config: AdminConfig,
        listener: TcpListener,
        metrics: RpcMetrics,
        options: grpc::Options,
        shutdown: CancellationToken,
    ) -> Result<(), RunError> {
        let AdminConfig {
            listen: _,
            tls,
            policy,
            reflection,
        } = config;
        let health = GrpcHealth::start(self.ready.clone(), shutdown.clone()).await;
        let issuers = self.issuers.clone();
        let routes = self.routes(&health, reflection).await?;
        let authz = AuthzLayer::new(&authz::TABLE, policy);
        let service = metrics.layer(authz.layer(routes.prepare()));
        let server = grpc::start(tls, service, authz, issuers, options, shutdown)?;
        Ok(server.serve(listener).await?)
    }

    async fn routes(self, health: &GrpcHealth, reflection: bool) -> Result<Routes, RunError> {
        let services = [
            <ServerServiceServer<Servers> as NamedService>::NAME,
            <CatalogServiceServer<CatalogEntries> as NamedService>::NAME,
        ];
        for service in services {
            health.set(service, true).await;
        }
        let catalog = self.catalog.clone();
        let servers = ServerServiceServer::new(Servers::new(self.registry, self.resolver, self.catalog));
        let catalog = CatalogServiceServer::new(CatalogEntries::new(catalog));
        let mut routes = Routes::builder();
        routes
            .add_service(servers.max_decoding_message_size(MAX_REQUEST))
            .add_service(catalog.max_decoding_message_size(MAX_REQUEST));
        health.serve(&mut routes, reflection.then_some(services.as_slice()))?;
        Ok(routes.routes())
    }
}
