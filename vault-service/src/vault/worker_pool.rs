//! A pool of threads for short jobs that read the store and may wait for the disk.
//!
//! A hop to the runtime's blocking pool costs more than a decrypt or a put, because that pool wakes a thread for each job. The
//! few threads of this pool stay busy and take one job after the other.
//!
//! The threads serve principals round robin, one job at a time, and one principal never has all threads. So a principal
//! with a thousand queued jobs delays the job of another principal by less than the duration of one job.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use proto::Principal;
use tokio::sync::oneshot;

use super::VaultError;

const THREADS: usize = 2;
/// Maximum number of threads that work for one principal at the same time, so that one thread is left for the others.
const THREADS_EACH: usize = THREADS - 1;
const MAX_WAITING: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

pub(super) struct WorkerPool(Arc<PoolState>);

#[derive(Default)]
struct PoolState {
    queues: Mutex<JobQueues>,
    changed: Condvar,
}

#[derive(Default)]
struct JobQueues {
    by_principal: HashMap<Principal, PrincipalQueue>,
    /// Principals whose next job may start, in the order of their turns; each principal at most once.
    turns: VecDeque<Principal>,
    threads: usize,
    closed: bool,
}

/// The jobs of one principal. The pool removes the queue of a principal without jobs.
#[derive(Default)]
struct PrincipalQueue {
    waiting: VecDeque<Job>,
    running: usize,
}

impl PrincipalQueue {
    /// Returns true when the queue's principal belongs into [`JobQueues::turns`].
    fn may_start(&self) -> bool {
        !self.waiting.is_empty() && self.running < THREADS_EACH
    }
}

impl WorkerPool {
    /// Starts the threads, which end when the pool is dropped.
    pub(super) fn start(name: &str) -> Self {
        let shared = Arc::<PoolState>::default();
        for number in 0..THREADS {
            let pool = shared.clone();
            let started = thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || pool.work());
            match started {
                Ok(_) => shared.lock().threads += 1,
                Err(error) => tracing::error!(%error, "a worker thread did not start"),
            }
        }
        Self(shared)
    }

    /// Runs `work` of `principal` on one of the threads, or refuses it when too many jobs of the principal are waiting.
    /// Otherwise an error means that `work` panicked or that the pool has no threads.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        principal: &Principal,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, VaultError> {
        let (answer, answered) = oneshot::channel();
        let job = move || {
            // The receiver is closed when the call was cancelled.
            if answer.is_closed() {
                return;
            }
            // A thread must outlive a job that panics. The panic drops everything that the job had, so no broken state is
            // seen afterwards.
            if let Ok(done) = catch_unwind(AssertUnwindSafe(work)) {
                // The send fails when the call was cancelled in the meantime; dropping the result wipes its values.
                drop(answer.send(done));
            }
        };
        self.0.add(principal, Box::new(job))?;
        answered.await.map_err(|_| VaultError::Stopped)
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl PoolState {
    fn lock(&self) -> MutexGuard<'_, JobQueues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, principal: &Principal, job: Job) -> Result<(), VaultError> {
        self.lock().add(principal, job)?;
        self.changed.notify_one();
        Ok(())
    }

    fn work(&self) {
        while let Some((principal, job)) = self.next() {
            job();
            self.lock().finished(principal);
        }
    }

    /// Waits for the next job; returns `None` when the pool is closed.
    fn next(&self) -> Option<(Principal, Job)> {
        let mut queues = self.lock();
        loop {
            if queues.closed {
                return None;
            }
            if let Some(next) = queues.start() {
                return Some(next);
            }
            queues = self.changed.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl JobQueues {
    fn add(&mut self, principal: &Principal, job: Job) -> Result<(), VaultError> {
        if self.threads == 0 {
            return Err(VaultError::Stopped);
        }
        let queue = self.by_principal.entry(principal.clone()).or_default();
        if queue.waiting.len() >= MAX_WAITING {
            return Err(VaultError::QuotaExceeded);
        }
        let had_turn = queue.may_start();
        queue.waiting.push_back(job);
        if !had_turn && queue.may_start() {
            self.turns.push_back(principal.clone());
        }
        Ok(())
    }

    /// Takes the first job of the principal whose turn it is. The principal's next turn is after everyone else's.
    fn start(&mut self) -> Option<(Principal, Job)> {
        let principal = self.turns.pop_front()?;
        let queue = self.by_principal.get_mut(&principal)?;
        let job = queue.waiting.pop_front()?;
        queue.running += 1;
        if queue.may_start() {
            self.turns.push_back(principal.clone());
        }
        Some((principal, job))
    }

    fn finished(&mut self, principal: Principal) {
        let Some(queue) = self.by_principal.get_mut(&principal) else {
            return;
        };
        let had_turn = queue.may_start();
        queue.running -= 1;
        if !had_turn && queue.may_start() {
            self.turns.push_back(principal);
        } else if queue.running == 0 && queue.waiting.is_empty() {
            self.by_principal.remove(&principal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::task::JoinSet;

    use super::*;

    fn principal(name: &str) -> Principal {
        Principal::parse(&format!("dns:{name}")).unwrap()
    }

    #[tokio::test]
    async fn a_thread_outlives_a_job_that_panics() {
        let pool = WorkerPool::start("test");
        let principal = principal("a");
        for _ in 0..2 * THREADS {
            let lost = pool.run(&principal, || std::panic::resume_unwind(Box::new(())));
            assert!(matches!(lost.await, Err::<(), _>(VaultError::Stopped)));
        }
        for number in 0..2 * THREADS {
            assert_eq!(pool.run(&principal, move || number).await.unwrap(), number);
        }
    }

    /// `greedy` has endless jobs, and the jobs of `modest` are done nevertheless.
    #[tokio::test]
    async fn one_principal_never_has_all_threads() {
        let pool = Arc::new(WorkerPool::start("test"));
        let (end, ended) = mpsc::channel::<()>();
        let ended = Arc::new(Mutex::new(ended));
        let mut greedy = JoinSet::new();
        for _ in 0..10 * THREADS {
            let (pool, ended) = (pool.clone(), ended.clone());
            greedy.spawn(async move {
                let work = move || ended.lock().unwrap().recv().is_ok();
                pool.run(&principal("greedy"), work).await
            });
        }
        while pool.0.lock().by_principal.is_empty() {
            tokio::task::yield_now().await;
        }
        let modest = principal("modest");
        for number in 0..10 {
            assert_eq!(pool.run(&modest, move || number).await.unwrap(), number);
        }
        drop(end);
        while let Some(done) = greedy.join_next().await {
            done.unwrap().unwrap();
        }
    }

    #[test]
    fn principals_take_turns() {
        let mut queues = JobQueues {
            threads: THREADS,
            ..JobQueues::default()
        };
        for name in ["a", "a", "a", "b", "c", "b"] {
            queues.add(&principal(name), Box::new(|| ())).unwrap();
        }
        let mut started = Vec::new();
        while let Some((principal, _)) = queues.start() {
            started.push(principal.clone());
            queues.finished(principal);
        }
        let expected = ["a", "b", "c", "a", "b", "a"].map(principal);
        assert_eq!(started, expected);
        assert!(queues.by_principal.is_empty());
    }

    #[test]
    fn the_number_of_waiting_jobs_of_a_principal_is_bounded() {
        let mut queues = JobQueues {
            threads: THREADS,
            ..JobQueues::default()
        };
        let mut add = |name| queues.add(&principal(name), Box::new(|| ()));
        for _ in 0..MAX_WAITING {
            add("greedy").unwrap();
        }
        assert!(matches!(add("greedy"), Err(VaultError::QuotaExceeded)));
        add("modest").unwrap();
    }
}
