//! The style sheet, the scripts and the icon, which are part of the binary.

use axum::{
    extract::Path,
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, header};

use super::page::messages::not_found;

const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Name, media type and content of each file.
const ASSETS: [(&str, &str, &str); 13] = [
    ("activity.js", JAVASCRIPT, include_str!("assets/activity.js")),
    ("console.css", CSS, include_str!("assets/console.css")),
    ("console.js", JAVASCRIPT, include_str!("assets/console.js")),
    ("copy.js", JAVASCRIPT, include_str!("assets/copy.js")),
    ("filter.js", JAVASCRIPT, include_str!("assets/filter.js")),
    ("live.js", JAVASCRIPT, include_str!("assets/live.js")),
    ("morph.js", JAVASCRIPT, include_str!("assets/morph.js")),
    ("names.js", JAVASCRIPT, include_str!("assets/names.js")),
    (
        "secret_form.js",
        JAVASCRIPT,
        include_str!("assets/secret_form.js"),
    ),
    (
        "server_form.js",
        JAVASCRIPT,
        include_str!("assets/server_form.js"),
    ),
    ("silence.js", JAVASCRIPT, include_str!("assets/silence.js")),
    ("values.js", JAVASCRIPT, include_str!("assets/values.js")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

pub(super) async fn asset(Path(name): Path<String>) -> Response {
    match ASSETS.iter().find(|(known, _, _)| *known == name) {
        Some((_, media_type, content)) => {
            let media_type = HeaderValue::from_static(media_type);
            ([(header::CONTENT_TYPE, media_type)], *content).into_response()
        }
        None => not_found().await,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_styles_of_the_map_reach_nothing_but_the_map() {
        // Other pages use these classes for parts that are not drawn.
        for class in ["mark", "line", "frame"] {
            let rule = format!("\n.{class}");
            assert!(!include_str!("assets/console.css").contains(&rule), "{class}");
        }
    }
}
