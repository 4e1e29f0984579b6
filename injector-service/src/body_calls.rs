//! The calls of a server that get secrets in their body: the fields `paths` and `grpc_methods` of a server.

use std::fmt;

use crate::dialect::Dialect;

/// The most entries of `paths`, and of `grpc_methods`.
pub(crate) const MAX_PATTERNS: usize = 64;
/// The most bytes of one pattern.
pub(crate) const MAX_PATTERN: usize = 1024;

/// Prefixes of gRPC services whose messages never get a secret. Reflection echoes its request, and health checks are open
/// to everybody.
const EXCLUDED_SERVICES: [&str; 2] = ["grpc.reflection.", "grpc.health."];

/// The calls that get secrets in their body. All other calls are forwarded without secrets in the body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BodyCalls {
    /// HTTP paths; an empty list means all paths.
    pub paths: Vec<PathPattern>,
    /// gRPC methods; an empty list means no method.
    pub grpc_methods: Vec<MethodPattern>,
}

/// `/run`, or `/tools/*` for all paths that begin with `/tools/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern(String);

/// `pkg.Service/Method`, or `pkg.Service/*` for all methods of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodPattern {
    service: String,
    /// `None` means all methods.
    method: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a path begins with / and has up to {MAX_PATTERN} visible ASCII characters without a query; a * stands only for the \
     whole of the last segment, as in /tools/*"
)]
pub struct NotAPathPattern;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MethodPatternError {
    #[error(
        "a gRPC method is written like pkg.Service/Method, or pkg.Service/* for all methods of a service"
    )]
    Form,
    /// The service is one of [`EXCLUDED_SERVICES`].
    #[error("gRPC reflection and health never get secrets: an answer of reflection repeats its request")]
    Excluded,
}

impl BodyCalls {
    /// Returns true when a call gets secrets in its body. `path` is the part of the request's path after the server's name,
    /// and may have a query.
    pub fn include(&self, dialect: Dialect, path: &str) -> bool {
        let path = match path.split('?').next() {
            None | Some("") => "/",
            Some(path) => path,
        };
        let service = path.strip_prefix('/').unwrap_or(path);
        if is_excluded(service) {
            return false;
        }
        match dialect {
            Dialect::Http => self.paths.is_empty() || self.paths.iter().any(|pattern| pattern.matches(path)),
            Dialect::Grpc => self.grpc_methods.iter().any(|pattern| pattern.matches(path)),
        }
    }

    /// Returns true when a server may read a gRPC call of `path` as a call that gets secrets in a JSON body or a form: when
    /// `paths` name the path. When they name none, all paths count but those that have the form of a gRPC method.
    pub fn may_be_http(&self, path: &str) -> bool {
        let is_method_alone = self.paths.is_empty() && is_method(path);
        self.include(Dialect::Http, path) && !is_method_alone
    }
}

/// Returns true for `/pkg.Service/Method` and `/Service/Method`, the forms of a path in gRPC. A path such as `/v1/charges`
/// could be one too, but the names of services without a package begin with a capital letter.
fn is_method(path: &str) -> bool {
    let called = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    called.is_some_and(|(service, method)| {
        let is_service =
            service.contains('.') || service.starts_with(|first: char| first.is_ascii_uppercase());
        is_service && service.split('.').all(is_identifier) && is_identifier(method)
    })
}

fn is_excluded(service: &str) -> bool {
    EXCLUDED_SERVICES.iter().any(|prefix| service.starts_with(prefix))
}

impl PathPattern {
    pub fn parse(text: &str) -> Result<Self, NotAPathPattern> {
        let fixed = text
            .strip_suffix("/*")
            .map_or(text, |_| text.get(..text.len() - 1).unwrap_or_default());
        let is_legal = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'*' | b'?' | b'#');
        if text.len() <= MAX_PATTERN && fixed.starts_with('/') && fixed.bytes().all(is_legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAPathPattern)
        }
    }

    /// Compares `path` byte for byte, in the form that the upstream gets. A `/*` matches only paths that every server reads
    /// in the same way ([`is_unambiguous`]).
    fn matches(&self, path: &str) -> bool {
        match self.0.strip_suffix('*') {
            None => path == self.0,
            Some(prefix) => path.strip_prefix(prefix).is_some_and(is_unambiguous),
        }
    }
}

/// Returns true when every server reads `rest`, the path after the fixed part of a pattern, in the same way.
///
/// Some servers decode a path twice, read `\` as `/`, cut a segment at `;` or a path at NUL, and join empty segments. An
/// unambiguous path has only characters without such a meaning, literal or encoded, and no segment that is empty or only
/// dots.
fn is_unambiguous(rest: &str) -> bool {
    let segments = rest.strip_suffix('/').unwrap_or(rest);
    let is_segment = |segment: &str| segment.bytes().any(|byte| byte != b'.');
    (rest.is_empty() || segments.split('/').all(is_segment)) && decode(rest).is_some()
}

/// Percent-decodes `text` once. Returns `None` when a byte is ambiguous or the result is not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        let (byte, behind, special) = match (byte, behind) {
            (b'%', [high, low, behind @ ..]) => (hex(*high)? << 4 | hex(*low)?, behind, &b"/.?#\\;%"[..]),
            (b'%', _) => return None,
            (byte, behind) => (*byte, behind, &b"\\;"[..]),
        };
        if byte.is_ascii_control() || special.contains(&byte) {
            return None;
        }
        decoded.push(byte);
        rest = behind;
    }
    String::from_utf8(decoded).ok()
}

fn hex(digit: u8) -> Option<u8> {
    u8::try_from(char::from(digit).to_digit(16)?).ok()
}

impl MethodPattern {
    pub fn parse(text: &str) -> Result<Self, MethodPatternError> {
        let (service, method) = text.split_once('/').ok_or(MethodPatternError::Form)?;
        let is_method = method == "*" || is_identifier(method);
        if text.len() > MAX_PATTERN || !is_method || !service.split('.').all(is_identifier) {
            return Err(MethodPatternError::Form);
        }
        if is_excluded(service) {
            return Err(MethodPatternError::Excluded);
        }
        Ok(Self {
            service: service.to_owned(),
            method: (method != "*").then(|| method.to_owned()),
        })
    }

    fn matches(&self, path: &str) -> bool {
        let called = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        called.is_some_and(|(service, method)| {
            service == self.service
                && self
                    .method
                    .as_ref()
                    .map_or(is_identifier(method), |one| method == one)
        })
    }
}

/// Returns true for an identifier in the grammar of protobuf.
fn is_identifier(text: &str) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    text.as_bytes().first().is_some_and(is_letter)
        && text.bytes().all(|byte| is_letter(&byte) || byte.is_ascii_digit())
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for MethodPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.method.as_deref().unwrap_or("*"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(paths: &[&str], methods: &[&str]) -> BodyCalls {
        BodyCalls {
            paths: paths
                .iter()
                .map(|text| PathPattern::parse(text).unwrap())
                .collect(),
            grpc_methods: methods
                .iter()
                .map(|text| MethodPattern::parse(text).unwrap())
                .collect(),
        }
    }

    #[test]
    fn a_path_is_matched_byte_for_byte() {
        let calls = calls(&["/run", "/tools/*"], &[]);
        for (path, included) in [
            ("/run", true),
            ("/run?q=1", true),
            ("/run/", false),
            ("/Run", false),
            ("/r%75n", false),
            ("/run;x", false),
            ("", false),
            ("/", false),
            ("/tools", false),
            ("/tools/", true),
            ("/tools/a", true),
            ("/tools/a/b?q=/../", true),
            ("/tools//a", false),
            ("/tools/a//b", false),
            ("/tools/a%2Fb", false),
            ("/tools/a%5cb", false),
            ("/tools/a\\b", false),
            ("/tools/a;b", false),
            ("/tools/a%3Bb", false),
            ("/tools/a%2eb", false),
            ("/tools/%252e%252e/x", false),
            ("/tools/a%25b", false),
            ("/tools/a%00", false),
            ("/tools/%0d", false),
            ("/tools/%7f", false),
            ("/tools/a%3Fb", false),
            ("/tools/a%23b", false),
            ("/tools/a%", false),
            ("/tools/a%2", false),
            ("/tools/a%2x", false),
            ("/tools/%c0%ae%c0%ae/x", false),
            ("/tools/%ff", false),
            ("/tools/.../x", false),
            ("/tools/..", false),
            ("/tools/a%20b", true),
            ("/tools/a%C3%A4", true),
            ("/tools/a/", true),
            ("/tools/.a/b.c/d..", true),
        ] {
            assert_eq!(calls.include(Dialect::Http, path), included, "{path}");
        }
    }

    #[test]
    fn an_empty_list_of_paths_includes_all_paths_and_an_empty_list_of_methods_none() {
        let none = calls(&[], &[]);
        for path in ["", "?q", "/", "/run", "/a//b;c"] {
            assert!(none.include(Dialect::Http, path), "{path}");
        }
        assert!(!none.include(Dialect::Grpc, "/pkg.Service/Method"));
        assert!(calls(&["/*"], &[]).include(Dialect::Http, ""));
    }

    #[test]
    fn a_method_is_matched_by_its_service_and_name() {
        let calls = calls(&[], &["pkg.v1.One/Get", "pkg.v1.Two/*"]);
        for (path, included) in [
            ("/pkg.v1.One/Get", true),
            ("/pkg.v1.One/Get?q", true),
            ("/pkg.v1.One/get", false),
            ("/pkg.v1.One/Put", false),
            ("/pkg.v1.One/Get/", false),
            ("/x/pkg.v1.One/Get", false),
            ("/pkg.v1.Two/Any", true),
            ("/pkg.v1.Two/", false),
            ("/pkg.v1.Two/a/b", false),
            ("/pkg.v1.Twoo/Any", false),
            ("/pkg.v1.Tw%6f/Any", false),
            ("/", false),
        ] {
            assert_eq!(calls.include(Dialect::Grpc, path), included, "{path}");
        }
    }

    #[test]
    fn a_grpc_call_may_be_another_one_when_its_path_is_named_or_is_no_method() {
        let (all, named) = (calls(&[], &[]), calls(&["/run", "/pkg.One/Get", "/tools/*"], &[]));
        for (path, without_paths, with_paths) in [
            ("", true, false),
            ("/", true, false),
            ("/run", true, true),
            ("/run?q", true, true),
            ("/other", true, false),
            ("/pkg.One/Get", false, true),
            ("/pkg.One/Put", false, false),
            ("/One/Get", false, false),
            ("/v1/charges", true, false),
            ("/tools/run", true, true),
            ("/pkg.One/Get?q", true, true),
            ("/pkg.One/Get/", true, false),
            ("/pkg..One/Get", true, false),
            ("/pkg.One/G%65t", true, false),
            ("/a/pkg.One/Get", true, false),
            ("//Get", true, false),
            ("/grpc.health.v1.Health/Check", false, false),
            ("/grpc.health.v1.Health/Check?q", false, false),
        ] {
            let found = (all.may_be_http(path), named.may_be_http(path));
            assert_eq!(found, (without_paths, with_paths), "{path}");
        }
    }

    #[test]
    fn reflection_and_health_are_never_included() {
        let all = calls(&[], &[]);
        for service in [
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "grpc.health.v1.Health",
        ] {
            let named = MethodPattern::parse(&format!("{service}/*"));
            assert_eq!(named, Err(MethodPatternError::Excluded));
            for dialect in [Dialect::Http, Dialect::Grpc] {
                assert!(!all.include(dialect, &format!("/{service}/Check")));
            }
        }
    }

    #[test]
    fn a_pattern_has_only_one_spelling() {
        for text in ["/", "/*", "/a/*", "/a-b/c.d~e", "/a%20b", "/a/"] {
            assert_eq!(PathPattern::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "a",
            "*",
            "/a*",
            "/a/*/b",
            "/**",
            "/a?b",
            "/a#b",
            "/a b",
            "/\u{e9}",
            &format!("/{}", "x".repeat(1024)),
        ] {
            assert!(PathPattern::parse(text).is_err(), "{text}");
        }
        for text in ["S/M", "pkg.v1.S/M_1", "_s/*"] {
            assert_eq!(MethodPattern::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "", "S", "/S/M", "S/", "*/*", "S/M/", "a..S/M", ".S/M", "S/1", "S/a*", "S /M",
        ] {
            assert_eq!(
                MethodPattern::parse(text),
                Err(MethodPatternError::Form),
                "{text}"
            );
        }
    }
}
