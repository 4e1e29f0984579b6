//! Answers over HTTP/2 that nobody takes.
//!
//! A client may read all that comes, answer pings, and still open no window for one of its streams: nothing is stuck then
//! but that stream, with a call to an upstream behind it. hyper asks the answer's body for more only when there is room,
//! so the body itself would never learn that its time is over; what drives the stream is ended from outside, by which the
//! stream is reset, and everything behind it dropped.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep};

/// What the body of an answer did when its stream was driven.
#[derive(Clone, Copy)]
enum Did {
    /// It was not asked.
    Nothing,
    /// It has nothing now: its upstream is waited for.
    Wait,
    /// It gave what it had.
    Give,
}

thread_local! {
    /// Of the stream that this thread drives at this moment.
    static DID: Cell<Did> = const { Cell::new(Did::Nothing) };
}

/// Notes what an answer's body did.
pub(super) fn note<T>(polled: &Poll<T>) {
    DID.set(match polled {
        Poll::Pending => Did::Wait,
        Poll::Ready(_) => Did::Give,
    });
}

/// Drives the streams of HTTP/2 connections, each until it takes nothing of its answer for so long.
#[derive(Clone)]
pub(super) struct StreamExecutor(pub(super) Duration);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, work: F) {
        tokio::spawn(Stream {
            work,
            limit: self.0,
            stalled: false,
            timer: None,
        });
    }
}

pin_project_lite::pin_project! {
    struct Stream<F> {
        #[pin]
        work: F,
        limit: Duration,
        stalled: bool,
        // Made when it is needed for the first time.
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        DID.set(Did::Nothing);
        if this.work.poll(context).is_ready() {
            return Poll::Ready(());
        }
        match DID.get() {
            Did::Nothing => {}
            Did::Wait => *this.stalled = false,
            Did::Give => {
                *this.stalled = true;
                if let Some(timer) = this.timer {
                    timer.as_mut().reset(Instant::now() + *this.limit);
                }
            }
        }
        if !*this.stalled {
            return Poll::Pending;
        }
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(*this.limit)));
        timer.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{Instant, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How long a stream is driven of which nothing is taken for longer than five seconds, when `work` is done in it.
    async fn driven(work: impl Future<Output = ()>) -> Option<Duration> {
        let began = Instant::now();
        let stream = Stream {
            work,
            limit: 5 * SECOND,
            stalled: false,
            timer: None,
        };
        timeout(1000 * SECOND, stream)
            .await
            .ok()
            .map(|()| began.elapsed())
    }

    /// Says once what a body did.
    async fn did(polled: Poll<()>) {
        poll_fn(|_| {
            note(&polled);
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_waits_for_its_upstream_is_not_stalled() {
        let waiting = async {
            did(Poll::Ready(())).await;
            sleep(SECOND).await;
            did(Poll::Pending).await;
            std::future::pending().await
        };
        assert_eq!(driven(waiting).await, None);
        assert_eq!(driven(std::future::pending()).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_takes_something_now_and_then_is_not_stalled() {
        let slow = async {
            for _ in 0..10 {
                did(Poll::Ready(())).await;
                sleep(4 * SECOND).await;
            }
        };
        assert_eq!(driven(slow).await, Some(40 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_takes_nothing_ends() {
        let stalled = async {
            sleep(7 * SECOND).await;
            did(Poll::Ready(())).await;
            std::future::pending().await
        };
        assert_eq!(driven(stalled).await, Some(12 * SECOND));
    }
}
