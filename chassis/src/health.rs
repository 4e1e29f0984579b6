//! The gRPC services by which a client asks about this process: `grpc.health.v1.Health` and reflection.
//!
//! A client may keep a stream of either open for as long as it likes. When the service shuts down, every health watcher
//! receives `NOT_SERVING` and then all these streams end, so that they do not use up the time that other calls have to
//! finish.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    time::{self, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use super::{grpc::MAX_SERVICE_MESSAGE, probe::Readiness, reflection, until_shutdown::UntilShutdown};

/// The name under which the health service reports what `/readyz` reports, for clients that cannot reach the probes.
pub const READINESS: &str = "readiness";

/// Interval between two reads of the readiness for [`READINESS`].
const READINESS_INTERVAL: Duration = Duration::from_secs(1);

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

    /// Reports `ready` under the name [`READINESS`] from now on, with a delay of at most [`READINESS_INTERVAL`].
    pub async fn report_readiness(&self, ready: Readiness) {
        let mut reported = ready().is_ok();
        self.set(READINESS, reported).await;
        let health = self.clone();
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(async move {
            let mut ticks = time::interval(READINESS_INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let is_ready = ready().is_ok();
                // A watcher gets a message for each status that is set, also when it did not change.
                if reported != is_ready {
                    reported = is_ready;
                    health.set(READINESS, is_ready).await;
                }
            }
        }));
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tonic::Request;
    use tonic_health::pb::{HealthCheckRequest, health_check_response, health_server::Health as _};

    use super::*;

    async fn status(health: &GrpcHealth) -> Option<health_check_response::ServingStatus> {
        let service = HealthService::from_health_reporter(health.reporter.clone());
        let request = HealthCheckRequest {
            service: READINESS.to_owned(),
        };
        let answer = service.check(Request::new(request)).await.ok()?;
        Some(answer.into_inner().status())
    }

    #[tokio::test(start_paused = true)]
    async fn the_readiness_is_reported_by_name_and_follows_the_service() {
        use health_check_response::ServingStatus::{NotServing, Serving};
        let shutdown = CancellationToken::new();
        let health = GrpcHealth::new(shutdown.clone());
        let is_ready = Arc::new(AtomicBool::new(true));
        let read = is_ready.clone();
        assert_eq!(status(&health).await, None);
        let ready: Readiness = Arc::new(move || match read.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("the vault cannot be reached".into()),
        });
        health.report_readiness(ready).await;
        assert_eq!(status(&health).await, Some(Serving), "before the first interval");
        for (ready, expected) in [(true, Serving), (false, NotServing), (true, Serving)] {
            is_ready.store(ready, Ordering::Relaxed);
            time::advance(READINESS_INTERVAL).await;
            time::sleep(Duration::from_millis(1)).await;
            assert_eq!(status(&health).await, Some(expected));
        }
        shutdown.cancel();
        health.stop.cancelled().await;
        assert_eq!(status(&health).await, Some(NotServing));
    }
}
