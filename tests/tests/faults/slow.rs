//! Tests of a slow vault, and of one that never answers.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use chassis::worker_threads::ThreadCount;
use e2e::{PATIENCE, Pki, Upstream, eventually, process};
use futures_util::future::join_all;
use http::{Request, Response, StatusCode, request::Builder};
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::Frame;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    sync::{RwLockReadGuard, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    MEMORY, Mode, Scene, Wire,
    fake::{Act, Fake, Served, honest, value_of, with},
    listing, patient, scene_of, scene_within, value,
};

/// Number of calls that wait at the same time.
const CALLS: usize = 2_000;
/// Number of streams of one connection. Each call that succeeds takes a connection to the upstream, and not every machine
/// allows a thousand.
const STREAMS: usize = 200;

type Caller = Client<HttpConnector, Empty<Bytes>>;

fn caller() -> Caller {
    Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http()
}

async fn slow(budget: &'static str) -> (Served, Scene) {
    let shared = MEMORY.read().await;
    slow_with(budget, Some(shared)).await
}

async fn slow_with(budget: &'static str, shared: Option<RwLockReadGuard<'static, ()>>) -> (Served, Scene) {
    let pki = Pki::new();
    let served = Fake::new(|call| Act::Answer(vec![honest(&call)]))
        .serve(&pki)
        .await;
    let scene = scene_within(&pki, served.address, &[("s", &["A"])], patient(budget), shared).await;
    scene.injector.ready().await;
    (served, scene)
}

/// Makes concurrent calls over HTTP/2, on as many connections as necessary.
async fn call_at_once(scene: &Scene, calls: usize) -> Vec<Response<Bytes>> {
    let url = scene.injector.url("/dev/s/");
    let calls = (0..calls.div_ceil(STREAMS)).flat_map(|_| {
        let caller = caller();
        (0..STREAMS).map(move |_| caller.clone())
    });
    let calls = calls.map(|caller| {
        let request = Request::get(&url).body(Empty::new()).unwrap();
        async move {
            let (parts, body) = caller.request(request).await.unwrap().into_parts();
            Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
        }
    });
    timeout(PATIENCE, join_all(calls))
        .await
        .expect("a call never ended")
}

fn refusal(response: &Response<Bytes>) -> (u16, &str) {
    let reason = &response.headers()["x-aerostack-reason"];
    (response.status().as_u16(), reason.to_str().unwrap())
}

/// All rounds together have more calls than may wait at the same time.
#[tokio::test]
async fn calls_behind_a_vault_that_hangs_take_bounded_memory() {
    const ROUNDS: usize = 5;
    let _alone = MEMORY.write().await;
    let (served, scene) = slow_with("500ms", None).await;
    assert_eq!(scene.call("s").await.status(), StatusCode::OK);
    let tasks = process::tasks();
    served.fake.set(|_| Act::Nothing);
    let mut most = 0;
    for round in 0..ROUNDS {
        let started = Instant::now();
        for answer in call_at_once(&scene, CALLS).await {
            assert_eq!(refusal(&answer), (504, "DEADLINE_EXCEEDED"), "round {round}");
        }
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{:?}",
            started.elapsed()
        );
        // The first round shows the memory of so many calls. The process reuses this memory in the later rounds.
        match round {
            0 => most = process::resident(),
            _ => assert!(
                process::resident() < most + (16 << 20),
                "round {round}: memory grew from {most} to {}",
                process::resident()
            ),
        }
    }
    assert_eq!(scene.upstream.seen().len(), 1);
    assert!(scene.is_ready().await, "it answers, though not in time");
    served.fake.set(|call| Act::Answer(vec![honest(&call)]));
    assert_eq!(scene.call("s").await.status(), StatusCode::OK);
    eventually("the calls' tasks are gone", async || {
        process::tasks() <= tasks + 8
    })
    .await;
    let answers = call_at_once(&scene, STREAMS).await;
    assert!(answers.iter().all(|answer| answer.status() == StatusCode::OK));
}

#[tokio::test]
async fn a_slow_vault_delays_concurrent_calls_in_parallel() {
    let (served, scene) = slow("10s").await;
    let late = Duration::from_millis(1_000);
    served.fake.set(move |call| Act::After(late, honest(&call)));
    let started = Instant::now();
    let answers = call_at_once(&scene, STREAMS).await;
    assert!(answers.iter().all(|answer| answer.status() == StatusCode::OK));
    let took = started.elapsed();
    assert!(took >= late && took < 5 * late, "{took:?}");
}

#[tokio::test]
async fn a_late_answer_is_ignored() {
    let (served, scene) = slow("1s").await;
    served.fake.set(|call| {
        let mut wrong = crate::ok("A");
        wrong.value = b"canary-late".to_vec();
        Act::After(Duration::from_millis(1_500), with(&call, vec![wrong]))
    });
    for answer in call_at_once(&scene, STREAMS).await {
        assert_eq!(refusal(&answer), (504, "DEADLINE_EXCEEDED"));
    }
    assert!(scene.upstream.seen().is_empty());
    // The late answers arrive during these calls.
    served.fake.set(|call| Act::Answer(vec![honest(&call)]));
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(800) {
        assert_eq!(scene.call("s").await.status(), StatusCode::OK);
        assert_eq!(value(&scene.upstream.last(), "A"), Some(value_of("A")));
    }
}

/// Builds a gRPC call of a server.
fn grpc(scene: &Scene, server: &str) -> Builder {
    Request::post(scene.injector.url("/x.Y/Z"))
        .header("content-type", "application/grpc")
        .header("x-aerostack-workspace", "dev")
        .header("x-aerostack-server", server)
}

#[tokio::test]
async fn a_grpc_call_waits_for_the_vault_at_most_until_its_deadline() {
    let (served, scene) = slow("30s").await;
    served.fake.set(|_| Act::Nothing);
    let request = grpc(&scene, "s").header("grpc-timeout", "200m");
    let request = request.body(Empty::new()).unwrap();
    let started = Instant::now();
    let response = timeout(PATIENCE, caller().request(request))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(response.headers()["grpc-status"], "4");
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    assert!(scene.upstream.seen().is_empty());
}

#[tokio::test]
async fn decrypts_of_cancelled_calls_are_not_retried() {
    let pki = Pki::new();
    let served = Fake::new(|_| Act::Nothing).serve(&pki).await;
    let wire = Wire::to(served.address, Mode::Through).await;
    let shared = MEMORY.read().await;
    let scene = scene_within(&pki, wire.address, &[("s", &["A"])], patient("30s"), Some(shared)).await;
    let scene = Arc::new(scene);
    scene.injector.ready().await;
    let mut calls = JoinSet::new();
    for _ in 0..STREAMS {
        let calling = scene.clone();
        calls.spawn(async move { calling.call("s").await.status() });
    }
    eventually("all were asked for", async || {
        served.fake.asked().len() == STREAMS
    })
    .await;
    let tasks = process::tasks();
    calls.shutdown().await;
    // Each cancelled call ends its own task and the tasks of its connection, in the client and in the injector.
    eventually("the calls' tasks are gone", async || {
        process::tasks() + STREAMS <= tasks
    })
    .await;
    served.fake.set(|call| Act::Answer(vec![honest(&call)]));
    wire.cut_once();
    let more = call_on_every_stream(&scene).await;
    assert_eq!(served.fake.asked().len(), STREAMS + more);
    assert_eq!(scene.upstream.seen().len(), more);
}

/// Makes calls until the injector has opened and used each of its streams again, because the calls that wait longest are sent
/// first. Returns the number of calls.
async fn call_on_every_stream(scene: &Scene) -> usize {
    let calls = 2 * ThreadCount::PerProcessor.count();
    for _ in 0..calls {
        assert_eq!(scene.call("s").await.status(), StatusCode::OK);
    }
    calls
}

/// Parses a `grpc-timeout`.
fn parse_timeout(text: &str) -> Duration {
    let (digits, unit) = text.split_at(text.len() - 1);
    let number = digits.parse().unwrap();
    match unit {
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_upstream_gets_the_grpc_deadline_less_the_time_of_the_vault() {
    let (served, scene) = slow("10s").await;
    let late = Duration::from_millis(500);
    served.fake.set(move |call| Act::After(late, honest(&call)));
    for given in ["6S", "6000m", "6000000u"] {
        let request = grpc(&scene, "s").header("grpc-timeout", given);
        let request = request.body(Empty::new()).unwrap();
        let answered = timeout(PATIENCE, caller().request(request)).await;
        assert!(answered.unwrap().is_ok());
        let seen = scene.upstream.last();
        let passed = parse_timeout(seen.header("grpc-timeout").unwrap());
        assert!(
            passed <= parse_timeout(given) - late && passed > Duration::ZERO,
            "{given} became {passed:?}"
        );
    }
}

#[tokio::test]
async fn decrypts_for_messages_of_cancelled_calls_are_not_retried() {
    let pki = Pki::new();
    let asked = AtomicUsize::new(0);
    let served = Fake::new(move |call| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => Act::Answer(vec![honest(&call)]),
        _ => Act::Nothing,
    })
    .serve(&pki)
    .await;
    let wire = Wire::to(served.address, Mode::Through).await;
    let upstream = Upstream::start().await;
    let file = listing(&upstream, &[("s", &["A"]), ("messages", &["A"])])
        + "  auth_type: skill\n  protobuf_secrets_field: 7\n  protobuf_messages: all\n  grpc_methods: [x.Y/Z]\n";
    let shared = MEMORY.read().await;
    let scene = scene_of(&pki, wire.address, upstream, file, patient("30s"), Some(shared)).await;
    scene.injector.ready().await;
    let (messages, body) = mpsc::channel(2);
    for _ in 0..2 {
        let empty = Bytes::from_static(&[0; 5]);
        messages
            .send(Ok::<_, Infallible>(Frame::data(empty)))
            .await
            .unwrap();
    }
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let request = grpc(&scene, "messages").body(StreamBody::new(ReceiverStream::new(body)));
    let call = tokio::spawn(client.request(request.unwrap()));
    eventually("both messages were asked for", async || {
        served.fake.asked().len() == 2
    })
    .await;
    call.abort();
    eventually("the upstream was told", async || {
        let seen = scene.upstream.seen();
        seen.len() == 1 && !seen[0].complete
    })
    .await;
    served.fake.set(|call| Act::Answer(vec![honest(&call)]));
    wire.cut_once();
    let more = call_on_every_stream(&scene).await;
    assert_eq!(served.fake.asked().len(), 2 + more);
}
