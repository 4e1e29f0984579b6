//! The connection over which an answer comes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use hyper_util::client::legacy::connect::CaptureConnection;

use super::http2::StreamSlot;
use crate::placeholder::ConnectionUse;

/// The connection of one answer, kept until the body of the answer has ended. Over HTTP/2, another call may use the slot of the
/// stream after that.
///
/// The buffers of a connection keep what was read until something else overwrites it. So a connection over which a value of a secret
/// came has to be [retired](Self::retire).
pub(crate) struct AnswerConnection(Kind);

enum Kind {
    Http1 {
        connection: CaptureConnection,
        connection_use: ConnectionUse,
        /// Number of requests of the connection up to the answered one.
        requests: usize,
        is_retired: AtomicBool,
    },
    Http2(Arc<StreamSlot>),
}

impl AnswerConnection {
    /// Must be called before another request can be begun on the connection.
    pub(super) fn http1(connection: CaptureConnection, connection_use: ConnectionUse) -> Self {
        Self(Kind::Http1 {
            connection,
            requests: connection_use.requests(),
            connection_use,
            is_retired: AtomicBool::new(false),
        })
    }

    pub(super) fn http2(slot: Arc<StreamSlot>) -> Self {
        Self(Kind::Http2(slot))
    }

    /// Lets the connection take no further call. The connection is closed when its calls have ended.
    pub(crate) fn retire(&self) {
        match &self.0 {
            Kind::Http1 {
                connection,
                is_retired,
                ..
            } => {
                is_retired.store(true, Relaxed);
                if let Some(connected) = &*connection.connection_metadata() {
                    connected.poison();
                }
            }
            Kind::Http2(slot) => slot.retire(),
        }
    }
}

impl Drop for AnswerConnection {
    /// The pool drops a poisoned connection after the call that uses it, but keeps one that was idle already.
    fn drop(&mut self) {
        if let Kind::Http1 {
            connection_use,
            requests,
            is_retired,
            ..
        } = &self.0
            && is_retired.load(Relaxed)
        {
            connection_use.close_after(*requests);
        }
    }
}
