//! The checks on every request, and the headers of every answer.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{FromRequest, FromRequestParts, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use tokio::time;

use super::{
    app::{SharedApp, Site},
    fields::{Fields, read_form},
    sign_in::Session,
    view::message_page,
};

/// Longest time that a request may take. A page may wait for several answers of a service.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);
/// Longest time that the upload of a backup may take. The vault gives up sooner when no byte arrives for a minute.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(6 * 3600);

/// Headers of every answer. `same-origin` is the strictest referrer policy that lets browsers name the origin of a form: with
/// `no-referrer` they send `Origin: null` (Fetch, "append a request `Origin` header").
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
         frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// A request that no handler sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GuardRefusal {
    ForeignHost,
    ForeignOrigin,
    NotSignedIn,
    TimedOut,
}

/// The outermost layer: checks the request, bounds its time, and adds the headers to every answer.
pub(super) async fn guard(State(app): State<SharedApp>, request: Request, next: Next) -> Response {
    let limit = time_limit(request.uri().path());
    let answer = match check(&app, request) {
        Ok(request) => match time::timeout(limit, next.run(request)).await {
            Ok(answer) => answer,
            Err(_) => GuardRefusal::TimedOut.page(),
        },
        Err(refused) => refused.page(),
    };
    with_headers(answer)
}

fn time_limit(path: &str) -> Duration {
    match path {
        "/backup/restore" => UPLOAD_TIMEOUT,
        _ => REQUEST_TIMEOUT,
    }
}

fn with_headers(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// Checks where the request comes from, and adds the session to a request for anything that is not public.
fn check(app: &SharedApp, mut request: Request) -> Result<Request, GuardRefusal> {
    let host = own_host(&app.site, &request).ok_or(GuardRefusal::ForeignHost)?;
    let is_public = is_public(request.uri().path());
    let may_be_linked_to = request.method() == Method::GET && request.uri().path() == "/sign-in";
    if !is_own_origin(request.headers(), host) || !(may_be_linked_to || is_own_fetch(request.headers())) {
        return Err(GuardRefusal::ForeignOrigin);
    }
    match session_of(app, request.headers()) {
        Some(session) => drop(request.extensions_mut().insert(session)),
        None if is_public => {}
        None => return Err(GuardRefusal::NotSignedIn),
    }
    Ok(request)
}

fn is_public(path: &str) -> bool {
    path == "/sign-in" || path.starts_with("/assets/")
}

/// Returns the host that the request names, if it is the console's own.
fn own_host<'r>(site: &Site, request: &'r Request) -> Option<&'r str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return None;
    };
    let host = host.to_str().ok()?;
    // A target in absolute form takes precedence over the header (RFC 9112, section 3.2.2).
    let target = request
        .uri()
        .authority()
        .map_or(host, |authority| authority.as_str());
    (site.has_host(host) && site.has_host(target)).then_some(host)
}

/// Returns true without `Origin`, and when `Origin` names the console as the request does.
fn is_own_origin(headers: &HeaderMap, host: &str) -> bool {
    let own = format!("http://{host}");
    headers
        .get_all(header::ORIGIN)
        .iter()
        .all(|origin| origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()))
}

/// Returns true when the browser says that a page of the console, or the person, made the request. Programs that are no
/// browsers do not send the header.
fn is_own_fetch(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all("sec-fetch-site").iter();
    sites.all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"))
}

/// Returns true when the browser says that the person typed the address, or opened a bookmark or a link outside of the
/// browser, and for programs that do not send the header. Browsers send the `SameSite=Strict` cookie with such requests.
pub(super) fn is_direct(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all("sec-fetch-site").iter();
    sites.all(|site| site.as_bytes() == b"none")
}

fn session_of(app: &SharedApp, headers: &HeaderMap) -> Option<Arc<Session>> {
    let cookies = cookies(&app.site, headers);
    cookies
        .into_iter()
        .find_map(|cookie| app.sign_ins.session(cookie))
}

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

impl GuardRefusal {
    fn page(self) -> Response {
        match self {
            Self::ForeignHost => message_page(
                StatusCode::MISDIRECTED_REQUEST,
                "This is not the address of the console",
                "Open the console under the address that `aerostack console` printed.",
            ),
            Self::ForeignOrigin => message_page(
                StatusCode::FORBIDDEN,
                "Another site asked for this page",
                "The console answers only its own pages and its own address in the address bar. Type the address, or open a \
                 bookmark.",
            ),
            Self::NotSignedIn => message_page(
                StatusCode::UNAUTHORIZED,
                "Sign in first",
                "Open the link that `aerostack console` printed in its terminal. A link works once: press Enter in that \
                 terminal for a new one, or run `aerostack console` again.",
            ),
            Self::TimedOut => message_page(
                StatusCode::GATEWAY_TIMEOUT,
                "The services did not answer in time",
                "Look at the page again to see whether the change was made.",
            ),
        }
    }
}

/// A page that a signed-in browser asked for.
pub(super) struct PageRequest {
    pub(super) app: SharedApp,
    pub(super) session: Arc<Session>,
    /// True for a request that changes nothing, and that the page may repeat.
    pub(super) is_read: bool,
}

impl FromRequestParts<SharedApp> for PageRequest {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &SharedApp) -> Result<Self, Response> {
        // The guard has refused requests without a session.
        let session = parts.extensions.get::<Arc<Session>>().cloned();
        let session = session.ok_or_else(|| GuardRefusal::NotSignedIn.page())?;
        Ok(Self {
            app: app.clone(),
            session,
            is_read: parts.method.is_safe(),
        })
    }
}

/// The fields of a query.
pub(super) struct QueryFields(pub(super) Fields);

impl FromRequestParts<SharedApp> for QueryFields {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &SharedApp) -> Result<Self, Response> {
        Ok(Self(Fields::parse(
            parts.uri.query().unwrap_or_default().as_bytes(),
        )))
    }
}

/// A form of a signed-in browser that carries the session's CSRF token. Every handler that changes something takes one.
pub(super) struct Change {
    pub(super) visit: PageRequest,
    pub(super) fields: Fields,
}

impl FromRequest<SharedApp> for Change {
    type Rejection = Response;

    async fn from_request(request: Request, app: &SharedApp) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let visit = PageRequest::from_request_parts(&mut parts, app).await?;
        let is_form = parts
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|media| media.to_str().ok())
            .and_then(|media| media.split(';').next())
            .is_some_and(|media| media.eq_ignore_ascii_case("application/x-www-form-urlencoded"));
        if !is_form {
            return Err(message_page(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "This is not a form",
                "The console takes `application/x-www-form-urlencoded`.",
            ));
        }
        let form = read_form(body).await.map_err(|status| {
            message_page(
                status,
                "The form did not arrive",
                "It is too long, or the connection was interrupted. Nothing was changed. The value of a secret has at most \
                 64 KiB.",
            )
        })?;
        let fields = Fields::parse(&form);
        if !visit.session.csrf.is(fields.text("csrf")) {
            return Err(foreign_form());
        }
        Ok(Self { visit, fields })
    }
}

/// Answers a form without the token of the session.
pub(super) fn foreign_form() -> Response {
    message_page(
        StatusCode::FORBIDDEN,
        "This form belongs to another session",
        "Nothing was changed. Open the page again and repeat what you did.",
    )
}
