//! The checks on every request, and the headers of every answer.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    extract::{FromRequest, FromRequestParts, Request, State},
    middleware::Next,
    response::Response,
};
use chassis::caller::Peer;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use proto::Principal;
use tokio::time;

use super::{
    app::{SharedApp, SignInMethod, Site},
    cookie::{cookies, session_cookie},
    fields::{Fields, discard, read_form},
    guard_refusal::GuardRefusal,
    sign_in::Session,
    view::message_page,
};

/// Longest time that a request may take. A page may wait for several answers of a service.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);
/// Longest time in which the rest of a refused request is read. The client need not be one that may use the console.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
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

/// The outermost layer: checks the request, bounds its time, and adds the headers to every answer.
pub(super) async fn guard(State(app): State<SharedApp>, mut request: Request, next: Next) -> Response {
    let limit = time_limit(request.uri().path());
    let mut log_line = LogLine::of(&request);
    let answer = match check(&app, &mut request) {
        Ok(cookie) => {
            // The picture of a server is asked for while somebody types, and changes nothing.
            log_line.is_written &=
                !request.method().is_safe() && !request.uri().path().ends_with("/add-server/picture");
            let mut answer = match time::timeout(limit, next.run(request)).await {
                Ok(answer) => answer,
                Err(_) => GuardRefusal::TimedOut.page(),
            };
            answer.headers_mut().extend(cookie);
            answer
        }
        Err(refused) => {
            // A browser shows the answer to a form only when it could send the form to its end.
            drop(time::timeout(DISCARD_TIMEOUT, discard(request.into_body())).await);
            refused.page()
        }
    };
    log_line.status = Some(answer.status());
    with_headers(answer)
}

/// The line of the log about a request of a user with a certificate: every change, and every request that the guard refused. The
/// services know only the identity of the console. The line is written when the request ends, in whatever way: a client that closes
/// its connection ends the handler, and the change may have been made.
struct LogLine {
    request: Option<(Principal, Method, String)>,
    is_written: bool,
    /// The status of the answer, if there was one.
    status: Option<StatusCode>,
}

impl LogLine {
    fn of(request: &Request) -> Self {
        let peer = request.extensions().get::<Arc<Peer>>();
        let user = peer.and_then(|peer| peer.principal_at(SystemTime::now()));
        // The path names what is changed. A form is not logged, because it may hold a value.
        let path = request.uri().path().to_owned();
        Self {
            request: user.map(|user| (user.clone(), request.method().clone(), path)),
            is_written: true,
            status: None,
        }
    }
}

impl Drop for LogLine {
    fn drop(&mut self) {
        let Some((user, method, path)) = self.request.as_ref().filter(|_| self.is_written) else {
            return;
        };
        let status = self.status.map(|status| status.as_u16());
        let ended = status
            .is_none()
            .then_some("the client closed the connection before the answer");
        if method.is_safe() {
            tracing::info!(%user, %method, path, status, ended, "request refused");
        } else {
            tracing::info!(%user, %method, path, status, ended, "change requested");
        }
    }
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

/// Checks where the request comes from, and adds the session to a request for anything that is not public. Returns the cookie of a
/// session that began with this request.
fn check(app: &SharedApp, request: &mut Request) -> Result<HeaderMap, GuardRefusal> {
    let host = own_host(&app.site, request).ok_or(GuardRefusal::ForeignHost)?;
    let is_public = is_public(request.uri().path());
    let may_be_linked_to = request.method() == Method::GET && request.uri().path() == "/sign-in";
    if !is_own_origin(&app.site, request.headers(), host)
        || !(may_be_linked_to || is_own_fetch(request.headers()))
    {
        return Err(GuardRefusal::ForeignOrigin);
    }
    let mut cookie = HeaderMap::new();
    let session = match &app.sign_in_method {
        _ if is_public => None,
        SignInMethod::Link => {
            Some(session_of(app, request.headers(), None).ok_or(GuardRefusal::NotSignedIn)?)
        }
        SignInMethod::Certificate {
            users,
            allows_calls: _,
        } => {
            let user = user_of(request.extensions().get(), users, SystemTime::now())?;
            Some(match session_of(app, request.headers(), Some(&user)) {
                Some(session) => session,
                None if may_begin_session(request) => {
                    let begun = app.sign_ins.begin_for(&user);
                    let session = begun.map_err(|_| GuardRefusal::NoRandomness)?;
                    cookie = session_cookie(&app.site, session.id.reveal());
                    session
                }
                None => return Err(GuardRefusal::SessionEnded),
            })
        }
    };
    if let Some(session) = session {
        request.extensions_mut().insert(session);
    }
    Ok(cookie)
}

/// Returns true for a page that a person opens. A file or an event stream of a page begins no session: its answer would replace the
/// cookie of the session that the page began. Programs that are no browsers do not send the header.
fn may_begin_session(request: &Request) -> bool {
    let mut modes = request.headers().get_all("sec-fetch-mode").iter();
    request.method() == Method::GET && modes.all(|mode| mode.as_bytes() == b"navigate")
}

/// Returns the user whom the certificate of the connection names, if the user may use the console at `now`. A connection may
/// outlive the certificate.
fn user_of(
    peer: Option<&Arc<Peer>>,
    users: &[Principal],
    now: SystemTime,
) -> Result<Principal, GuardRefusal> {
    let user = peer
        .and_then(|peer| peer.principal_at(now))
        .ok_or(GuardRefusal::NoUser)?;
    if users.contains(user) {
        Ok(user.clone())
    } else {
        Err(GuardRefusal::NotAllowed(user.clone()))
    }
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
fn is_own_origin(site: &Site, headers: &HeaderMap, host: &str) -> bool {
    let own = site.origin(host);
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

/// Returns the session of a request. The session of one user is not that of another, even with its cookie.
fn session_of(app: &SharedApp, headers: &HeaderMap, user: Option<&Principal>) -> Option<Arc<Session>> {
    let cookies = cookies(&app.site, headers);
    let mut sessions = cookies
        .into_iter()
        .filter_map(|cookie| app.sign_ins.session(cookie));
    sessions.find(|session| session.user() == user)
}

/// A page that a signed-in browser asked for.
pub(super) struct PageRequest {
    pub(super) app: SharedApp,
    pub(super) session: Arc<Session>,
    /// The path that was asked for.
    pub(super) path: String,
    /// True for a request that changes nothing, and that the page may repeat.
    pub(super) is_read: bool,
    /// True when the navigation offers the keys and backups.
    pub(super) offers_administration: bool,
}

impl PageRequest {
    /// Returns true for the token of a form that this person got. Two tabs that a user with a certificate opens at once begin two
    /// sessions, and the browser keeps the cookie of one: so the token of another session of the same user is right, too.
    pub(super) fn has_token(&self, token: &str) -> bool {
        self.session.csrf.is(token) || self.app.sign_ins.is_token_of_user(&self.session, token)
    }
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
            path: parts.uri.path().to_owned(),
            is_read: parts.method.is_safe(),
            offers_administration: app.services.may_administer_vault().await,
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
                "It is too long or arrived too slowly, or the connection was interrupted. Nothing was changed. The value of a secret \
                 has at most 64 KiB.",
            )
        })?;
        let fields = Fields::parse(&form);
        if !visit.has_token(fields.text("csrf")) {
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
pub(super) mod tests;
