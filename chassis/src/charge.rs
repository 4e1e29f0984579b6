//! Accounting of unwritten answers: the bytes of an answer are charged to the caller until the connection has written
//! them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

/// The unwritten bytes of one call's answers. A charge takes bytes from an allowance, a semaphore with a permit for
/// each byte, and gives them back when the bytes are written or the call ends.
///
/// A handler puts its charge into the extensions of the response. The connection finds the charge there, and reports the
/// bytes as written.
#[derive(Debug)]
pub struct Charge {
    allowance: Arc<Semaphore>,
    owed: AtomicUsize,
    written: Notify,
}

/// Bytes that were taken from the allowance for an answer that is about to be made.
#[must_use]
pub struct Reserved<'c> {
    charge: &'c Charge,
    permit: SemaphorePermit<'c>,
}

impl Charge {
    /// Makes a charge without any bytes.
    pub fn new(allowance: Arc<Semaphore>) -> Arc<Self> {
        Arc::new(Self {
            allowance,
            owed: AtomicUsize::new(0),
            written: Notify::new(),
        })
    }

    /// Waits until at most `most` bytes of this call wait for the connection and the allowance has `bytes`, and takes
    /// `bytes` from the allowance. Returns `None` when the allowance was closed. Only one task may call `reserve` at a
    /// time.
    pub async fn reserve(&self, most: usize, bytes: u32) -> Option<Reserved<'_>> {
        while self.owed.load(Ordering::Relaxed) > most {
            self.written.notified().await;
        }
        let permit = self.allowance.acquire_many(bytes).await.ok()?;
        Some(Reserved { charge: self, permit })
    }

    /// Gives back the charge for `bytes` of an answer that the connection has written.
    pub(super) fn written(&self, bytes: usize) {
        let pay = |owed: usize| Some(owed.saturating_sub(bytes));
        let owed = self.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
        let returned = owed.unwrap_or_default().min(bytes);
        self.allowance.add_permits(returned);
        self.written.notify_one();
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.allowance.add_permits(*self.owed.get_mut());
    }
}

impl Reserved<'_> {
    /// Charges `bytes`, the size of the answer, and gives the rest of the reservation back. An answer larger than the
    /// reservation is charged with the whole reservation.
    pub fn settle(mut self, bytes: usize) {
        let bytes = bytes.min(self.permit.num_permits());
        if let Some(used) = self.permit.split(bytes) {
            used.forget();
            self.charge.owed.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn allowance(bytes: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(bytes))
    }

    #[tokio::test]
    async fn an_answer_is_charged_until_it_is_written() {
        let allowance = allowance(100);
        let charge = Charge::new(allowance.clone());
        let reserved = charge.reserve(0, 80).await.unwrap();
        assert_eq!(allowance.available_permits(), 20);
        reserved.settle(50);
        assert_eq!(allowance.available_permits(), 50);
        charge.written(20);
        assert_eq!(allowance.available_permits(), 70);
        // More than was charged.
        charge.written(31);
        assert_eq!(allowance.available_permits(), 100);
    }

    #[tokio::test]
    async fn what_is_never_written_returns_with_the_end_of_the_call() {
        let allowance = allowance(100);
        let charge = Charge::new(allowance.clone());
        charge.reserve(0, 80).await.unwrap().settle(1_000);
        assert_eq!(allowance.available_permits(), 20);
        drop(charge);
        assert_eq!(allowance.available_permits(), 100);
    }

    #[tokio::test]
    async fn a_call_waits_for_its_own_answers_and_for_those_of_others() {
        let allowance = allowance(100);
        let (one, other) = (Charge::new(allowance.clone()), Charge::new(allowance));
        one.reserve(0, 60).await.unwrap().settle(60);
        // Its own answer is not written yet.
        assert!(one.reserve(59, 1).now_or_never().is_none());
        assert!(one.reserve(60, 1).now_or_never().is_some());
        // Too little is left.
        assert!(other.reserve(0, 41).now_or_never().is_none());
        let mut waiting = std::pin::pin!(one.reserve(30, 1));
        assert!(waiting.as_mut().now_or_never().is_none());
        one.written(30);
        assert!(waiting.now_or_never().is_some());
        assert!(other.reserve(0, 70).now_or_never().is_some());
    }
}
