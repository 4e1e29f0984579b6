//! A vault that takes its time, or all the time there is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use e2e::{PATIENCE, Pki, eventually, process};
use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{sync::RwLockReadGuard, task::JoinSet, time::timeout};

use crate::{
    MEMORY, Mode, Scene, Wire,
    fake::{Act, Fake, Served, honest, value_of, with},
    scene_within, value,
};

/// Calls that wait at once.
const CALLS: usize = 2_000;
/// Streams of one connection. Calls that get through take a connection each to the upstream, of which not every machine
/// allows a thousand.
const STREAMS: usize = 200;

type Caller = Client<HttpConnector, Empty<Bytes>>;

fn caller() -> Caller {
    Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http()
}

async fn slow(budget: &str) -> (Served, Scene) {
    let shared = MEMORY.read().await;
    slow_with(budget, Some(shared)).await
}

async fn slow_with(budget: &str, shared: Option<RwLockReadGuard<'static, ()>>) -> (Served, Scene) {
    let pki = Pki::new();
    let served = Fake::new(|call| Act::Answer(vec![honest(&call)]))
        .serve(&pki)
        .await;
    let scene = scene_within(&pki, served.address, &[("s", &["A"])], budget, shared).await;
    scene.injector.ready().await;
    (served, scene)
}

/// Calls over HTTP/2, on as many connections as it takes.
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

fn told(response: &Response<Bytes>) -> (u16, &str) {
    let reason = &response.headers()["x-aerostack-reason"];
    (response.status().as_u16(), reason.to_str().unwrap())
}

/// More of them, one after the other, than may wait at once.
#[tokio::test]
async fn calls_do_not_pile_up_behind_a_vault_that_hangs() {
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
            assert_eq!(told(&answer), (504, "DEADLINE_EXCEEDED"), "round {round}");
        }
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{:?}",
            started.elapsed()
        );
        // The first shows what so many calls take, and what is kept of it is used again.
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
async fn a_slow_vault_delays_each_call_by_itself() {
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
async fn an_answer_that_comes_too_late_is_nobodys() {
    let (served, scene) = slow("1s").await;
    served.fake.set(|call| {
        let mut wrong = crate::ok("A");
        wrong.value = b"canary-late".to_vec();
        Act::After(Duration::from_millis(1_500), with(&call, vec![wrong]))
    });
    for answer in call_at_once(&scene, STREAMS).await {
        assert_eq!(told(&answer), (504, "DEADLINE_EXCEEDED"));
    }
    assert!(scene.upstream.seen().is_empty());
    // While they come in.
    served.fake.set(|call| Act::Answer(vec![honest(&call)]));
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(800) {
        assert_eq!(scene.call("s").await.status(), StatusCode::OK);
        assert_eq!(value(&scene.upstream.last(), "A"), Some(value_of("A")));
    }
}

#[tokio::test]
async fn a_grpc_call_does_not_wait_for_the_vault_longer_than_it_may() {
    let (served, scene) = slow("30s").await;
    served.fake.set(|_| Act::Nothing);
    let request = Request::post(scene.injector.url("/x.Y/Z"))
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "200m")
        .header("x-aerostack-workspace", "dev")
        .header("x-aerostack-server", "s")
        .body(Empty::new())
        .unwrap();
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
async fn a_vault_is_not_asked_again_for_calls_that_were_given_up() {
    let pki = Pki::new();
    let served = Fake::new(|_| Act::Nothing).serve(&pki).await;
    let wire = Wire::to(served.address, Mode::Through).await;
    let shared = MEMORY.read().await;
    let scene = scene_within(&pki, wire.address, &[("s", &["A"])], "30s", Some(shared)).await;
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
    // Each call and its connection, on both sides of it.
    eventually("the calls' tasks are gone", async || {
        process::tasks() + STREAMS <= tasks
    })
    .await;
    served.fake.set(|call| Act::Answer(vec![honest(&call)]));
    wire.cut_once();
    assert_eq!(scene.call("s").await.status(), StatusCode::OK);
    assert_eq!(served.fake.asked().len(), STREAMS + 1);
    assert_eq!(scene.upstream.seen().len(), 1);
}
