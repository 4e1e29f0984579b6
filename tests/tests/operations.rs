//! What the people see who operate the services: the end of a service, readiness, and certificates that expire.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::time::{Duration, Instant};

use e2e::{PATIENCE, Pair, pki};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::{Code, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

/// Time that calls under way have to finish: far more than the end of a service without such calls takes.
const GRACE: &str = "30s";

async fn watch(channel: &Channel, service: &str) -> Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let mut watch = HealthClient::new(channel.clone())
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving, "{service:?}");
    watch
}

/// A reflection stream that its client does not end.
async fn reflect(channel: &Channel) -> Streaming<tonic_reflection::pb::v1::ServerReflectionResponse> {
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = tokio_stream::once(list).chain(tokio_stream::pending());
    let mut client = ServerReflectionClient::new(channel.clone());
    let mut answers = client
        .server_reflection_info(requests)
        .await
        .unwrap()
        .into_inner();
    answers.message().await.unwrap().unwrap();
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_are_told_of_a_shutdown_and_do_not_delay_it() {
    let pair = Pair::start_with(
        |vault| vault.shutdown_grace = GRACE.to_owned(),
        |injector| injector.shutdown_grace = GRACE.to_owned(),
    )
    .await;
    let (vault, injector) = (pair.vault.channel(pki::ADMIN), pair.injector.channel(pki::ADMIN));
    let mut watches = vec![
        watch(&vault, "").await,
        watch(&vault, "vault.v1.DecryptService").await,
        watch(&injector, "").await,
        watch(&injector, "injector.v1.ServerService").await,
    ];
    let mut reflections = [reflect(&vault).await, reflect(&injector).await];
    let started = Instant::now();
    let stopped = tokio::spawn(pair.stop());
    for watch in &mut watches {
        let last = timeout(PATIENCE, watch.message())
            .await
            .expect("nothing was told");
        assert_eq!(last.unwrap().unwrap().status(), ServingStatus::NotServing);
        let end = watch.message().await.unwrap_err();
        assert_eq!(
            (end.code(), end.message()),
            (Code::Unavailable, "the service is shutting down")
        );
    }
    for reflection in &mut reflections {
        let _ended = timeout(PATIENCE, reflection.message())
            .await
            .expect("it did not end");
    }
    timeout(PATIENCE, stopped).await.unwrap().unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}
