//! The facts about a call that no stage changes.

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
    /// The deadline of the program or the end of `--max-call-duration`, whichever is earlier.
    pub(super) deadline: Option<Instant>,
}

impl CallContext<'_> {
    /// Returns the way in which a response ends that is not complete at the deadline. Over HTTP/1.1, trailers are lost
    /// unless the program asked for them.
    pub(super) fn at_deadline(&self) -> AtDeadline {
        match (self.dialect, self.version) {
            (Dialect::Grpc, Version::HTTP_2) => AtDeadline::GrpcTrailers,
            (Dialect::Grpc | Dialect::Http, _) => AtDeadline::Abort,
        }
    }
}
