//! The write timeout of single HTTP/2 streams.
//!
//! A client may read everything that arrives, answer pings, and still open no window for one of its streams. Only that
//! stream is blocked then, but a call to an upstream waits behind it. hyper polls the body of a response only when the
//! stream has room, so the body cannot enforce a timeout. Instead [`StreamExecutor`] ends the task that drives the
//! stream, which resets the stream and drops everything behind it.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep};

/// Result of the last poll of a response body while its stream was driven.
#[derive(Clone, Copy)]
enum BodyPoll {
    NotPolled,
    Pending,
    Ready,
}

thread_local! {
    static BODY_POLL: Cell<BodyPoll> = const { Cell::new(BodyPoll::NotPolled) };
}

/// Records the result of a poll of a response body, for the stream that this thread drives.
pub(super) fn record_body_poll<T>(polled: &Poll<T>) {
    BODY_POLL.set(match polled {
        Poll::Pending => BodyPoll::Pending,
        Poll::Ready(_) => BodyPoll::Ready,
    });
}

/// Drives the streams of HTTP/2 connections. A stream ends when its client takes nothing of the response for
/// `write_timeout`.
#[derive(Clone)]
pub(super) struct StreamExecutor {
    pub(super) write_timeout: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, work: F) {
        tokio::spawn(StreamTask::new(work, self.write_timeout));
    }
}

pin_project_lite::pin_project! {
    struct StreamTask<F> {
        #[pin]
        work: F,
        write_timeout: Duration,
        // True when the body has returned a frame that the client may not have taken.
        is_blocked: bool,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F> StreamTask<F> {
    fn new(work: F, write_timeout: Duration) -> Self {
        Self {
            work,
            write_timeout,
            is_blocked: false,
            timer: None,
        }
    }
}

impl<F: Future<Output = ()>> Future for StreamTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        BODY_POLL.set(BodyPoll::NotPolled);
        if this.work.poll(context).is_ready() {
            return Poll::Ready(());
        }
        match BODY_POLL.get() {
            BodyPoll::NotPolled => {}
            BodyPoll::Pending => *this.is_blocked = false,
            BodyPoll::Ready => {
                *this.is_blocked = true;
                if let Some(timer) = this.timer {
                    timer.as_mut().reset(Instant::now() + *this.write_timeout);
                }
            }
        }
        if !*this.is_blocked {
            return Poll::Pending;
        }
        let timer = this
            .timer
            .get_or_insert_with(|| Box::pin(sleep(*this.write_timeout)));
        timer.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{Instant, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns the time after which a stream with a write timeout of five seconds ends, or `None` when it does not end.
    async fn time_to_end(work: impl Future<Output = ()>) -> Option<Duration> {
        let began = Instant::now();
        let stream = StreamTask::new(work, 5 * SECOND);
        timeout(1000 * SECOND, stream)
            .await
            .ok()
            .map(|()| began.elapsed())
    }

    async fn poll_body(polled: Poll<()>) {
        poll_fn(|_| {
            record_body_poll(&polled);
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_waits_for_its_upstream_does_not_end() {
        let waiting = async {
            poll_body(Poll::Ready(())).await;
            sleep(SECOND).await;
            poll_body(Poll::Pending).await;
            std::future::pending().await
        };
        assert_eq!(time_to_end(waiting).await, None);
        assert_eq!(time_to_end(std::future::pending()).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_with_a_slow_client_does_not_end_early() {
        let slow = async {
            for _ in 0..10 {
                poll_body(Poll::Ready(())).await;
                sleep(4 * SECOND).await;
            }
        };
        assert_eq!(time_to_end(slow).await, Some(40 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_client_takes_nothing_ends() {
        let blocked = async {
            sleep(7 * SECOND).await;
            poll_body(Poll::Ready(())).await;
            std::future::pending().await
        };
        assert_eq!(time_to_end(blocked).await, Some(12 * SECOND));
    }
}
