//! Pages for requests that no other page answers.

use axum::response::Response;
use http::StatusCode;

use crate::console::view::message_page;

pub(in crate::console) async fn not_found() -> Response {
    message_page(
        StatusCode::NOT_FOUND,
        "There is no such page",
        "The address may have a mistake, or the page belongs to another release of `aerostack`.",
    )
}

pub(in crate::console) async fn method_not_allowed() -> Response {
    message_page(
        StatusCode::METHOD_NOT_ALLOWED,
        "This page cannot be used in this way",
        "Changes are made with the forms of the console.",
    )
}
