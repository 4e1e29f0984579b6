//! The end of a connection that has to be closed after the call that is answered over it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::Context,
};

use futures_util::task::AtomicWaker;

/// The number of requests that were written to a connection, and the order to close the connection. Clones share both.
///
/// hyper-util's pool keeps an idle connection until it is used again or has been idle for long. So the stream of a connection that
/// is to be closed reports the end of the connection to hyper, which closes an idle connection then.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionUse(Arc<UseState>);

#[derive(Debug, Default)]
struct UseState {
    requests: AtomicUsize,
    is_closing: AtomicBool,
    /// Wakes the task that reads from the connection.
    reader: AtomicWaker,
}

impl ConnectionUse {
    pub(super) fn count_request(&self) {
        self.0.requests.fetch_add(1, Relaxed);
    }

    /// Returns the number of requests that were begun so far.
    pub(crate) fn requests(&self) -> usize {
        self.0.requests.load(Relaxed)
    }

    /// Closes the connection, unless another request was begun after the first `requests`. The answers to these requests must have
    /// ended.
    pub(crate) fn close_after(&self, requests: usize) {
        if self.requests() == requests {
            self.0.is_closing.store(true, Relaxed);
            self.0.reader.wake();
        }
    }

    /// Returns true when the connection is to be closed. Otherwise the task of `context` is woken when that changes.
    pub(super) fn is_closing(&self, context: &Context<'_>) -> bool {
        self.0.reader.register(context.waker());
        self.0.is_closing.load(Relaxed)
    }
}
