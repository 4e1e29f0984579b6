//! The facts about a call that no stage changes.

use std::time::SystemTime;

use http::Version;
use tokio::time::Instant;

use crate::{
    dialect::Dialect,
    proxy::{Proxy, deadline_body::AtDeadline, downstream::Downstream},
};

#[derive(Clone, Copy)]
pub(super) struct CallContext<'c> {
    pub(super) proxy: &'c Proxy,
    pub(super) downstream: &'c Downstream,
    pub(super) dialect: Dialect,
    /// The HTTP version of the connection to the program.
    pub(super) version: Version,
    /// The deadline of the program, the end of `--max-call-duration` or `identity_end`, whichever is earliest.
    pub(super) deadline: Option<Instant>,
    /// The time at which the caller's token or certificate expires. It also ends an upgraded connection.
    pub(super) identity_end: Option<Instant>,
}

impl CallContext<'_> {
    /// Ends the call at `not_after` at the latest.
    pub(super) fn end_with_identity(&mut self, not_after: Option<SystemTime>) {
        let left = |not_after: SystemTime| not_after.duration_since(SystemTime::now()).unwrap_or_default();
        // The end of an identity that the clock cannot represent is never reached.
        self.identity_end = not_after.and_then(|not_after| Instant::now().checked_add(left(not_after)));
        self.deadline = self.deadline.into_iter().chain(self.identity_end).min();
    }

    /// Returns the way in which a response ends that is not complete at the deadline. Over HTTP/1.1, trailers are lost
    /// unless the program asked for them.
    pub(super) fn at_deadline(&self) -> AtDeadline {
        match (self.dialect, self.version) {
            (Dialect::Grpc, Version::HTTP_2) => AtDeadline::GrpcTrailers,
            (Dialect::Grpc | Dialect::Http, _) => AtDeadline::Abort,
        }
    }
}
