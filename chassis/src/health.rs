//! The gRPC services about a service itself: health and reflection.
//!
//! A client may keep a stream of either open for as long as it likes. When the service shuts down, every health watcher
//! receives `NOT_SERVING` and then all these streams end, so that they do not use up the time that other calls have to
//! finish.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use super::{grpc::MAX_SERVICE_MESSAGE, reflection, until_shutdown::UntilShutdown};

/// The health of a process and its gRPC services, as `grpc.health.v1.Health` reports it. Clones share the state.
#[derive(Clone)]
pub struct GrpcHealth {
    reporter: HealthReporter,
    /// The service names that have a status; `None` after the shutdown, when no status changes any more.
    names: Arc<Mutex<Option<Vec<&'static str>>>>,
    /// Cancelled when every watcher has received the status of the shutdown.
    stop: CancellationToken,
}

impl GrpcHealth {
    /// Makes a reporter whose streams end on `shutdown`. The empty name, which means the whole process, is serving until
    /// [`set`](Self::set) changes it. Must be called inside a runtime.
    pub fn new(shutdown: CancellationToken) -> Self {
        let health = Self {
            reporter: HealthReporter::new(),
            names: Arc::new(Mutex::new(Some(vec![""]))),
            stop: CancellationToken::new(),
        };
        let stopping = health.clone();
        tokio::spawn(async move {
            shutdown.cancelled().await;
            stopping.shut_down().await;
        });
        health
    }

    /// Sets the status of the gRPC service `name`.
    pub async fn set(&self, name: &'static str, serving: bool) {
        let mut names = self.names.lock().await;
        let Some(names) = names.as_mut() else { return };
        if !names.contains(&name) {
            names.push(name);
        }
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        self.reporter.set_service_status(name, status).await;
    }

    /// Adds the health service to `routes`, and the reflection service when `reflected` is given: the full names of the
    /// services that it shows.
    pub fn serve(
        &self,
        routes: &mut RoutesBuilder,
        reflected: Option<&[&str]>,
    ) -> Result<(), tonic_reflection::server::Error> {
        let health = HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()));
        routes.add_service(UntilShutdown::new(
            health.max_decoding_message_size(MAX_SERVICE_MESSAGE),
            self.stop.clone(),
        ));
        match reflected {
            Some(services) => reflection::add(routes, services, &self.stop),
            None => Ok(()),
        }
    }

    async fn shut_down(&self) {
        let names = self.names.lock().await.take();
        for name in names.into_iter().flatten() {
            self.reporter
                .set_service_status(name, ServingStatus::NotServing)
                .await;
        }
        self.stop.cancel();
    }
}
