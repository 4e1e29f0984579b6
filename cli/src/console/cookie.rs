//! The session cookie.

use http::{HeaderMap, HeaderValue, header};

use super::app::Site;

/// Returns the values of all cookies that have the name of the session cookie. A page on another port of the host may have
/// set one of this name with a longer path, and browsers send that one first.
pub(super) fn cookies<'h>(site: &Site, headers: &'h HeaderMap) -> Vec<&'h str> {
    let name = site.cookie_name();
    let lines = headers.get_all(header::COOKIE).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(given, _)| *given == name)
        .map(|(_, value)| value)
        .collect()
}

/// Returns the header that sets the session cookie.
pub(super) fn session_cookie(site: &Site, value: &str) -> HeaderMap {
    set_cookie(site, value, "")
}

/// Returns the header that removes the session cookie.
pub(super) fn removed_cookie(site: &Site) -> HeaderMap {
    set_cookie(site, "", "; Max-Age=0")
}

fn set_cookie(site: &Site, value: &str, more: &str) -> HeaderMap {
    let name = site.cookie_name();
    let secure = if site.is_secure() { "; Secure" } else { "" };
    let cookie = format!("{name}={value}; HttpOnly; SameSite=Strict; Path=/{secure}{more}");
    let cookie = HeaderValue::from_str(&cookie).map(|mut cookie| {
        cookie.set_sensitive(true);
        (header::SET_COOKIE, cookie)
    });
    cookie.into_iter().collect()
}
