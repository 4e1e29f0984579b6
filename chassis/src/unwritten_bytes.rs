//! Limit of the bytes of answers that wait for slow clients.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

/// The bytes of one call's answers that the connection has not written yet.
///
/// The bytes are taken from an allowance that several calls share, a semaphore with one permit for each byte, and are
/// given back when they are written or the call ends. A handler puts its `UnwrittenBytes` into the extensions of the
/// response; the connection finds it there and reports the bytes that it writes.
#[derive(Debug)]
pub struct UnwrittenBytes {
    allowance: Arc<Semaphore>,
    count: AtomicUsize,
    written: Notify,
}

/// Bytes that were taken from the allowance for an answer that is about to be made.
#[must_use]
pub struct ByteReservation<'c> {
    unwritten: &'c UnwrittenBytes,
    permit: SemaphorePermit<'c>,
}

impl UnwrittenBytes {
    /// Makes the count of a call that has no answer yet.
    pub fn new(allowance: Arc<Semaphore>) -> Arc<Self> {
        Arc::new(Self {
            allowance,
            count: AtomicUsize::new(0),
            written: Notify::new(),
        })
    }

    /// Waits until at most `most` bytes of this call are unwritten and the allowance has `bytes`, and takes `bytes` from
    /// the allowance. Returns `None` when the allowance was closed. Only one task may call `reserve` at a time.
    pub async fn reserve(&self, most: usize, bytes: u32) -> Option<ByteReservation<'_>> {
        while self.count.load(Ordering::Relaxed) > most {
            self.written.notified().await;
        }
        let permit = self.allowance.acquire_many(bytes).await.ok()?;
        Some(ByteReservation {
            unwritten: self,
            permit,
        })
    }

    /// Gives back `bytes` of an answer that the connection has written.
    pub(crate) fn written(&self, bytes: usize) {
        let subtract = |count: usize| Some(count.saturating_sub(bytes));
        let before = self
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, subtract);
        let returned = before.unwrap_or_default().min(bytes);
        self.allowance.add_permits(returned);
        self.written.notify_one();
    }
}

impl Drop for UnwrittenBytes {
    fn drop(&mut self) {
        self.allowance.add_permits(*self.count.get_mut());
    }
}

impl ByteReservation<'_> {
    /// Counts `bytes`, the size of the answer, as unwritten and gives the rest of the reservation back. An answer larger
    /// than the reservation counts as the whole reservation.
    pub fn settle(mut self, bytes: usize) {
        let bytes = bytes.min(self.permit.num_permits());
        if let Some(used) = self.permit.split(bytes) {
            used.forget();
            self.unwritten.count.fetch_add(bytes, Ordering::Relaxed);
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
    async fn an_answer_takes_from_the_allowance_until_it_is_written() {
        let allowance = allowance(100);
        let unwritten = UnwrittenBytes::new(allowance.clone());
        let reserved = unwritten.reserve(0, 80).await.unwrap();
        assert_eq!(allowance.available_permits(), 20);
        reserved.settle(50);
        assert_eq!(allowance.available_permits(), 50);
        unwritten.written(20);
        assert_eq!(allowance.available_permits(), 70);
        // One byte more than is unwritten.
        unwritten.written(31);
        assert_eq!(allowance.available_permits(), 100);
    }

    #[tokio::test]
    async fn unwritten_bytes_are_given_back_at_the_end_of_the_call() {
        let allowance = allowance(100);
        let unwritten = UnwrittenBytes::new(allowance.clone());
        unwritten.reserve(0, 80).await.unwrap().settle(1_000);
        assert_eq!(allowance.available_permits(), 20);
        drop(unwritten);
        assert_eq!(allowance.available_permits(), 100);
    }

    #[tokio::test]
    async fn a_reservation_waits_for_answers_of_the_same_call_and_of_others() {
        let allowance = allowance(100);
        let (one, other) = (
            UnwrittenBytes::new(allowance.clone()),
            UnwrittenBytes::new(allowance),
        );
        one.reserve(0, 60).await.unwrap().settle(60);
        // 60 bytes of this call are unwritten.
        assert!(one.reserve(59, 1).now_or_never().is_none());
        assert!(one.reserve(60, 1).now_or_never().is_some());
        // The allowance has 40 bytes left.
        assert!(other.reserve(0, 41).now_or_never().is_none());
        let mut waiting = std::pin::pin!(one.reserve(30, 1));
        assert!(waiting.as_mut().now_or_never().is_none());
        one.written(30);
        assert!(waiting.now_or_never().is_some());
        assert!(other.reserve(0, 70).now_or_never().is_some());
    }
}
