//! The upstream's demand for a credential (RFC 9110, section 11.6.1).
//!
//! A client that gets such a challenge tries to meet it. An MCP client begins an OAuth flow, for which it asks the
//! injector for documents that only the upstream has. When the credential is the injector's, the flow could not succeed
//! either, so the program gets a refusal that explains the real problem.

use http::{HeaderMap, StatusCode, header};
use proto::{Reason, Refusal};

use super::call_record::CallRecord;
use crate::registry::server::{Oauth, Server};

/// Returns true when the credential that an upstream demands is the injector's. `headers` are those of the request.
pub(super) fn is_for_injector(server: &Server, headers: &HeaderMap) -> bool {
    let has_credential = headers.contains_key(header::AUTHORIZATION);
    match server.spec.oauth {
        Oauth::Replace => !server.spec.injections.is_empty() && !has_credential,
        Oauth::Pass => false,
    }
}

/// Removes a challenge for the injector's credential from a response, and refuses the call when the response has status
/// 401.
pub(super) fn remove(
    status: StatusCode,
    headers: &mut HeaderMap,
    record: &CallRecord,
) -> Result<(), Refusal> {
    headers.remove(header::WWW_AUTHENTICATE);
    if status != StatusCode::UNAUTHORIZED {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::UpstreamRejectedCredential,
        format!(
            "the upstream answered 401 to a call with this server's credential ({}); put a value that the upstream accepts, \
             or, for programs that authenticate themselves, set the server's `oauth` to OAUTH_PASS (`--oauth pass`)",
            record.list_secrets()
        ),
    ))
}
