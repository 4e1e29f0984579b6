//! Tests of shutdown, readiness, and certificates that expire, as operators see them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::time::{Duration, Instant, SystemTime};

use e2e::{
    Injector, PATIENCE, Pair, Pki, Upstream, Vault, eventually,
    pair::{get, server},
    pki,
};
use http::StatusCode;
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

/// Grace period for calls under way, which is far longer than the shutdown of a service without calls takes.
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

/// Opens a reflection stream, which the client does not end.
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
async fn health_watchers_learn_of_a_shutdown_and_do_not_delay_it() {
    let pair = Pair::start_with(
        |vault| vault.process.shutdown_grace = GRACE.to_owned(),
        |injector| injector.process.shutdown_grace = GRACE.to_owned(),
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

/// Returns the status and the body of a page.
async fn page(service: std::net::SocketAddr, path: &str) -> (StatusCode, String) {
    let answer = get(&format!("http://{service}{path}")).await;
    (
        answer.status(),
        String::from_utf8(answer.body().to_vec()).unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_certificate_has_expired_is_not_ready_and_says_why() {
    let pki = Pki::new();
    let not_after = SystemTime::now() + Duration::from_secs(6);
    let short = |principal: &str| {
        pki.leaf(&aerostack::pki::Leaf {
            uris: vec![principal.to_owned()],
            usages: vec![aerostack::pki::Usage::Server, aerostack::pki::Usage::Client],
            not_after,
            ..Pki::blank()
        })
    };
    let vault = Vault::start_with(pki.clone(), |_| {}).await;
    let files = short(pki::INJECTOR);
    let injector = Injector::start_with(pki.clone(), vault.address, |settings| {
        settings.vault_cert = Some(files.cert.clone());
        settings.vault_key = Some(files.key.clone());
    })
    .await;
    let upstream = Upstream::start().await;
    vault.workspace("dev").await;
    vault.put("dev", "TOKEN", "canary-77d1").await;
    injector.ready().await;
    injector
        .add(server("dev", "ok", &upstream.url(), &["TOKEN"]))
        .await;
    assert_eq!(injector.get("/dev/ok/").await.status(), StatusCode::OK);
    let expires = not_after
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let (_, metrics) = page(injector.metrics, "/metrics").await;
    let line = format!(
        "aerostack_certificate_expiration_timestamp_seconds{{certificate=\"vault-cert\"}} {expires}\n"
    );
    assert!(metrics.contains(&line), "{metrics}");
    eventually("the injector says so", async || {
        let (status, text) = page(injector.metrics, "/readyz").await;
        status == StatusCode::SERVICE_UNAVAILABLE
            && text.starts_with("not ready: the certificate of --vault-cert expired at ")
    })
    .await;
    let refused = injector.get("/dev/ok/").await;
    assert_eq!(refused.status(), StatusCode::BAD_GATEWAY);
    let text = String::from_utf8(refused.body().to_vec()).unwrap();
    assert!(text.contains("certificate"), "{text}");
    assert!(!text.contains("does not let this injector decrypt"), "{text}");
    injector.stop().await;
    vault.stop().await;

    // The certificate of the vault itself has expired.
    let files = short(pki::VAULT);
    let vault = Vault::start_with(pki, |settings| {
        settings.tls.tls_cert = Some(files.cert);
        settings.tls.tls_key = Some(files.key);
    })
    .await;
    let (status, text) = page(vault.metrics, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        text.starts_with("not ready: the certificate of --tls-cert expired at "),
        "{text}"
    );
    vault.stop().await;
}

/// Returns the readiness that a service reports by gRPC.
async fn readiness(channel: &Channel) -> ServingStatus {
    let request = HealthCheckRequest {
        service: chassis::health::READINESS.to_owned(),
    };
    let answer = HealthClient::new(channel.clone()).check(request).await;
    answer.unwrap().into_inner().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_of_services_that_work_reports_its_readiness_by_grpc() {
    let pair = Pair::start_with(|_| {}, |_| {}).await;
    for channel in [pair.vault.channel(pki::ADMIN), pair.injector.channel(pki::ADMIN)] {
        eventually("ready", async || {
            readiness(&channel).await == ServingStatus::Serving
        })
        .await;
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_injector_that_cannot_use_its_vault_reports_the_expected_identity_and_a_remedy() {
    let pki = Pki::new();
    let vault = Vault::start_with(pki.clone(), |_| {}).await;
    let strangers = Pki::new();
    let stranger = strangers.principal(pki::INJECTOR);
    let other = pki.principal("spiffe://test/other");
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let at = vault.address.to_string();
    for (address, id, files, parts) in [
        (
            &nobody,
            pki::VAULT,
            None,
            ["Connection refused", "check that the vault runs"],
        ),
        (
            &vault.metrics.to_string(),
            pki::VAULT,
            None,
            ["corrupt message", "not its metrics port"],
        ),
        (
            &at,
            "spiffe://test/wrong",
            None,
            [
                "the certificate names spiffe://test/vault, dns:localhost, and not spiffe://test/wrong",
                "that --vault-id spiffe://test/wrong is the vault's name",
            ],
        ),
        (
            &at,
            pki::VAULT,
            Some(stranger),
            ["received fatal alert", "check that --vault-cert"],
        ),
        (
            &at,
            pki::VAULT,
            Some(other),
            [
                "",
                "start the vault with --injector spiffe://test/other=WORKSPACES",
            ],
        ),
    ] {
        let injector = Injector::start_with(pki.clone(), vault.address, |settings| {
            settings.vault = address.clone();
            settings.vault_id = Some(id.to_owned());
            if let Some(files) = files {
                settings.vault_cert = Some(files.cert);
                settings.vault_key = Some(files.key);
            }
        })
        .await;
        let mut last = String::new();
        let said = async {
            loop {
                let (status, text) = page(injector.metrics, "/readyz").await;
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{text}");
                last = text;
                if parts.iter().all(|part| last.contains(part)) && last.contains(address.as_str()) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let said = timeout(Duration::from_secs(20), said).await;
        assert!(said.is_ok(), "{parts:?}: {last}");
        eventually("the gRPC health says so", async || {
            readiness(&injector.channel(pki::ADMIN)).await == ServingStatus::NotServing
        })
        .await;
        injector.stop().await;
    }
    vault.stop().await;
}
