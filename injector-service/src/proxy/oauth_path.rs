//! Paths of OAuth documents that a client looks for beside a server, not under the server's path: the metadata of a
//! protected resource (RFC 9728) and of an authorization server (RFC 8414). Such a path is a fixed part, followed by
//! the path of the server. Only servers with `oauth: pass` have such documents here.

const RESOURCE_METADATA: &str = "/.well-known/oauth-protected-resource";
/// Marks resource metadata that an upstream keeps at a path of its own choice, which it names in a challenge. The
/// injector removes this part before the request goes upstream.
pub(super) const ELSEWHERE: &str = "/.well-known/x-aerostack-resource-metadata";
/// The fixed parts (RFC 9728, section 3.1; RFC 8414, sections 3.1 and 5).
const DOCUMENTS: [&str; 4] = [
    RESOURCE_METADATA,
    ELSEWHERE,
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
];

/// Splits a path into the fixed part of a document, which is empty for any other path, and the rest, which is empty or
/// begins with `/` or `?`.
pub(super) fn split(path: &str) -> (&'static str, &str) {
    let split = |document: &'static str| Some((document, path.strip_prefix(document)?));
    DOCUMENTS
        .into_iter()
        .filter_map(split)
        .find(|(_, rest)| rest.is_empty() || rest.starts_with(['/', '?']))
        .unwrap_or(("", path))
}

/// Returns the fixed part that the upstream has before the path of `document`.
pub(super) fn at_upstream(document: &'static str) -> &'static str {
    if document == ELSEWHERE { "" } else { document }
}

pub(super) fn is_resource_metadata(document: &str) -> bool {
    document == RESOURCE_METADATA || document == ELSEWHERE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixed_part_of_a_document_is_split_from_the_path_of_its_server() {
        for (path, split_at) in [
            ("/.well-known/oauth-protected-resource", (RESOURCE_METADATA, "")),
            (
                "/.well-known/oauth-protected-resource/w/s?q",
                (RESOURCE_METADATA, "/w/s?q"),
            ),
            (
                "/.well-known/oauth-protected-resource?q",
                (RESOURCE_METADATA, "?q"),
            ),
            (
                "/.well-known/openid-configuration/w/s",
                ("/.well-known/openid-configuration", "/w/s"),
            ),
            (
                "/.well-known/oauth-protected-resources",
                ("", "/.well-known/oauth-protected-resources"),
            ),
            (
                "/w/s/.well-known/openid-configuration",
                ("", "/w/s/.well-known/openid-configuration"),
            ),
            ("/", ("", "/")),
        ] {
            assert_eq!(split(path), split_at);
        }
    }
}
