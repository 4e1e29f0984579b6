//! The requests that the guard refuses, and the pages that say why.

use axum::response::Response;
use http::StatusCode;
use proto::Principal;

use super::view::{HOW_TO_GET_A_LINK, message_page};

/// A request that no handler sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum GuardRefusal {
    ForeignHost,
    ForeignOrigin,
    NotSignedIn,
    /// The session of a user with a certificate has ended, and the request is not one that begins a new session.
    SessionEnded,
    /// The certificate of the user has expired since the connection was opened, or names no principal.
    NoUser,
    NotAllowed(Principal),
    NoRandomness,
    TimedOut,
}

impl GuardRefusal {
    /// Returns the page that says why.
    pub(super) fn page(self) -> Response {
        match self {
            Self::ForeignHost => message_page(
                StatusCode::MISDIRECTED_REQUEST,
                "This is not the address of the console",
                "Open the console under the address that `aerostack console` or `aerostack dev` printed.",
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
                &format!(
                    "Open the link that `aerostack console` or `aerostack dev` printed. A link works once. {HOW_TO_GET_A_LINK}"
                ),
            ),
            Self::SessionEnded => message_page(
                StatusCode::UNAUTHORIZED,
                "Your session has ended",
                "Nothing was changed. Open the page again and repeat what you did.",
            ),
            Self::NoUser => message_page(
                StatusCode::FORBIDDEN,
                "Your certificate does not sign in",
                "It has expired, or it names nobody: the console needs a certificate with one URI `spiffe://…`, or without a URI \
                 one DNS name. Choose another certificate, and open the console in a new window.",
            ),
            Self::NotAllowed(user) => message_page(
                StatusCode::FORBIDDEN,
                "You may not use this console",
                &format!(
                    "Your certificate names `{user}`. Whoever runs the console can allow this user with `--allow-user {user}`."
                ),
            ),
            Self::NoRandomness => message_page(
                StatusCode::INTERNAL_SERVER_ERROR,
                "The system gives no random numbers",
                "No session can begin.",
            ),
            Self::TimedOut => message_page(
                StatusCode::GATEWAY_TIMEOUT,
                "This took too long",
                "The services did not answer in time, or a file did not arrive. Look at the page again to see whether the change was \
                 made.",
            ),
        }
    }
}
