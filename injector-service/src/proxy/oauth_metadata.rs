//! The metadata of a protected resource (RFC 9728), in which a client expects to find the URL that it calls.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use proto::{Reason, Refusal};
use serde_json::Value;

use super::{body, echo::MaskedBody, oauth_path::is_resource_metadata, url_rewrite::ServerUrls};
use crate::upstream::Body;

/// The largest metadata document that is rewritten, in bytes.
const MAX_METADATA: usize = 256 * 1024;

/// Asks the upstream for metadata without compression, so that the metadata can be rewritten.
pub(super) fn request_uncompressed(document: &str, headers: &mut HeaderMap) {
    if is_resource_metadata(document) {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
}

/// Returns true when a response is metadata that has to be rewritten.
pub(super) fn is_metadata(document: &str, status: StatusCode, headers: &HeaderMap) -> bool {
    is_resource_metadata(document)
        && status == StatusCode::OK
        && !headers.contains_key(header::CONTENT_ENCODING)
}

/// Reads metadata, and rewrites the URL of the resource. The URLs of authorization servers stay, because the program
/// and its user call these servers themselves.
pub(super) async fn rewrite(body: MaskedBody, urls: &ServerUrls<'_>) -> Result<Body, Refusal> {
    let read = Limited::new(body, MAX_METADATA).collect().await;
    let bytes = read.map_err(|_| {
        Refusal::new(
            Reason::UpstreamProtocol,
            format!("the upstream's OAuth metadata broke off, or has more than {MAX_METADATA} bytes"),
        )
    })?;
    let bytes = bytes.to_bytes();
    Ok(body::full(rewritten(&bytes, urls).unwrap_or(bytes)))
}

/// Returns None for a document that names no resource.
fn rewritten(bytes: &[u8], urls: &ServerUrls<'_>) -> Option<Bytes> {
    let mut metadata: Value = serde_json::from_slice(bytes).ok()?;
    let resource = metadata.get_mut("resource")?;
    let before = resource.as_str()?;
    let mut after = urls.rewrite_url(before)?;
    // Clients compare resources as text, so a slash that only the rewriting added is removed again.
    if !before.ends_with('/') && after.ends_with('/') {
        after.pop();
    }
    *resource = after.into();
    Some(metadata.to_string().into())
}
