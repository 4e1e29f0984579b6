//! The checks of a request's head that do not depend on the server.

use http::{request::Parts, uri::Authority};
use proto::Refusal;

use crate::proxy::{Proxy, guard, received_body::ReceivedBody};

/// A request with an acceptable size, method and host.
pub(super) struct CheckedRequest {
    pub(super) parts: Parts,
    pub(super) body: ReceivedBody,
    /// The host and port that the request is for, as the program wrote them.
    pub(super) authority: Authority,
    /// The host of `authority`, in lower case.
    pub(super) host: String,
}

impl CheckedRequest {
    pub(super) fn new(parts: Parts, body: ReceivedBody, proxy: &Proxy) -> Result<Self, Refusal> {
        guard::size(&parts, &proxy.limits)?;
        guard::method(&parts.method)?;
        let authority = guard::authority(&parts)?;
        let host = authority.host().to_ascii_lowercase();
        proxy.hosts.check(&host)?;
        guard::expectation(&parts.headers)?;
        Ok(Self {
            parts,
            body,
            authority,
            host,
        })
    }
}
