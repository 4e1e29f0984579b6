//! `/sign-in` and `/sign-out`

use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, Method, StatusCode};

use crate::console::{
    app::{SharedApp, SignInMethod},
    cookie::{cookies, removed_cookie, session_cookie},
    guard::{Change, QueryFields, is_direct},
    sign_in::SignIn,
    view::{HOW_TO_GET_A_LINK, message_page, signed_in_page},
};

/// Makes the token of a link a session. Only a browser that shows the page to a person uses the link up: a HEAD request and a
/// page that is loaded in advance do not.
pub(in crate::console) async fn sign_in(
    State(app): State<SharedApp>,
    method: Method,
    QueryFields(query): QueryFields,
    headers: HeaderMap,
) -> Response {
    if method != Method::GET || headers.contains_key("sec-purpose") {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if let SignInMethod::Certificate { .. } = app.sign_in_method {
        // A console for users with certificates has no links. Its first page signs in.
        return signed_in_page().into_response();
    }
    let cookies = cookies(&app.site, &headers);
    match app
        .sign_ins
        .sign_in(query.text("token"), &cookies, is_direct(&headers))
    {
        Ok(SignIn::New(session)) => {
            (session_cookie(&app.site, session.id.reveal()), signed_in_page()).into_response()
        }
        Ok(SignIn::Repeated) => signed_in_page().into_response(),
        Ok(SignIn::Unknown) => message_page(
            StatusCode::FORBIDDEN,
            "This link does not sign in",
            &format!("A link works once, and a newer link replaces it. {HOW_TO_GET_A_LINK}"),
        ),
        Ok(SignIn::UsedTwice) => message_page(
            StatusCode::FORBIDDEN,
            "Another browser used this link before",
            &format!(
                "The console has signed that browser out, because nobody but you should have the link. {HOW_TO_GET_A_LINK}"
            ),
        ),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

pub(in crate::console) async fn sign_out(Change { visit, fields: _ }: Change) -> Response {
    visit.app.sign_ins.sign_out(&visit.session);
    let next = match visit.app.sign_in_method {
        SignInMethod::Link => {
            "A new link signs in again: press Enter in the terminal where `aerostack console` or `aerostack dev` runs. If it runs in \
             the background, run `aerostack console --listen 127.0.0.1:0`."
        }
        SignInMethod::Certificate { .. } => {
            "Close the browser, so that it forgets the choice of your certificate: the certificate signs in again."
        }
    };
    let page = message_page(StatusCode::OK, "You are signed out", next);
    (removed_cookie(&visit.app.site), page).into_response()
}
