//! An upstream's demand for a credential (RFC 9110, section 11.6.1). A client that gets the demand tries to meet it: a
//! client of MCP begins an OAuth flow, and asks the injector for documents that only the upstream has. Where the
//! credential is the injector's, the flow could not help either. So the program hears what really happened.

use http::{HeaderMap, StatusCode, header};
use proto::{Reason, Refusal};

use super::record::Record;
use crate::registry::server::{Oauth, Server};

/// Returns true when the credential that an upstream demands is the injector's. `headers` are the program's.
pub(super) fn is_for_us(server: &Server, headers: &HeaderMap) -> bool {
    let is_programs = headers.contains_key(header::AUTHORIZATION);
    match server.spec.oauth {
        Oauth::Replace => !server.spec.injections.is_empty() && !is_programs,
        Oauth::Pass => false,
    }
}

/// Removes the demand for the injector's credential from an answer, and refuses the call when the answer is no more than
/// that demand.
pub(super) fn replace(status: StatusCode, headers: &mut HeaderMap, record: &Record) -> Result<(), Refusal> {
    headers.remove(header::WWW_AUTHENTICATE);
    if status != StatusCode::UNAUTHORIZED {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::UpstreamRejectedCredential,
        format!(
            "the upstream answered 401 to a call with this server's credential ({}); put secrets that the upstream accepts, \
             or set the server's oauth to pass, so that the program authenticates itself",
            record.secrets()
        ),
    ))
}
