//! The gRPC services by which a client asks about this process: `grpc.health.v1.Health` and reflection.
//!
//! A client may keep a stream of either open for as long as it likes. When the service shuts down, every health watcher
//! receives `NOT_SERVING` and then all these streams end, so that they do not use up the time that other calls have to
//! finish.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    time::{self, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, service::RoutesBuilder};
use tonic_health::{
    ServingStatus,
    pb::{
        HealthCheckRequest, HealthCheckResponse,
        health_server::{Health, HealthServer},
    },
    server::{HealthReporter, HealthService},
};

use super::{grpc::MAX_SERVICE_MESSAGE, probe::Readiness, reflection, until_shutdown::UntilShutdown};

/// The name under which the health service reports what `/readyz` reports, for clients that cannot reach the probes.
pub const READINESS: &str = "readiness";

/// Interval between two reads of the readiness for the watchers of [`READINESS`].
const READINESS_INTERVAL: Duration = Duration::from_secs(1);

/// The health of a process and its gRPC services, as `grpc.health.v1.Health` reports it. Clones share the state.
#[derive(Clone)]
pub struct GrpcHealth {
    reporter: HealthReporter,
    /// For each service name, true when it is serving; `None` after the shutdown, when no status changes any more.
    statuses: Arc<Mutex<Option<BTreeMap<&'static str, bool>>>>,
    ready: Readiness,
    /// Cancelled when every watcher has received the status of the shutdown.
    stop: CancellationToken,
}

impl GrpcHealth {
    /// Makes a reporter whose streams end on `shutdown`. The empty name, which means the whole process, is serving until
    /// [`set`](Self::set) changes it. The name [`READINESS`] has the status of `ready`: a check reads it anew, and a
    /// watcher learns of a change within [`READINESS_INTERVAL`].
    pub async fn start(ready: Readiness, shutdown: CancellationToken) -> Self {
        let health = Self {
            reporter: HealthReporter::new(),
            statuses: Arc::new(Mutex::new(Some(BTreeMap::from([("", true)])))),
            ready,
            stop: CancellationToken::new(),
        };
        health.read_readiness().await;
        let (reading, stopping) = (health.clone(), health.clone());
        tokio::spawn(health.stop.clone().run_until_cancelled_owned(async move {
            let mut ticks = time::interval(READINESS_INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                reading.read_readiness().await;
            }
        }));
        tokio::spawn(async move {
            shutdown.cancelled().await;
            stopping.shut_down().await;
        });
        health
    }

    /// Sets the status of the gRPC service `name`.
    pub async fn set(&self, name: &'static str, serving: bool) {
        self.update(name, || serving).await;
    }

    /// Sets the status that `serving` returns, which is called in the order in which statuses are set.
    async fn update(&self, name: &'static str, serving: impl FnOnce() -> bool) {
        let mut statuses = self.statuses.lock().await;
        let Some(statuses) = statuses.as_mut() else {
            return;
        };
        let serving = serving();
        // A watcher gets a message for each status that the reporter is given, also when the status did not change.
        if statuses.insert(name, serving) != Some(serving) {
            let status = if serving {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            self.reporter.set_service_status(name, status).await;
        }
    }

    async fn read_readiness(&self) {
        self.update(READINESS, || (self.ready)().is_ok()).await;
    }

    /// Adds the health service to `routes`, and the reflection service when `reflected` is given: the full names of the
    /// services that it shows.
    pub fn serve(
        &self,
        routes: &mut RoutesBuilder,
        reflected: Option<&[&str]>,
    ) -> Result<(), tonic_reflection::server::Error> {
        let health = HealthServer::new(HealthRpcs::new(self.clone()));
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
        let statuses = self.statuses.lock().await.take();
        for (name, _) in statuses.into_iter().flatten() {
            self.reporter
                .set_service_status(name, ServingStatus::NotServing)
                .await;
        }
        self.stop.cancel();
    }
}

/// The RPCs of `tonic-health`, whose checks of [`READINESS`] read the readiness first.
struct HealthRpcs {
    health: GrpcHealth,
    inner: HealthService,
}

impl HealthRpcs {
    fn new(health: GrpcHealth) -> Self {
        Self {
            inner: HealthService::from_health_reporter(health.reporter.clone()),
            health,
        }
    }
}

#[tonic::async_trait]
impl Health for HealthRpcs {
    type WatchStream = <HealthService as Health>::WatchStream;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if request.get_ref().service == READINESS {
            self.health.read_readiness().await;
        }
        self.inner.check(request).await
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.inner.watch(request).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::StreamExt as _;
    use tonic_health::pb::health_check_response::ServingStatus::{self, NotServing, Serving};

    use super::*;

    fn of_readiness() -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest {
            service: READINESS.to_owned(),
        })
    }

    async fn status(rpcs: &HealthRpcs) -> ServingStatus {
        rpcs.check(of_readiness()).await.unwrap().into_inner().status()
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_answers_the_present_readiness_and_a_watcher_gets_each_change_once() {
        let is_ready = Arc::new(AtomicBool::new(true));
        let read = is_ready.clone();
        let ready: Readiness = Arc::new(move || match read.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("the vault cannot be reached".into()),
        });
        let shutdown = CancellationToken::new();
        let health = GrpcHealth::start(ready, shutdown.clone()).await;
        let rpcs = HealthRpcs::new(health.clone());
        let mut watch = rpcs.watch(of_readiness()).await.unwrap().into_inner();
        let mut changes = Vec::new();
        for (ready, expected) in [(true, Serving), (false, NotServing), (true, Serving)] {
            is_ready.store(ready, Ordering::Relaxed);
            // The clock is paused, so the interval has not passed.
            assert_eq!(status(&rpcs).await, expected);
            changes.push(watch.next().await.unwrap().unwrap().status());
            time::advance(READINESS_INTERVAL * 3).await;
            time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(changes, [Serving, NotServing, Serving]);
        is_ready.store(false, Ordering::Relaxed);
        assert_eq!(
            watch.next().await.unwrap().unwrap().status(),
            NotServing,
            "without a check"
        );
        shutdown.cancel();
        health.stop.cancelled().await;
        is_ready.store(true, Ordering::Relaxed);
        assert_eq!(status(&rpcs).await, NotServing);
    }
}
