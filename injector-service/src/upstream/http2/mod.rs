//! HTTP/2 connections to one server, as many as its calls need.
//!
//! A connection carries as many calls at once as its peer allows (RFC 9113, section 5.1.2). When all connections are full,
//! another one is made. When the pool may have no more of them, a call waits for a free stream, at most as long as
//! connecting may take. hyper by itself would queue all calls on one shared connection.

mod connection;
mod pool;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::{Request, Response};
use hyper::body::Incoming;
use proto::{CallId, Refusal};
use tokio::time::timeout;

use super::{
    Body, broken,
    dial::{Connector, DialError},
};
use crate::limits::UpstreamLimits;
use connection::OpenConnection;
use pool::{DialTurn, Lease, Pool, PoolStep, SlotHoldingBody};

pub(crate) use pool::{RefusingConnection, StreamSlot};

/// Sends requests to one server over HTTP/2. When the client is dropped, each connection closes as soon as its calls have
/// ended.
pub(super) struct Http2Client {
    pool: Arc<Pool>,
    ping_timeout: Duration,
}

/// The outcome of sending a request over HTTP/2.
pub(super) enum Http2Outcome {
    Answered(Response<Incoming>, Arc<StreamSlot>),
    /// The server chose HTTP/1.1, and nothing was sent.
    UseHttp1(Request<Body>),
    /// The server did not process the request, which may be sent again.
    NotProcessed(RefusingConnection),
}

impl Http2Client {
    pub(super) fn new(limits: UpstreamLimits, ping_timeout: Duration) -> Self {
        Self {
            pool: Pool::new(limits),
            ping_timeout,
        }
    }

    /// Returns true when the server chose HTTP/1.1 although HTTP/2 was offered.
    pub(super) fn server_chose_http1(&self) -> bool {
        self.pool.chose_http1.load(Relaxed)
    }

    /// Sends one request, on another connection than `refusing` where there may be one. With `retire`, the connection
    /// takes no further call, also when the caller gives up before the answer.
    pub(super) async fn send(
        &self,
        mut request: Request<Body>,
        connector: &Connector,
        retire: bool,
        refusing: &[RefusingConnection],
        call_id: &CallId,
    ) -> Result<Http2Outcome, Refusal> {
        loop {
            let lease = match self.pool.find(refusing) {
                Some(lease) => {
                    if lease.is_shared() {
                        self.spread(connector);
                    }
                    Some(lease)
                }
                // Boxed, because this large future is seldom needed and would be a part of every call's state.
                None => Box::pin(self.wait(connector, refusing, call_id)).await?,
            };
            let Some(Lease {
                mut sender,
                slot,
                is_first,
            }) = lease
            else {
                return Ok(Http2Outcome::UseHttp1(request));
            };
            let _retire = retire.then(|| slot.retire_on_drop());
            let body_slot = slot.clone();
            let sent = sender.try_send_request(request.map(|body| SlotHoldingBody {
                body,
                _slot: body_slot,
            }));
            drop(sender);
            let mut error = match sent.await {
                Ok(response) => return Ok(Http2Outcome::Answered(response, slot.clone())),
                Err(error) => error,
            };
            match error.take_message() {
                // The pooled connection was closed before anything of the request was sent.
                Some(unsent) if !is_first => request = unsent.map(|unsent| unsent.body),
                Some(_) => return Ok(Http2Outcome::NotProcessed(slot.refusing())),
                None => {
                    let error = error.into_error();
                    return match was_not_processed(&error) {
                        true => Ok(Http2Outcome::NotProcessed(slot.refusing())),
                        false => Err(broken(&error, call_id)),
                    };
                }
            }
        }
    }

    /// Waits for a free stream, or makes a connection. Returns `None` when the server chose HTTP/1.1.
    async fn wait(
        &self,
        connector: &Connector,
        refusing: &[RefusingConnection],
        call_id: &CallId,
    ) -> Result<Option<Lease>, Refusal> {
        let _counted = self.pool.waiting();
        let waiting = async {
            let lease = loop {
                match self.pool.next_step(refusing, connector.is_http2_only()) {
                    PoolStep::Send(lease) => break Some(lease),
                    PoolStep::UseHttp1 => break None,
                    PoolStep::Dial(turn) => return self.dial(turn, connector).await,
                    PoolStep::Wait => self.pool.changed.notified().await,
                }
            };
            // Further streams may be free, or HTTP/1.1 be the choice of another waiting call, too.
            self.pool.changed.notify_one();
            Ok(lease)
        };
        let lease = timeout(self.pool.limits.connect_timeout, waiting).await;
        let lease = lease.unwrap_or_else(|_| match self.pool.is_empty() {
            true => Err(DialError::Timeout),
            false => Err(DialError::Full),
        });
        lease.map_err(|error| error.refusal(call_id))
    }

    /// Makes a further connection in the background when the host has more addresses than the pool has connections, so
    /// that simultaneous calls are spread over the addresses.
    fn spread(&self, connector: &Connector) {
        if let Some(turn) = self.pool.turn_to_spread(connector.addresses()) {
            drop(self.dial(turn, connector));
        }
    }

    /// Makes a connection in a task of its own, so that the connection is made also when the call that needed it first is
    /// given up: other calls wait for it. Returns `None` when the server chose HTTP/1.1.
    fn dial(
        &self,
        turn: DialTurn,
        connector: &Connector,
    ) -> impl Future<Output = Result<Option<Lease>, DialError>> + Send + use<> {
        let (connector, ping_timeout) = (connector.clone(), self.ping_timeout);
        let dialling = tokio::spawn(async move {
            let pool = &turn.pool;
            let open = OpenConnection::open(pool, &connector, ping_timeout);
            let open = timeout(pool.limits.connect_timeout, open).await;
            let open = open.unwrap_or(Err(DialError::Timeout));
            match (&open, turn.is_spread) {
                (Ok(Some(_)), _) | (Err(_), false) => {}
                (Ok(None), false) => pool.chose_http1.store(true, Relaxed),
                (Ok(None) | Err(_), true) => pool.note_failed_spread(),
            }
            let Some(open) = open? else { return Ok(None) };
            let lease = pool.add(open.sender.clone(), open.state.clone());
            tokio::spawn(open.drive(Arc::downgrade(pool), pool.limits.idle_timeout));
            Ok(Some(lease))
        });
        // The task does not panic and is not aborted. If it were, there would be no connection.
        async move { dialling.await.unwrap_or(Err(DialError::Timeout)) }
    }
}

/// Returns true when the server did not process the request (RFC 9113, section 8.7): its stream is above the last stream
/// of a GOAWAY frame, or was reset with REFUSED_STREAM.
///
/// h2 reports a GOAWAY frame that it received for these streams, and for requests that come after the frame, whose
/// streams h2 does not open. A stream that the server may have processed ends with another error when the connection is
/// closed.
fn was_not_processed(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let error = source.and_then(|source| source.downcast_ref::<h2::Error>());
    error.is_some_and(|error| {
        error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}
