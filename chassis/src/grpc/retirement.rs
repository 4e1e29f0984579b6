//! Retirement of connections over which the value of a secret came. Such a connection is ended once it carries no calls,
//! because its buffers keep the value for as long as it lasts.

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

use super::write_watchdog::WriteWatchdog;
use crate::guarded_response::GuardedResponse;

/// Time without a call after which a connection is retired. hyper's client, and so tonic's, fails a call that it starts
/// at the moment in which it is told to make another connection. The time is therefore longer than the pauses of a busy
/// client, and no round number that a client would choose as its pause.
const QUIET: Duration = Duration::from_millis(350);

/// The running calls of one connection. Clones share the state.
#[derive(Clone)]
pub(super) struct RunningCalls {
    count: Arc<watch::Sender<usize>>,
    value_received: CancellationToken,
}

impl RunningCalls {
    pub(super) fn new() -> Self {
        Self {
            count: Arc::new(watch::Sender::new(0)),
            value_received: CancellationToken::new(),
        }
    }

    /// Completes when a value was received and then no call ran for [`QUIET`].
    pub(super) async fn retired(&self) {
        self.value_received.cancelled().await;
        let mut count = self.count.subscribe();
        while count.wait_for(|running| *running == 0).await.is_ok()
            && timeout(QUIET, count.changed()).await.is_ok()
        {}
    }

    /// Completes when no call has run for `quiet`, counted from the moment at which no call runs and the answers of all
    /// calls are written.
    pub(super) async fn none_for(&self, quiet: Duration, answers: &WriteWatchdog) {
        let mut count = self.count.subscribe();
        while count.wait_for(|running| *running == 0).await.is_ok() {
            answers.all_written().await;
            if timeout(quiet, count.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Counts a call as running until the returned guard is dropped. The path alone decides whether the call brings a
    /// value: a refused or malformed request may hold one as well.
    fn begin(&self, path: &str) -> RunningCall {
        if METHODS_THAT_CARRY_VALUES.contains(&path) {
            self.value_received.cancel();
        }
        self.count.send_modify(|running| *running += 1);
        RunningCall(self.clone())
    }
}

pub(super) struct RunningCall(RunningCalls);

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.0.count.send_modify(|running| *running -= 1);
    }
}

/// A service that counts its running calls.
#[derive(Clone)]
pub(super) struct CallCounter<S> {
    inner: S,
    calls: RunningCalls,
}

impl<S> CallCounter<S> {
    pub(super) fn new(inner: S, calls: RunningCalls) -> Self {
        Self { inner, calls }
    }
}

impl<S> Service<http::Request<Body>> for CallCounter<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
{
    type Response = http::Response<GuardedResponse<Body, RunningCall>>;
    type Error = S::Error;
    type Future = GuardedResponse<S::Future, RunningCall>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = self.calls.begin(request.uri().path());
        GuardedResponse::new(self.inner.call(request), call)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    const OTHER: &str = "/vault.v1.SecretService/ListSecrets";

    /// Returns the time until the connection is retired; `None` when that does not happen.
    async fn time_to_retirement(calls: &RunningCalls) -> Option<Duration> {
        let began = Instant::now();
        let retired = timeout(1000 * QUIET, calls.retired()).await;
        retired.ok().map(|()| began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_value_is_never_retired() {
        let calls = RunningCalls::new();
        drop(calls.begin(OTHER));
        assert_eq!(time_to_retirement(&calls).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_retired_when_no_call_followed_the_value() {
        for path in METHODS_THAT_CARRY_VALUES {
            let calls = RunningCalls::new();
            drop(calls.begin(path));
            assert_eq!(time_to_retirement(&calls).await, Some(QUIET));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retirement_waits_for_a_call_that_runs_beside_the_value() {
        let calls = RunningCalls::new();
        let other = calls.begin(OTHER);
        drop(calls.begin(METHODS_THAT_CARRY_VALUES[0]));
        assert_eq!(time_to_retirement(&calls).await, None);
        drop(other);
        assert_eq!(time_to_retirement(&calls).await, Some(QUIET));
    }

    #[tokio::test(start_paused = true)]
    async fn retirement_waits_for_calls_that_follow_soon() {
        let calls = RunningCalls::new();
        drop(calls.begin(METHODS_THAT_CARRY_VALUES[0]));
        let following = async {
            for _ in 0..3 {
                sleep(QUIET / 2).await;
                let call = calls.begin(OTHER);
                sleep(QUIET * 2).await;
                drop(call);
            }
        };
        let (retired, ()) = tokio::join!(time_to_retirement(&calls), following);
        assert_eq!(retired, Some(QUIET / 2 * 17));
    }
}
