//! Blocking work, such as disk access, outside of the runtime's threads.

use std::panic::resume_unwind;

use tokio::task::{JoinError, spawn_blocking};

/// Runs `work` on a thread that may block. A panic of `work` continues in the caller.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(spawn_blocking(work).await).await
}

/// Returns the result of a task. A panic of the task continues in the caller.
///
/// A task that was cancelled has no result. Nobody cancels these tasks except a runtime that shuts down, and such a runtime
/// drops the caller too, so the caller then waits until it is dropped.
pub async fn joined<T>(done: Result<T, JoinError>) -> T {
    match done.map_err(JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => resume_unwind(panic),
        Err(Err(_cancelled)) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test]
    async fn the_result_of_blocking_work_is_returned() {
        assert_eq!(blocking(|| 1).await, 1);
    }

    #[tokio::test]
    #[should_panic(expected = "of its own")]
    async fn a_panic_of_blocking_work_continues_in_the_caller() {
        blocking(|| panic!("of its own")).await
    }

    #[tokio::test]
    async fn the_caller_of_a_cancelled_task_waits_for_ever() {
        let task = tokio::spawn(sleep(Duration::from_secs(60)));
        task.abort();
        let cancelled = task.await;
        assert!(cancelled.as_ref().is_err_and(JoinError::is_cancelled));
        assert!(
            timeout(Duration::from_millis(20), joined(cancelled))
                .await
                .is_err()
        );
    }
}
