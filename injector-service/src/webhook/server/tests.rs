#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    future::poll_fn,
    net::Ipv4Addr,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use hyper::body::Frame;
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::{io::duplex, sync::Mutex};

use super::*;
use crate::webhook::{bodies::Bodies, metrics::WebhookMetrics, settings};

/// A body of which nothing arrives.
struct SilentBody;

impl Body for SilentBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

fn reviewer() -> (TempDir, Reviewer) {
    let (folder, config) = settings::tests::config();
    let reviewer = Reviewer {
        injection: config.injection,
        vault_ca: config.vault_ca,
        metrics: WebhookMetrics::register(&mut Registry::default()),
        bodies: Bodies::new(),
        one_at_a_time: Mutex::new(()),
    };
    (folder, reviewer)
}

/// Returns the slot of a connection that is idle.
fn slot() -> Arc<Slot> {
    let slots = Slots::new("test", 1, Eviction::OldestIdle);
    let peer = Holder::Network(Ipv4Addr::LOCALHOST.into());
    let slot = slots.try_take(&peer).unwrap();
    slot.started();
    Arc::new(slot)
}

fn post<B>(body: B) -> Request<B> {
    let request = Request::post("https://localhost/mutate").header(header::CONTENT_TYPE, "application/json");
    request.body(body).unwrap()
}

/// Polls a future once.
fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn only_a_request_whose_body_may_arrive_keeps_its_connection() {
    let ((_folder, reviewer), slot) = (reviewer(), slot());
    let others = [
        reviewer.bodies.acquire(slot.holder()).await,
        reviewer.bodies.acquire(slot.holder()).await,
    ];
    let mut answer = pin!(answer(&reviewer, &slot, post(SilentBody)));
    assert!(poll(answer.as_mut()).is_pending());
    assert!(slot.is_idle());
    drop(others);
    assert!(poll(answer.as_mut()).is_pending());
    assert!(!slot.is_idle());
    assert_eq!(answer.await.status(), StatusCode::REQUEST_TIMEOUT);
    assert!(slot.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_too_long_for_its_turn_is_refused() {
    let ((_folder, reviewer), slot) = (reviewer(), slot());
    let _others = [
        reviewer.bodies.acquire(slot.holder()).await,
        reviewer.bodies.acquire(slot.holder()).await,
    ];
    let refused = answer(&reviewer, &slot, post(SilentBody)).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn little_of_a_body_arrives_before_its_turn() {
    let ((_folder, reviewer), slot) = (reviewer(), slot());
    let _others = [
        reviewer.bodies.acquire(slot.holder()).await,
        reviewer.bodies.acquire(slot.holder()).await,
    ];
    let (near, far) = duplex(1 << 20);
    let slot = Arc::into_inner(slot).unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve_connection(far, slot, Arc::new(reviewer), stop.clone()));
    let (mut client, mut connection) = h2::client::handshake(near).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    let connection = tokio::spawn(connection);
    // The client has the settings of the server when the answer to its ping comes.
    pings.ping(h2::Ping::opaque()).await.unwrap();
    assert_eq!(client.current_max_send_streams(), MAX_STREAMS as usize);
    let (answer, mut body) = client.send_request(post(()), false).unwrap();
    body.reserve_capacity(1 << 20);
    let capacity = poll_fn(|context| body.poll_capacity(context)).await.unwrap();
    assert_eq!(capacity.unwrap(), STREAM_WINDOW as usize);
    drop((answer, body, client, pings));
    connection.abort();
    serving.await.unwrap();
}
