//! The header fields that name a call, so that the logs of the program, the injector and the upstream can be compared.

use http::{HeaderMap, HeaderValue};
use proto::CallId;

/// Names the call to the program, in every response.
const CALL_ID: &str = "x-aerostack-call-id";
/// Names the call to the upstream. Envoy, nginx and most web frameworks log this field.
const REQUEST_ID: &str = "x-request-id";

pub(super) fn add_to_response(headers: &mut HeaderMap, call_id: &CallId) {
    headers.insert(CALL_ID, value(call_id));
}

/// Adds the id to a request, unless the program sent a request id of its own.
pub(super) fn add_to_request(headers: &mut HeaderMap, call_id: &CallId) {
    headers.entry(REQUEST_ID).or_insert_with(|| value(call_id));
}

fn value(call_id: &CallId) -> HeaderValue {
    let value = HeaderValue::from_str(call_id.as_str());
    let mut value = value.expect("a call id has letters, digits, '-', '_' and '.' only");
    // HPACK never indexes a sensitive value. An indexed id would only displace other headers from the table.
    value.set_sensitive(true);
    value
}
