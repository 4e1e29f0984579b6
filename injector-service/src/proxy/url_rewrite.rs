//! URLs in responses, rewritten from the upstream's address of a server to the address under which the program calls
//! that server. A client that followed an unchanged URL would leave the injector, or would reach another server.

use http::{HeaderMap, HeaderName, HeaderValue, uri::Authority};
use proto::Origin;
use url::Url;

use super::{oauth_path, sent_url::SentUrl};
use crate::registry::server::{Oauth, Spec};

/// The most bytes of a value whose URLs are rewritten; a longer value is removed. Each URL in a value may grow by the
/// path of the server, or by the path of the request.
const MAX_REWRITTEN: usize = 256 << 10;
/// The most links of one head whose URLs are rewritten; a value with further links is removed. A link of four bytes may be
/// relative to a request URL of 60 KiB, so a head of nothing but links would take seconds.
const MAX_LINKS: usize = 1000;

/// The addresses of one server: the upstream's, and those under which the program calls it.
pub(super) struct ServerUrls<'a> {
    /// The scheme of the injector's listener.
    pub(super) scheme: &'static str,
    /// The injector's host and port, as the program wrote them.
    pub(super) authority: &'a Authority,
    /// `/{workspace}/{server}` when the path names the server, else empty.
    pub(super) prefix: &'a str,
    pub(super) server: &'a Spec,
    pub(super) request: &'a SentUrl,
}

/// The ways in which header fields carry URLs.
#[derive(Clone, Copy)]
enum UrlSyntax {
    /// The value is one URL.
    Whole,
    /// `<URL>; parameters`, in a list (RFC 8288, section 3).
    Links,
    /// `seconds; url=URL` (HTML, section 4.2.5.3).
    Refresh,
    /// `scheme resource_metadata="URL"` (RFC 9728, section 5.1).
    Challenge,
}

/// Returns the syntax of the URLs in a header field, or None for a field without URLs.
fn url_syntax(name: &HeaderName) -> Option<UrlSyntax> {
    match name.as_str() {
        "location"
        | "content-location"
        | "operation-location"
        | "azure-asyncoperation"
        | "odata-entityid"
        | "x-goog-upload-url"
        | "sourcemap"
        | "x-sourcemap" => Some(UrlSyntax::Whole),
        "link" | "uri" => Some(UrlSyntax::Links),
        "refresh" => Some(UrlSyntax::Refresh),
        "www-authenticate" => Some(UrlSyntax::Challenge),
        _ => None,
    }
}

impl ServerUrls<'_> {
    /// Rewrites all URLs in the headers of a response. Removes a value that is not valid: a client might still read a
    /// URL in it, and would take that URL as relative to the injector.
    pub(super) fn rewrite_headers(&self, headers: &mut HeaderMap) {
        let with_urls = headers
            .keys()
            .filter_map(|name| Some((name.clone(), url_syntax(name)?)));
        let mut links_left = MAX_LINKS;
        for (name, syntax) in with_urls.collect::<Vec<_>>() {
            let values: Vec<_> = headers.get_all(&name).iter().cloned().collect();
            headers.remove(&name);
            for value in values {
                let rewritten = str::from_utf8(value.as_bytes())
                    .ok()
                    .and_then(|value| self.rewrite_value(syntax, value, &mut links_left));
                if let Some(Ok(rewritten)) = rewritten.map(HeaderValue::try_from) {
                    headers.append(&name, rewritten);
                }
            }
        }
    }

    /// Rewrites a URL with the server's own host and path, and keeps its form: an absolute URL stays absolute, because
    /// clients resolve a relative URL against a base URL of their own, and a relative URL stays relative. Returns any
    /// other URL in a form that leads to the same place from everywhere. Returns None for a text that is not a URL.
    pub(super) fn rewrite_url(&self, url: &str) -> Option<String> {
        self.rewrite_document_url("", url)
    }

    /// Rewrites a URL like [`Self::rewrite_url`]. The path of a URL that is no OAuth document gets the prefix
    /// `document`.
    fn rewrite_document_url(&self, document: &'static str, url: &str) -> Option<String> {
        let resolved = self.request.resolve(url)?;
        let is_absolute = Url::parse(url).is_ok();
        match self.path_here(document, &resolved) {
            // A relative reference that begins with `//` would name a host (RFC 3986, section 4.2).
            Some(path) if is_absolute || path.starts_with("//") => {
                Some(format!("{}://{}{path}", self.scheme, self.authority))
            }
            Some(path) => Some(path),
            None if is_absolute => Some(url.to_owned()),
            None => Some(resolved.into()),
        }
    }

    /// Returns the path, query and fragment under which the program reaches `url`, or None for a URL of another server.
    fn path_here(&self, document: &'static str, url: &Url) -> Option<String> {
        let (document, path) = match (self.server.oauth, oauth_path::split(url.path())) {
            (Oauth::Replace, _) | (Oauth::Pass, ("", _)) => (document, url.path()),
            (Oauth::Pass, known) => known,
        };
        let rest = self
            .server
            .url
            .strip_path(path)
            .filter(|_| self.is_of_server(url))?;
        let mut path = format!("{document}{}{rest}", self.prefix);
        if path.is_empty() {
            path.push('/');
        }
        for (mark, part) in [('?', url.query()), ('#', url.fragment())] {
            if let Some(part) = part {
                path.push(mark);
                path.push_str(part);
            }
        }
        Some(path)
    }

    /// Returns true for a URL with the server's origin. An upstream behind a proxy that terminates TLS often does not
    /// know about TLS, and writes `http://` before its own host.
    fn is_of_server(&self, url: &Url) -> bool {
        let has_origin = |url: &Url| Origin::of(url).as_ref() == Some(self.server.url.origin());
        let mut secure = url.clone();
        has_origin(url) || url.scheme() == "http" && secure.set_scheme("https").is_ok() && has_origin(&secure)
    }

    fn rewrite_value(&self, syntax: UrlSyntax, value: &str, links_left: &mut usize) -> Option<String> {
        match syntax {
            // The obsolete field `URI` occurs in both forms.
            UrlSyntax::Links if value.contains('<') => {
                self.rewrite_parameters(value, &['<', '"'], "anchor", "", links_left)
            }
            UrlSyntax::Whole | UrlSyntax::Links => self.rewrite_url(value),
            UrlSyntax::Refresh => self.rewrite_refresh(value),
            UrlSyntax::Challenge => match self.server.oauth {
                Oauth::Pass => {
                    let (name, document) = ("resource_metadata", oauth_path::ELSEWHERE);
                    self.rewrite_parameters(value, &['"'], name, document, links_left)
                }
                Oauth::Replace => Some(value.to_owned()),
            },
        }
    }

    /// Rewrites the URLs in `<…>`, if `marks` contains `<`, and the quoted parameters called `name`, whose URLs may get
    /// the prefix `document`. Returns None for a value with more than `links_left` URLs.
    fn rewrite_parameters(
        &self,
        value: &str,
        marks: &[char],
        name: &str,
        document: &'static str,
        links_left: &mut usize,
    ) -> Option<String> {
        let (mut rewritten, mut rest) = (String::new(), value);
        while let Some((before, marked)) = rest.find(marks).and_then(|at| rest.split_at_checked(at)) {
            rewritten.push_str(before);
            if rewritten.len() > MAX_REWRITTEN {
                return None;
            }
            if let Some(link) = marked.strip_prefix('<') {
                let (url, after) = link.split_once('>')?;
                *links_left = links_left.checked_sub(1)?;
                rewritten.push_str(&format!("<{}>", self.rewrite_url(url)?));
                rest = after;
            } else {
                let (quoted, after) = split_quoted(marked)?;
                if ends_in_parameter(before, name) {
                    *links_left = links_left.checked_sub(1)?;
                    rewritten.push_str(&format!("\"{}\"", self.rewrite_document_url(document, quoted)?));
                } else {
                    rewritten.push_str(&format!("\"{quoted}\""));
                }
                rest = after;
            }
        }
        rewritten.push_str(rest);
        Some(rewritten)
    }

    fn rewrite_refresh(&self, value: &str) -> Option<String> {
        let is_time = |char: char| char.is_ascii_digit() || matches!(char, '.' | ' ' | '\t');
        let (time, rest) =
            value.split_at_checked(value.find(|char| !is_time(char)).unwrap_or(value.len()))?;
        let url = rest.trim_start_matches([';', ',']).trim();
        let named =
            strip_prefix_ignoring_case(url, "url").and_then(|rest| rest.trim_start().strip_prefix('='));
        let url = named.unwrap_or(url).trim_start();
        let url = match url.strip_prefix(['"', '\'']) {
            Some(inner) => inner.split(['"', '\'']).next().unwrap_or_default(),
            None => url,
        };
        if url.is_empty() {
            return Some(value.to_owned());
        }
        Some(format!("{}; url={}", time.trim(), self.rewrite_url(url)?))
    }
}

/// Splits a text that begins with a quoted string into the string without its quotes, whose escapes stay, and the rest.
fn split_quoted(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut escaped = false;
    let end = inner.find(|char| {
        let ends = char == '"' && !escaped;
        escaped = char == '\\' && !escaped;
        ends
    })?;
    Some((inner.get(..end)?, inner.get(end + 1..)?))
}

/// Returns true when `text` ends in the parameter name `name` and `=`.
fn ends_in_parameter(text: &str, name: &str) -> bool {
    let named = text.trim_end().strip_suffix('=').map(str::trim_end);
    let named = named.and_then(|named| named.rsplit([';', ',', ' ', '\t']).next());
    named.is_some_and(|named| named.eq_ignore_ascii_case(name))
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests;
