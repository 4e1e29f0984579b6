//! URLs in an answer, moved from where the upstream has its server to where the program sees the server. Without this, a
//! client that follows such a URL would leave the injector, or would be sent to a path of another server.

use http::{HeaderMap, HeaderName, HeaderValue, Uri, uri::Authority};
use proto::Origin;
use url::Url;

use super::oauth;
use crate::registry::server::{Oauth, Spec};

/// The most bytes of a value whose URLs are moved; a longer value is removed. Each URL in a value may grow by the path of
/// the server, or by that of the request.
const MAX_MOVED: usize = 256 << 10;

/// The addresses of one server: the upstream's, and those under which the program calls it.
pub(super) struct Addresses<'a> {
    /// The scheme of the injector's listener.
    pub(super) scheme: &'static str,
    /// The injector's host and port, as the program wrote them.
    pub(super) authority: &'a Authority,
    /// `/{workspace}/{server}` when the path names the server, else empty.
    pub(super) prefix: &'a str,
    /// The server.
    pub(super) server: &'a Spec,
    /// The URL of the request as it was sent upstream.
    pub(super) request: &'a Uri,
}

/// The ways in which header fields carry URLs.
#[derive(Clone, Copy)]
enum Form {
    /// The value is one URL.
    Whole,
    /// `<URL>; parameters`, in a list (RFC 8288, section 3).
    Links,
    /// `seconds; url=URL` (HTML, section 4.2.5.3).
    Refresh,
    /// `scheme resource_metadata="URL"` (RFC 9728, section 5.1).
    Challenge,
}

/// Returns the form of the URLs in a header field, or None for a field without URLs.
fn form(name: &HeaderName) -> Option<Form> {
    match name.as_str() {
        "location"
        | "content-location"
        | "operation-location"
        | "azure-asyncoperation"
        | "odata-entityid"
        | "x-goog-upload-url"
        | "sourcemap"
        | "x-sourcemap" => Some(Form::Whole),
        "link" | "uri" => Some(Form::Links),
        "refresh" => Some(Form::Refresh),
        "www-authenticate" => Some(Form::Challenge),
        _ => None,
    }
}

impl Addresses<'_> {
    /// Moves all URLs in the headers of an answer. A value that cannot be read is removed, because a client might still
    /// read it, and would read it as relative to the injector.
    pub(super) fn rewrite(&self, headers: &mut HeaderMap) {
        let with_urls = headers
            .keys()
            .filter_map(|name| Some((name.clone(), form(name)?)));
        for (name, form) in with_urls.collect::<Vec<_>>() {
            let values: Vec<_> = headers.get_all(&name).iter().cloned().collect();
            headers.remove(&name);
            for value in values {
                let moved = str::from_utf8(value.as_bytes())
                    .ok()
                    .and_then(|value| self.value(form, value));
                if let Some(Ok(moved)) = moved.map(HeaderValue::try_from) {
                    headers.append(&name, moved);
                }
            }
        }
    }

    fn value(&self, form: Form, value: &str) -> Option<String> {
        match form {
            // The obsolete field `URI` is written in both forms.
            Form::Links if value.contains('<') => self.parameter(value, &['<', '"'], "anchor", ""),
            Form::Whole | Form::Links => self.reference(value),
            Form::Refresh => self.refresh(value),
            Form::Challenge => match self.server.oauth {
                Oauth::Pass => self.parameter(value, &['"'], "resource_metadata", oauth::ELSEWHERE),
                Oauth::Replace => Some(value.to_owned()),
            },
        }
    }

    /// Moves a URL on the server's own host and path, and keeps its form: an absolute URL stays absolute, because clients
    /// put a relative one behind a base URL of their own, and a relative one stays relative. Any other URL is returned
    /// as one that leads to the same place from everywhere. Returns None for a text that is not a URL.
    pub(super) fn reference(&self, reference: &str) -> Option<String> {
        self.reference_to("", reference)
    }

    /// Moves a URL like [`Self::reference`]. Before the path of a URL that is none of OAuth's documents, `document` is put.
    fn reference_to(&self, document: &'static str, reference: &str) -> Option<String> {
        let target = Url::parse(&self.request.to_string()).ok()?.join(reference).ok()?;
        let is_absolute = Url::parse(reference).is_ok();
        match self.path(document, &target) {
            // A path that begins with `//` is read as a host when nothing stands before it.
            Some(path) if is_absolute || path.starts_with("//") => {
                Some(format!("{}://{}{path}", self.scheme, self.authority))
            }
            Some(path) => Some(path),
            None if is_absolute => Some(reference.to_owned()),
            None => Some(target.into()),
        }
    }

    /// Returns the path, query and fragment under which the program reaches `target`, or None for another server's URL.
    fn path(&self, document: &'static str, target: &Url) -> Option<String> {
        let (document, path) = match (self.server.oauth, oauth::split(target.path())) {
            (Oauth::Replace, _) | (Oauth::Pass, ("", _)) => (document, target.path()),
            (Oauth::Pass, known) => known,
        };
        let rest = under(path, self.server.url.path()).filter(|_| self.is_own(target))?;
        let mut path = format!("{document}{}{rest}", self.prefix);
        if path.is_empty() {
            path.push('/');
        }
        for (mark, part) in [('?', target.query()), ('#', target.fragment())] {
            if let Some(part) = part {
                path.push(mark);
                path.push_str(part);
            }
        }
        Some(path)
    }

    /// Returns true for a URL with the server's origin. An upstream behind a proxy that ends TLS often does not know of
    /// TLS, and writes `http://` before its own host.
    fn is_own(&self, target: &Url) -> bool {
        let is_own = |url: &Url| Origin::of(url).as_ref() == Some(self.server.url.origin());
        let mut secure = target.clone();
        is_own(target) || target.scheme() == "http" && secure.set_scheme("https").is_ok() && is_own(&secure)
    }

    /// Moves the URLs in `<…>`, if `marks` has `<`, and those of quoted parameters with this name, which may lead to a
    /// `document`.
    fn parameter(&self, value: &str, marks: &[char], name: &str, document: &'static str) -> Option<String> {
        let (mut moved, mut rest) = (String::new(), value);
        while let Some((before, opening)) = rest.find(marks).and_then(|at| rest.split_at_checked(at)) {
            moved.push_str(before);
            if moved.len() > MAX_MOVED {
                return None;
            }
            if let Some(link) = opening.strip_prefix('<') {
                let (reference, after) = link.split_once('>')?;
                moved.push_str(&format!("<{}>", self.reference(reference)?));
                rest = after;
            } else {
                let (quoted, after) = quoted(opening)?;
                if is_value_of(name, before) {
                    moved.push_str(&format!("\"{}\"", self.reference_to(document, quoted)?));
                } else {
                    moved.push_str(&format!("\"{quoted}\""));
                }
                rest = after;
            }
        }
        moved.push_str(rest);
        Some(moved)
    }

    fn refresh(&self, value: &str) -> Option<String> {
        let is_time = |char: char| char.is_ascii_digit() || matches!(char, '.' | ' ' | '\t');
        let (time, rest) =
            value.split_at_checked(value.find(|char| !is_time(char)).unwrap_or(value.len()))?;
        let reference = rest.trim_start_matches([';', ',']).trim();
        let named =
            strip_prefix_ignoring_case(reference, "url").and_then(|rest| rest.trim_start().strip_prefix('='));
        let reference = named.unwrap_or(reference).trim_start();
        let reference = match reference.strip_prefix(['"', '\'']) {
            Some(inner) => inner.split(['"', '\'']).next().unwrap_or_default(),
            None => reference,
        };
        if reference.is_empty() {
            return Some(value.to_owned());
        }
        Some(format!("{}; url={}", time.trim(), self.reference(reference)?))
    }
}

/// Splits after the quoted string that `text` begins with, and takes its quotes off. The string's escapes stay.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut escaped = false;
    let end = inner.find(|char| {
        let ends = char == '"' && !escaped;
        escaped = char == '\\' && !escaped;
        ends
    })?;
    Some((inner.get(..end)?, inner.get(end + 1..)?))
}

/// Returns true when `before` ends in the name of the parameter and `=`.
fn is_value_of(name: &str, before: &str) -> bool {
    let named = before.trim_end().strip_suffix('=').map(str::trim_end);
    let named = named.and_then(|named| named.rsplit([';', ',', ' ', '\t']).next());
    named.is_some_and(|named| named.eq_ignore_ascii_case(name))
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// What follows `base` (without a final `/`) in `path`, when `path` is at or under it.
pub(super) fn under<'a>(path: &'a str, base: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(base)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    /// The answer to `https://api.example.com/v1/x/y`, of a server at `https://api.example.com/v1/`.
    fn moved(prefix: &str, name: &'static str, value: &str) -> Option<String> {
        moved_with(Oauth::Replace, prefix, name, value)
    }

    fn moved_with(oauth: Oauth, prefix: &str, name: &'static str, value: &str) -> Option<String> {
        let server = Spec {
            oauth,
            ..Spec::of_url("https://api.example.com/v1/")
        };
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        Addresses {
            scheme: "http",
            authority: &"localhost:7100".parse().unwrap(),
            prefix,
            server: &server,
            request: &"https://api.example.com/v1/x/y".parse().unwrap(),
        }
        .rewrite(&mut headers);
        headers.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_url_on_the_server_leads_to_the_injector_in_every_way_of_naming() {
        for (location, by_path, otherwise) in [
            (
                "https://api.example.com/v1/b?q=1#f",
                "http://localhost:7100/w/s/b?q=1#f",
                "http://localhost:7100/b?q=1#f",
            ),
            (
                "https://API.example.com:443/v1",
                "http://localhost:7100/w/s",
                "http://localhost:7100/",
            ),
            (
                "http://api.example.com/v1/b",
                "http://localhost:7100/w/s/b",
                "http://localhost:7100/b",
            ),
            (
                "http://api.example.com:443/v1/b",
                "http://localhost:7100/w/s/b",
                "http://localhost:7100/b",
            ),
            ("/v1/b", "/w/s/b", "/b"),
            ("//api.example.com/v1/b", "/w/s/b", "/b"),
            ("b", "/w/s/x/b", "/x/b"),
            ("?q", "/w/s/x/y?q", "/x/y?q"),
            ("/v1?q", "/w/s?q", "/?q"),
            (
                "/v1//evil.example",
                "/w/s//evil.example",
                "http://localhost:7100//evil.example",
            ),
        ] {
            for (prefix, expected) in [("/w/s", by_path), ("", otherwise)] {
                assert_eq!(
                    moved(prefix, "location", location).as_deref(),
                    Some(expected),
                    "{location}"
                );
            }
        }
    }

    #[test]
    fn any_other_url_leads_where_it_led() {
        for (location, expected) in [
            ("/other", "https://api.example.com/other"),
            ("/v10/b", "https://api.example.com/v10/b"),
            ("../../../b", "https://api.example.com/b"),
            ("//elsewhere.example/b", "https://elsewhere.example/b"),
            ("https://elsewhere.example/v1/b", "https://elsewhere.example/v1/b"),
            (
                "https://api.example.com:8443/v1",
                "https://api.example.com:8443/v1",
            ),
            ("http://api.example.com:8443/v1", "http://api.example.com:8443/v1"),
            ("data:,x", "data:,x"),
        ] {
            for prefix in ["/w/s", ""] {
                assert_eq!(
                    moved(prefix, "location", location).as_deref(),
                    Some(expected),
                    "{location}"
                );
            }
        }
        assert_eq!(moved("/w/s", "location", "https://["), None);
    }

    #[test]
    fn urls_are_found_in_all_headers_that_have_some() {
        for (name, value, expected) in [
            ("content-location", "/v1/b", Some("/w/s/b")),
            (
                "operation-location",
                "https://api.example.com/v1/ops/1",
                Some("http://localhost:7100/w/s/ops/1"),
            ),
            (
                "azure-asyncoperation",
                "https://api.example.com/v1/ops/1?api-version=1",
                Some("http://localhost:7100/w/s/ops/1?api-version=1"),
            ),
            ("sourcemap", "y.map", Some("/w/s/x/y.map")),
            ("x-sourcemap", "/v1/y.map", Some("/w/s/y.map")),
            (
                "link",
                "<https://api.example.com/v1/r?page=2>; rel=\"next\", </v1/r?page=9>; rel=last",
                Some("<http://localhost:7100/w/s/r?page=2>; rel=\"next\", </w/s/r?page=9>; rel=last"),
            ),
            (
                "link",
                "<https://other.example/>; title=\"a \\\"<b>, c\"; Anchor = \"/v1/z\"; x=\"/v1/z\"",
                Some("<https://other.example/>; title=\"a \\\"<b>, c\"; Anchor = \"/w/s/z\"; x=\"/v1/z\""),
            ),
            ("link", "<https://[>; rel=next", None),
            ("link", "</v1/b", None),
            ("link", "</v1/b>; title=\"", None),
            ("uri", "</v1/b>", Some("</w/s/b>")),
            ("uri", "/v1/b", Some("/w/s/b")),
            ("refresh", "5", Some("5")),
            ("refresh", "5; url=/v1/b", Some("5; url=/w/s/b")),
            ("refresh", "0;URL = '/v1/b' x", Some("0; url=/w/s/b")),
            (
                "refresh",
                "1.5, \"https://api.example.com/v1/b\"",
                Some("1.5; url=http://localhost:7100/w/s/b"),
            ),
            ("refresh", "5 url=urls", Some("5; url=/w/s/x/urls")),
            ("refresh", "5; url=https://[", None),
            ("x-mine", "/v1/b", Some("/v1/b")),
        ] {
            assert_eq!(moved("/w/s", name, value).as_deref(), expected, "{name}: {value}");
        }
    }

    #[test]
    fn the_documents_of_oauth_are_moved_where_the_program_authenticates_itself() {
        let challenge =
            |url: &str| format!("Basic realm=\"/v1/<\", Bearer Resource_Metadata = \"{url}\", scope=\"a\"");
        let document = "/.well-known/oauth-protected-resource";
        for (oauth, prefix, url, expected) in [
            (
                Oauth::Pass,
                "/w/s",
                format!("https://api.example.com{document}/v1"),
                format!("http://localhost:7100{document}/w/s"),
            ),
            (
                Oauth::Pass,
                "",
                format!("https://api.example.com{document}/v1/a"),
                format!("http://localhost:7100{document}/a"),
            ),
            (
                Oauth::Pass,
                "",
                format!("https://api.example.com{document}/v1"),
                format!("http://localhost:7100{document}"),
            ),
            (
                Oauth::Pass,
                "/w/s",
                format!("https://api.example.com{document}"),
                format!("https://api.example.com{document}"),
            ),
            (
                Oauth::Pass,
                "/w/s",
                "https://api.example.com/v1/metadata.json?q".to_owned(),
                "http://localhost:7100/.well-known/x-aerostack-resource-metadata/w/s/metadata.json?q"
                    .to_owned(),
            ),
            (
                Oauth::Replace,
                "/w/s",
                format!("https://api.example.com{document}/v1"),
                format!("https://api.example.com{document}/v1"),
            ),
        ] {
            let moved = moved_with(oauth, prefix, "www-authenticate", &challenge(&url));
            assert_eq!(moved, Some(challenge(&expected)));
        }
    }
}
