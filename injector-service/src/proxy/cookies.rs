//! Cookies, which go back only to the server that set them. The way in which a request names its server decides by
//! which property a cookie jar can tell servers apart:
//!
//! | server named by | cookies told apart by |
//! |---|---|
//! | the path | `Path`, which is moved under the server's; `Domain` is removed |
//! | the host | the host, because `Domain` is removed |
//! | headers, or a listener | the cookie's name, which is marked, because all servers have the same host and the same paths there, and cookies do not distinguish ports (RFC 6265, section 8.5) |
//!
//! The injector removes the mark, such as the one in `session~github.dev-tools=…`, from a cookie that goes to the
//! marked server, and drops a cookie with the mark of another server.
//!
//! Cookies that the injector puts into requests belong to the injector. After the marks were removed, the injector drops
//! every cookie of the program that a server may read as one of its own, and every cookie of that name that the server
//! sets: the program has no use for such a cookie, and the cookie may be a fresh credential.

mod own_cookies;
mod white_space;

use http::{HeaderMap, HeaderValue, header};
use proto::{ServerName, WorkspaceName};

use super::{sent_url::SentUrl, target::CallTarget};
use crate::registry::server::{Server, UpstreamUrl};
use own_cookies::OwnCookies;

/// The byte that begins a mark. Few names of cookies contain this byte otherwise.
const MARK: u8 = b'~';

/// The property by which cookie jars tell a server's cookies from those of other servers.
pub(super) enum CookieScope<'a> {
    /// The cookie's path, which is moved from the upstream's path under the server's path.
    Path {
        /// `/{workspace}/{server}`.
        prefix: &'a str,
        upstream: &'a UpstreamUrl,
        request: &'a SentUrl,
    },
    /// The host, which no other server has.
    Host,
    /// The cookie's name, which gets a mark.
    Name,
}

impl CallTarget {
    pub(super) fn cookie_scope<'a>(&'a self, request: &'a SentUrl) -> CookieScope<'a> {
        match &self.prefix {
            Some(prefix) => CookieScope::Path {
                prefix,
                upstream: &self.entry.server.spec.url,
                request,
            },
            None if self.by_host => CookieScope::Host,
            None => CookieScope::Name,
        }
    }
}

/// Removes other servers' cookies and the injector's own from a request, and joins the rest into one field, because
/// HTTP/2 lets a client split the field (RFC 9113, section 8.2.3).
pub(super) fn filter_request(headers: &mut HeaderMap, server: &Server) {
    if headers.contains_key(header::COOKIE) {
        filter(headers, &mark(server), &OwnCookies::of(&server.spec.injections));
    }
}

fn filter(headers: &mut HeaderMap, mark: &[u8], own_cookies: &OwnCookies) {
    let fields: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
    let marked = fields.iter().any(|field| field.as_bytes().contains(&MARK));
    let passes_whole = !marked && own_cookies.is_empty();
    if fields.len() < 2 && passes_whole {
        return;
    }
    let sensitive = fields.iter().any(|field| field.is_sensitive());
    let joined = match passes_whole {
        true => fields
            .iter()
            .map(|field| field.as_bytes())
            .collect::<Vec<_>>()
            .join(&b"; "[..]),
        false => {
            let pairs = fields
                .iter()
                .flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
            let pairs = pairs.map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty());
            let pairs = pairs.filter_map(|pair| unmarked(pair, mark));
            // After the marks are gone, because a marked name may hide the name of an own cookie.
            let left: Vec<_> = pairs.filter(|pair| !own_cookies.are_in(pair)).collect();
            left.join(&b"; "[..])
        }
    };
    headers.remove(header::COOKIE);
    // A part of a legal value is a legal value, so `from_bytes` accepts every remainder.
    if let (Ok(mut joined), false) = (HeaderValue::from_bytes(&joined), joined.is_empty()) {
        joined.set_sensitive(sensitive);
        headers.insert(header::COOKIE, joined);
    }
}

/// Returns a cookie under the name that its server set, or None for a cookie of another server.
fn unmarked(pair: &[u8], own: &[u8]) -> Option<Vec<u8>> {
    let (name, value) = split(pair, b'=');
    let at = name.iter().rposition(|byte| *byte == MARK);
    let (name, mark) = name.split_at_checked(at.unwrap_or(name.len()))?;
    if mark == own {
        return Some([name, value].concat());
    }
    (!is_mark(mark)).then(|| pair.to_vec())
}

fn mark(server: &Server) -> Vec<u8> {
    format!("~{}.{}", server.name.as_str(), server.workspace.as_str()).into_bytes()
}

/// Returns true when `mark` is the mark of any server.
fn is_mark(mark: &[u8]) -> bool {
    let Some((server, workspace)) = str::from_utf8(mark)
        .ok()
        .and_then(|mark| mark.strip_prefix('~')?.split_once('.'))
    else {
        return false;
    };
    ServerName::parse(server).is_ok() && WorkspaceName::parse(workspace).is_ok()
}

/// Rewrites the cookies in a response so that a cookie jar returns them to this server alone.
pub(super) fn confine_response(headers: &mut HeaderMap, server: &Server, scope: &CookieScope<'_>) {
    let cookies: Vec<HeaderValue> = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
    if cookies.is_empty() {
        return;
    }
    headers.remove(header::SET_COOKIE);
    let mark = mark(server);
    let own_cookies = OwnCookies::of(&server.spec.injections);
    for cookie in cookies {
        let (pair, _attributes) = split(cookie.as_bytes(), b';');
        if own_cookies.are_named_by(pair) {
            continue;
        }
        let confined = confine(cookie.as_bytes(), &mark, scope);
        // A cookie that cannot be confined would go to every server, so it is dropped.
        if let Some(Ok(confined)) = confined.as_deref().map(HeaderValue::from_bytes) {
            headers.append(header::SET_COOKIE, confined);
        }
    }
}

fn confine(cookie: &[u8], mark: &[u8], scope: &CookieScope<'_>) -> Option<Vec<u8>> {
    let (pair, attributes) = split(cookie, b';');
    let mut confined = match scope {
        CookieScope::Path { .. } | CookieScope::Host => pair.to_vec(),
        CookieScope::Name => {
            let (name, value) = split(pair, b'=');
            // A cookie without a name cannot carry a mark.
            let named = !value.is_empty() && !name.trim_ascii().is_empty();
            named.then(|| [name.trim_ascii(), mark, value].concat())?
        }
    };
    let mut path = None;
    for attribute in attributes.split(|byte| *byte == b';').skip(1) {
        let (name, value) = split(attribute, b'=');
        let name = name.trim_ascii();
        if name.eq_ignore_ascii_case(b"path") && matches!(scope, CookieScope::Path { .. }) {
            path = str::from_utf8(value.get(1..).unwrap_or_default().trim_ascii()).ok();
        } else if !name.eq_ignore_ascii_case(b"domain") {
            confined.push(b';');
            confined.extend_from_slice(attribute);
        }
    }
    if let CookieScope::Path {
        prefix,
        upstream,
        request,
    } = scope
    {
        let path = match path {
            Some(path) if path.starts_with('/') => path.to_owned(),
            Some(_) | None => default_path(request),
        };
        let path = upstream.strip_path(&path).unwrap_or_default();
        confined.extend_from_slice(format!("; Path={prefix}{path}").as_bytes());
    }
    Some(confined)
}

/// Splits before the first byte `at`; the second part begins with that byte.
fn split(bytes: &[u8], at: u8) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == at).unwrap_or(bytes.len());
    bytes.split_at_checked(end).unwrap_or((bytes, &[]))
}

/// Returns the default path of a cookie (RFC 6265, section 5.1.4).
fn default_path(request: &SentUrl) -> String {
    match request.path().rsplit_once('/') {
        Some((directory, _)) if !directory.is_empty() => directory.to_owned(),
        _ => "/".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work_growth::{assert_linear, repeated};

    const OWN: &[u8] = b"~s.w";

    fn confined_text(cookie: &str, scope: &CookieScope<'_>) -> Option<String> {
        confine(cookie.as_bytes(), OWN, scope).map(|cookie| String::from_utf8(cookie).unwrap())
    }

    #[test]
    fn a_cookie_of_a_server_named_by_path_is_moved_under_that_path() {
        let request = SentUrl::new("https://api.example.com/v1/x/y".parse().unwrap());
        let upstream = UpstreamUrl::parse("https://api.example.com/v1").unwrap();
        let scope = CookieScope::Path {
            prefix: "/w/s",
            upstream: &upstream,
            request: &request,
        };
        for (cookie, expected) in [
            ("a=b", "a=b; Path=/w/s/x"),
            ("a=b; Path=/", "a=b; Path=/w/s"),
            (
                "a=b; path=/v1/z; Domain=example.com; Secure",
                "a=b; Secure; Path=/w/s/z",
            ),
            ("a=b; PATH=/other; HttpOnly", "a=b; HttpOnly; Path=/w/s"),
            (
                "a=b; Path=x; Path=/v1/y; DOMAIN = .example.com",
                "a=b; Path=/w/s/y",
            ),
            ("path=1; domain=2", "path=1; Path=/w/s/x"),
        ] {
            assert_eq!(
                confined_text(cookie, &scope).as_deref(),
                Some(expected),
                "{cookie}"
            );
        }
    }

    #[test]
    fn a_cookie_of_another_server_is_confined_to_its_host_or_marked() {
        for (cookie, by_host, by_name) in [
            ("a=b", "a=b", Some("a~s.w=b")),
            (
                "a=b~c=d; Path=/x; domain=localhost;DOMAIN",
                "a=b~c=d; Path=/x",
                Some("a~s.w=b~c=d; Path=/x"),
            ),
            (
                "__Host-a =b;Secure",
                "__Host-a =b;Secure",
                Some("__Host-a~s.w=b;Secure"),
            ),
            ("domain=1; Domain=2", "domain=1", Some("domain~s.w=1")),
            ("=b", "=b", None),
            ("b", "b", None),
        ] {
            assert_eq!(
                confined_text(cookie, &CookieScope::Host).as_deref(),
                Some(by_host)
            );
            assert_eq!(
                confined_text(cookie, &CookieScope::Name).as_deref(),
                by_name,
                "{cookie}"
            );
        }
    }

    fn sent(fields: &[&[u8]]) -> Option<Vec<u8>> {
        sent_with(fields, &[])
    }

    fn sent_with(fields: &[&[u8]], own_cookies: &[&str]) -> Option<Vec<u8>> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(header::COOKIE, HeaderValue::from_bytes(field).unwrap());
        }
        let own_cookies = own_cookies.iter().copied().collect();
        filter(&mut headers, OWN, &own_cookies);
        let mut left = headers.get_all(header::COOKIE).iter();
        let only = left.next().map(|field| field.as_bytes().to_vec());
        assert!(left.next().is_none());
        only
    }

    #[test]
    fn the_cookies_of_a_request_are_joined_into_one_field() {
        for (fields, joined) in [
            (&[][..], None),
            (&[&b"a=1;b=2 ; "[..]], Some(&b"a=1;b=2 ; "[..])),
            (&[b"a=1", b"b=2; c=3", b"d=\xe9"], Some(b"a=1; b=2; c=3; d=\xe9")),
            (&[b"a~s.w=1;b=2", b"a~t.w=4;a~b=3"], Some(b"a=1; b=2; a~b=3")),
            (&[b"a~t.w=4"], None),
        ] {
            assert_eq!(sent(fields).as_deref(), joined);
        }
    }

    #[test]
    fn a_cookie_of_the_injector_is_removed_in_every_spelling() {
        for field in [
            "session=1",
            " session = 1 ",
            "session",
            "session=",
            "session=\"1\"",
            "SESSION=1; Session=2;session=3",
            "s%65ssion=1",
            "session[a]=1",
            "=session=1",
            "session~s.w=1",
            "session~t.w=1",
            "a=1 session=2",
            "a=1, session =2",
            "a=\"1\"session=2",
            "=;session=1;;",
        ] {
            let left = sent_with(&[field.as_bytes()], &["session"]);
            let left = left.map(|left| String::from_utf8(left).unwrap());
            assert!(matches!(left.as_deref(), None | Some("=")), "{field}: {left:?}");
        }
    }

    #[test]
    fn a_cookie_of_the_injector_is_removed_behind_and_before_white_space_that_some_server_strips() {
        for white in [
            &b"\xa0"[..],
            b"\x85",
            b"\t\xa0 ",
            "\u{85}".as_bytes(),
            "\u{a0}".as_bytes(),
            "\u{180e}".as_bytes(),
            "\u{2003}\u{2028}".as_bytes(),
            "\u{200b}".as_bytes(),
            "\u{3000}".as_bytes(),
            "\u{feff}".as_bytes(),
            b"%0B",
            b"%1c%1D",
            b"%A0",
            b"%C2%A0",
            b"%EF%BB%BF",
        ] {
            for field in [
                [white, b"session=1"].concat(),
                [b"session", white, b"=1"].concat(),
                [white, b"SESSION", white, b" = 1"].concat(),
                [b"=", white, b"session=1"].concat(),
                [b"a=1 ", white, b"session=2"].concat(),
                [white, b"session~s.w=1"].concat(),
            ] {
                assert_eq!(
                    sent_with(&[&field], &["session"]),
                    None,
                    "{}",
                    field.escape_ascii()
                );
            }
        }
    }

    #[test]
    fn the_work_for_cookies_grows_with_their_length_only() {
        let own_cookies = ["session", "my_id"];
        for again in [
            "=", "a=", " =", "a =", ",", ";", ";=", ";a~s.w=", "%3D", "\"", "\u{a0}", "\u{a0}=", "[", "[=",
            "session ", "session", "~", "~s.w",
        ] {
            let cookies = |length| repeated("~", again, length);
            assert_linear(again, cookies, |field| sent_with(&[field], &own_cookies));
            assert_linear(again, cookies, |field| sent(&[field]));
            assert_linear(again, cookies, |field| {
                let cookie = [b"a~s.w; ", field].concat();
                let is_own = OwnCookies::from_iter(own_cookies).are_named_by(field);
                (is_own, confine(&cookie, OWN, &CookieScope::Name))
            });
        }
    }

    #[test]
    fn other_cookies_of_the_program_stay_beside_those_of_the_injector() {
        for (fields, left) in [
            (&["a=1; session=2; b=3"][..], Some("a=1; b=3")),
            (&["a=1", "session=2", "b=3; session=4"], Some("a=1; b=3")),
            (&["a=\"1; session=2; 3\""], Some("a=\"1; 3\"")),
            (
                &["sessions=1;xsession=2; session_=3; a=session"],
                Some("sessions=1; xsession=2; session_=3; a=session"),
            ),
            (&["my_id=1; my.id=2; my id=3; myid=4"], Some("myid=4")),
            (&["a~s.w=session~s.w"], Some("a=session~s.w")),
            (
                &["a\u{a0}b=1; \u{e9}session=2; session\u{e9}=3; a=\u{a0}session"],
                Some("a\u{a0}b=1; \u{e9}session=2; session\u{e9}=3; a=\u{a0}session"),
            ),
        ] {
            let fields: Vec<_> = fields.iter().map(|field| field.as_bytes()).collect();
            let sent = sent_with(&fields, &["session", "my_id"]);
            assert_eq!(sent.as_deref(), left.map(str::as_bytes));
        }
    }

    #[test]
    fn a_server_gets_its_own_cookies_and_unmarked_ones() {
        for (cookie, own) in [
            ("a=1", Some("a=1")),
            ("a~s.w=1~t.w", Some("a=1~t.w")),
            ("a~t.w=1", None),
            ("a~s.v=1", None),
            ("a~t.w~s.w=1", Some("a~t.w=1")),
            ("a~s.w~t.w=1", None),
            ("a~b=1", Some("a~b=1")),
            ("a~b.=1", Some("a~b.=1")),
            ("a~B.w=1", Some("a~B.w=1")),
            ("~s.w", Some("")),
        ] {
            let sent = unmarked(cookie.as_bytes(), OWN).map(|own| String::from_utf8(own).unwrap());
            assert_eq!(sent.as_deref(), own, "{cookie}");
        }
    }
}
