//! The protocols in the `Upgrade` fields of requests and responses.

use http::{HeaderMap, header};

/// Protocols that lead to HTTP again. Requests within such a protocol would reach the upstream without any check.
const HTTP_PROTOCOLS: [&str; 5] = ["h2c", "h2", "h3", "http", "tls"];

/// Returns the protocols that a request asks for, without those that lead to HTTP again. A request without
/// `Connection: upgrade` asks for none.
pub(super) fn requested(headers: &HeaderMap) -> Vec<String> {
    if !is_named_by_connection(headers) {
        return Vec::new();
    }
    elements(headers, header::UPGRADE)
        .filter(|protocol| is_protocol(protocol) && !leads_to_http(protocol))
        .map(str::to_owned)
        .collect()
}

/// Returns the protocols of a response, or `None` unless all of them were requested.
pub(super) fn agreed(headers: &HeaderMap, requested: &[String]) -> Option<Vec<String>> {
    let protocols: Vec<String> = elements(headers, header::UPGRADE).map(str::to_owned).collect();
    let is_requested = |protocol: &String| requested.iter().any(|each| each.eq_ignore_ascii_case(protocol));
    (!protocols.is_empty() && protocols.iter().all(is_requested)).then_some(protocols)
}

fn is_named_by_connection(headers: &HeaderMap) -> bool {
    elements(headers, header::CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"))
}

/// Returns the elements of a list (RFC 9110, section 5.6.1). A value that is not ASCII becomes the unknown element `?`.
fn elements(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values
        .flat_map(|value| value.to_str().unwrap_or("?").split(','))
        .map(str::trim)
        .filter(|element| !element.is_empty())
}

/// Returns true for a name, and for a name with a version (RFC 9110, section 7.8).
fn is_protocol(protocol: &str) -> bool {
    let (name, version) = protocol.split_once('/').unwrap_or((protocol, "-"));
    is_token(name) && is_token(version)
}

fn is_token(text: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token)
}

fn leads_to_http(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default();
    HTTP_PROTOCOLS.iter().any(|http| http.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests;
