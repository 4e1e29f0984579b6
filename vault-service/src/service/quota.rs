//! Limits on the concurrent work of one principal in `DecryptService`, so that memory and time remain for others.
//!
//! Memory is counted in bytes: of messages that are being answered, and of answers until the connection has written
//! them. A call that finds no room waits when it holds no memory, and is refused when it would hold memory while it
//! waits. Time is counted in names: a principal's calls share one [`TimeSlice`] of each thread.
//!
//! SECURITY.md and `decrypt.proto` state these numbers.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    thread::{self, ThreadId},
};

use chassis::unwritten_bytes::UnwrittenBytes;
use proto::{Principal, Reason, Refusal, vault::v1::DecryptCall};
use tokio::{
    sync::{self, OwnedSemaphorePermit, Semaphore},
    task::yield_now,
};

/// Maximum number of concurrent streams and unary calls of a principal.
const MAX_CALLS: usize = 2_048;
/// Maximum decoded size of a principal's messages that are being answered, in bytes.
const MAX_REQUESTS: usize = 32 * 1024 * 1024;
/// Maximum size of a principal's values and answers that are not written yet, in bytes.
const MAX_ANSWERS: usize = 64 * 1024 * 1024;
/// Size of the unwritten answers of one stream, in bytes, from which on nothing more is decrypted for the stream.
const MAX_UNWRITTEN: usize = 1024 * 1024;
/// Bytes that a call reserves before anything is decrypted. [`Reader::decrypt`](crate::vault::Reader::decrypt) returns
/// at most 256 KiB of records and one answer of 1 MiB of values, with names and origins of 0.3 MiB.
const PIECE: u32 = 2 * 1024 * 1024;
/// Number of names that a thread decrypts for a principal before its other connections have their turn.
const SLICE: i64 = 32;
/// Cost of setting up an HPKE context, as a number of decrypted names.
pub(super) const SEALING: usize = 16;
/// Number of bytes whose encoding, encryption and writing costs about as much as decrypting one name.
const BYTES_PER_NAME: usize = 2 * 1024;

/// The quotas of all principals with a role; the settings name these principals, so the map is bounded.
#[derive(Clone, Default)]
pub(crate) struct Quotas(Arc<Mutex<HashMap<Principal, Arc<PrincipalQuota>>>>);

struct PrincipalQuota {
    calls: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    /// The principal's time slice of each thread that serves connections.
    slices: Mutex<HashMap<ThreadId, Arc<TimeSlice>>>,
}

/// The share of one unary call or stream in its principal's quota.
pub(super) struct CallQuota {
    quota: Arc<PrincipalQuota>,
    slice: Arc<TimeSlice>,
    charge: Arc<UnwrittenBytes>,
    _call: OwnedSemaphorePermit,
}

/// Reserved room for one answer. The caller must [settle](Self::settle) it with the actual size of the answer.
#[must_use]
pub(super) struct AnswerRoom<'q> {
    reserved: chassis::unwritten_bytes::ByteReservation<'q>,
    slice: &'q TimeSlice,
}

impl Quotas {
    /// Admits a call on the thread that serves it.
    pub(super) fn admit(&self, principal: &Principal) -> Result<CallQuota, Refusal> {
        let quota = self.quota_of(principal);
        let call = quota.calls.clone().try_acquire_owned();
        Ok(CallQuota {
            _call: call.map_err(|_| exceeded("calls and streams"))?,
            slice: quota.slice(),
            charge: UnwrittenBytes::new(quota.answers.clone()),
            quota,
        })
    }

    fn quota_of(&self, principal: &Principal) -> Arc<PrincipalQuota> {
        let mut quotas = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(quota) = quotas.get(principal) {
            return quota.clone();
        }
        let quota = Arc::new(PrincipalQuota {
            calls: Arc::new(Semaphore::new(MAX_CALLS)),
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            answers: Arc::new(Semaphore::new(MAX_ANSWERS)),
            slices: Mutex::default(),
        });
        quotas.insert(principal.clone(), quota.clone());
        quota
    }
}

impl PrincipalQuota {
    fn slice(&self) -> Arc<TimeSlice> {
        let mut slices = self.slices.lock().unwrap_or_else(PoisonError::into_inner);
        slices.entry(thread::current().id()).or_default().clone()
    }
}

impl CallQuota {
    /// Returns the charge for the unwritten answers of this call.
    pub(super) fn charge(&self) -> Arc<UnwrittenBytes> {
        self.charge.clone()
    }

    /// Counts the calls of a message against the quota until the permit is dropped. Refuses the message when the
    /// principal's other messages leave no room, because a waiting message would take memory.
    pub(super) fn hold(&self, calls: &[DecryptCall]) -> Result<OwnedSemaphorePermit, Refusal> {
        let size = calls.iter().map(size_of_call).sum::<usize>();
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let held = self.quota.requests.clone().try_acquire_many_owned(size);
        held.map_err(|_| exceeded("calls that wait for their answers"))
    }

    /// Waits until the quota has room and time for one more answer.
    pub(super) async fn room(&self) -> AnswerRoom<'_> {
        loop {
            if let Some(reserved) = self.charge.reserve(MAX_UNWRITTEN, PIECE).await {
                self.slice.turn().await;
                let slice = &self.slice;
                return AnswerRoom { reserved, slice };
            }
        }
    }

    /// Takes the time of `names` decrypted names out of the slice.
    pub(super) fn spend(&self, names: usize) {
        self.slice.spend(names);
    }
}

impl AnswerRoom<'_> {
    /// Charges the full reservation until the answer is written, whatever the size of the answer.
    pub(super) fn settle_most(self) {
        self.reserved.settle(usize::MAX);
    }

    /// Charges the `bytes` of an answer until they are written, and the time of its `names`.
    pub(super) fn settle(self, names: usize, bytes: usize) {
        self.slice.spend(names + bytes / BYTES_PER_NAME);
        self.reserved.settle(bytes);
    }
}

/// Estimates the memory that a call takes, in bytes.
fn size_of_call(call: &DecryptCall) -> usize {
    let names = call.request.iter().flat_map(|request| &request.names);
    let names: usize = names.map(|name| size_of::<String>() + name.len()).sum();
    size_of::<DecryptCall>() + names
}

fn exceeded(what: &str) -> Refusal {
    Refusal::new(
        Reason::QuotaExceeded,
        format!("this identity has as many {what} as one identity may; try again later"),
    )
}

/// One principal's time on one thread.
///
/// When the slice is used up, the principal's next call waits until the thread has done the work that its other
/// connections have ready. So other principals wait for [`SLICE`] names at the most, however much a principal asks for
/// and on however many connections.
struct TimeSlice {
    left: AtomicI64,
    /// Held by the call that waits for the thread. The principal's other calls wait for that call.
    renewing: sync::Mutex<()>,
}

impl Default for TimeSlice {
    fn default() -> Self {
        Self {
            left: AtomicI64::new(SLICE),
            renewing: sync::Mutex::default(),
        }
    }
}

impl TimeSlice {
    async fn turn(&self) {
        if self.is_left() {
            return;
        }
        let _renewing = self.renewing.lock().await;
        while !self.is_left() {
            yield_now().await;
            self.left.fetch_add(SLICE, Ordering::Relaxed);
        }
    }

    fn is_left(&self) -> bool {
        self.left.load(Ordering::Relaxed) > 0
    }

    fn spend(&self, names: usize) {
        let names = i64::try_from(names).unwrap_or(i64::MAX);
        self.left.fetch_sub(names, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use proto::vault::v1::DecryptRequest;
    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    fn principal(name: &str) -> Principal {
        Principal::parse(&format!("dns:{name}")).unwrap()
    }

    fn call(names: usize) -> DecryptCall {
        DecryptCall {
            id: 0,
            request: Some(DecryptRequest {
                names: vec!["N".to_owned(); names],
                ..Default::default()
            }),
        }
    }

    /// Returns room for an answer; `None` when the call would have to wait.
    async fn room_now(call: &CallQuota) -> Option<AnswerRoom<'_>> {
        let long_enough = async {
            for _ in 0..100 {
                yield_now().await;
            }
        };
        tokio::select! {
            room = call.room() => Some(room),
            () = long_enough => None,
        }
    }

    #[test]
    fn the_number_of_calls_is_bounded_for_each_principal() {
        let quotas = Quotas::default();
        let mut calls: Vec<_> = (0..MAX_CALLS)
            .map(|_| quotas.admit(&principal("a")).unwrap())
            .collect();
        let refused = quotas.admit(&principal("a")).err().unwrap();
        assert_eq!(refused.reason, Reason::QuotaExceeded);
        assert!(quotas.admit(&principal("b")).is_ok());
        calls.pop();
        assert!(quotas.admit(&principal("a")).is_ok());
    }

    #[test]
    fn waiting_messages_are_bounded_by_their_size() {
        let quotas = Quotas::default();
        let quota = quotas.admit(&principal("a")).unwrap();
        let large: Vec<_> = (0..256).map(|_| call(4)).collect();
        let mut held = Vec::new();
        let refused = loop {
            match quota.hold(&large) {
                Ok(permit) => held.push(permit),
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused.reason, Reason::QuotaExceeded);
        assert!(held.len() > 200, "{}", held.len());
        let other = quotas.admit(&principal("b")).unwrap();
        assert!(other.hold(&large).is_ok());
        held.pop();
        assert!(quota.hold(&large).is_ok());
    }

    /// One principal opens streams and reads none, until the vault decrypts nothing more for the principal.
    #[tokio::test]
    async fn unread_answers_are_bounded_for_each_stream_and_each_principal() {
        let quotas = Quotas::default();
        let admit = || quotas.admit(&principal("a")).unwrap();
        let mut streams = Vec::new();
        let mut bytes = 0;
        loop {
            let stream = admit();
            let mut held = 0;
            while let Some(room) = room_now(&stream).await {
                room.settle(0, 300 << 10);
                held += 300 << 10;
            }
            assert!(held <= MAX_UNWRITTEN + (300 << 10), "{held}");
            if held == 0 {
                break;
            }
            bytes += held;
            streams.push(stream);
        }
        assert!(bytes <= MAX_ANSWERS && bytes > MAX_ANSWERS / 2, "{bytes}");
        let other = quotas.admit(&principal("b")).unwrap();
        assert!(room_now(&other).await.is_some());
        // A stream that ends makes room.
        streams.truncate(streams.len() - 3);
        assert!(room_now(&admit()).await.is_some());
    }

    /// One principal has many calls on a thread. A call of another principal waits for one slice.
    #[tokio::test]
    async fn a_thread_serves_other_principals_after_a_slice() {
        let (done, seen) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let slice = Rc::new(TimeSlice::default());
        let local = LocalSet::new();
        local
            .run_until(async {
                for _ in 0..100 {
                    let (slice, done) = (slice.clone(), done.clone());
                    spawn_local(async move {
                        for _ in 0..10 {
                            slice.turn().await;
                            slice.spend(8);
                            done.set(done.get() + 8);
                        }
                    });
                }
                // The loop plays another principal, whose call is always ready.
                let mut most = 0;
                while done.get() < 100 * 10 * 8 {
                    yield_now().await;
                    most = most.max(done.get() - seen.get());
                    seen.set(done.get());
                }
                assert!(most <= 2 * SLICE, "{most}");
            })
            .await;
    }
}
