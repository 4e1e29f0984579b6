//! Connections over which a secret's value came, which are not kept: their buffers hold it for as long as they last.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use proto::METHODS_THAT_CARRY_VALUES;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;

use super::guarded::Guarded;

/// How long a connection over which a value came is kept without a call. A client of hyper's, such as tonic's, fails a
/// call that it begins in the moment in which it is told to make another connection. So this is longer than a busy
/// client pauses, and no time that anyone would choose to pause.
const QUIET: Duration = Duration::from_millis(350);

/// The calls of one connection.
#[derive(Clone)]
pub(super) struct Calls {
    under_way: Arc<watch::Sender<usize>>,
    value_came: CancellationToken,
}

impl Calls {
    pub(super) fn new() -> Self {
        Self {
            under_way: Arc::new(watch::Sender::new(0)),
            value_came: CancellationToken::new(),
        }
    }

    /// When a value came, and since then no call was under way for [`QUIET`].
    pub(super) async fn over(self) {
        self.value_came.cancelled().await;
        let mut calls = self.under_way.subscribe();
        while calls.wait_for(|under_way| *under_way == 0).await.is_ok()
            && timeout(QUIET, calls.changed()).await.is_ok()
        {}
    }

    /// A call begins; it ends when what is returned is dropped. Whatever becomes of it, it carries what its RPC does.
    fn begin(&self, path: &str) -> UnderWay {
        if METHODS_THAT_CARRY_VALUES.contains(&path) {
            self.value_came.cancel();
        }
        self.under_way.send_modify(|calls| *calls += 1);
        UnderWay(self.clone())
    }
}

/// A call that has not ended.
pub(super) struct UnderWay(Calls);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|calls| *calls -= 1);
    }
}

/// A service whose calls are counted.
#[derive(Clone)]
pub(super) struct Counting<S> {
    inner: S,
    calls: Calls,
}

impl<S> Counting<S> {
    pub(super) fn new(inner: S, calls: Calls) -> Self {
        Self { inner, calls }
    }
}

impl<S> Service<http::Request<Body>> for Counting<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
{
    type Response = http::Response<Guarded<Body, UnderWay>>;
    type Error = S::Error;
    type Future = Guarded<S::Future, UnderWay>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = self.calls.begin(request.uri().path());
        Guarded::new(self.inner.call(request), call)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    const OTHER: &str = "/vault.v1.SecretService/ListSecrets";

    /// How long it takes until nothing is under way any more.
    async fn until_over(calls: &Calls) -> Option<Duration> {
        let began = Instant::now();
        let over = timeout(1000 * QUIET, calls.clone().over()).await;
        over.ok().map(|()| began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_value_it_is_never_over() {
        let calls = Calls::new();
        drop(calls.begin(OTHER));
        assert_eq!(until_over(&calls).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_over_when_nothing_followed_the_value() {
        for path in METHODS_THAT_CARRY_VALUES {
            let calls = Calls::new();
            drop(calls.begin(path));
            assert_eq!(until_over(&calls).await, Some(QUIET));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_beside_the_value_is_waited_for() {
        let calls = Calls::new();
        let other = calls.begin(OTHER);
        drop(calls.begin(METHODS_THAT_CARRY_VALUES[0]));
        assert_eq!(until_over(&calls).await, None);
        drop(other);
        assert_eq!(until_over(&calls).await, Some(QUIET));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_follows_soon_is_waited_for() {
        let calls = Calls::new();
        drop(calls.begin(METHODS_THAT_CARRY_VALUES[0]));
        let following = async {
            for _ in 0..3 {
                sleep(QUIET / 2).await;
                let call = calls.begin(OTHER);
                sleep(QUIET * 2).await;
                drop(call);
            }
        };
        let (over, ()) = tokio::join!(until_over(&calls), following);
        assert_eq!(over, Some(QUIET / 2 * 17));
    }
}
