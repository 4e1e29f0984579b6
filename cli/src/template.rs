//! Templates of values, such as `Token token=${SENTRY_TOKEN}`, and the secrets that they name.

use proto::{
    SecretName,
    injector::v1::{
        BasicPlacement, CookiePlacement, FormPlacement, HeaderPlacement, Injection, JsonPlacement,
        PathPlacement, ProtobufPlacement, QueryPlacement, injection::Placement,
    },
};

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    /// The normalized name of a secret.
    Secret(String),
}

/// Returns the pieces of a template. The injector checks templates; a part that names no secret is text here.
pub(crate) fn pieces(template: &str) -> Vec<Piece> {
    let (mut pieces, mut text) = (Vec::new(), String::new());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        let variable = after.strip_prefix('{').and_then(|after| after.split_once('}'));
        let named = variable.and_then(|(name, after)| Some((SecretName::parse(name).ok()?, after)));
        match (after.strip_prefix('$'), named) {
            (Some(after), _) => {
                text.push('$');
                rest = after;
            }
            (None, Some((name, after))) => {
                push_text(&mut pieces, &mut text);
                pieces.push(Piece::Secret(name.to_string()));
                rest = after;
            }
            (None, None) => {
                text.push('$');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    push_text(&mut pieces, &mut text);
    pieces
}

fn push_text(pieces: &mut Vec<Piece>, text: &mut String) {
    if !text.is_empty() {
        pieces.push(Piece::Text(std::mem::take(text)));
    }
}

/// Returns the names of the secrets in a template, each once.
fn secrets(template: &str) -> Vec<String> {
    let mut names = Vec::new();
    for piece in pieces(template) {
        if let Piece::Secret(name) = piece
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

/// Returns the names of the secrets of an injection, each once.
pub(crate) fn secrets_of(injection: &Injection) -> Vec<String> {
    match &injection.placement {
        None => Vec::new(),
        Some(
            Placement::Header(HeaderPlacement { name: _, value })
            | Placement::Query(QueryPlacement { name: _, value })
            | Placement::Cookie(CookiePlacement { name: _, value })
            | Placement::Json(JsonPlacement { pointer: _, value })
            | Placement::Form(FormPlacement { field: _, value })
            | Placement::Protobuf(ProtobufPlacement {
                field: _,
                key: _,
                value,
            }),
        ) => secrets(value),
        Some(Placement::Basic(BasicPlacement { username, password })) => {
            // A colon is in no name, so the two templates do not become one.
            secrets(&format!("{username}:{password}"))
        }
        Some(Placement::Path(PathPlacement { variable })) => secrets(&format!("${{{variable}}}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_text_with_secrets_in_it() {
        let (text, secret) = (
            |text: &str| Piece::Text(text.to_owned()),
            |name: &str| Piece::Secret(name.to_owned()),
        );
        for (template, expected) in [
            (
                "Token token=${sentry-token}",
                vec![text("Token token="), secret("SENTRY_TOKEN")],
            ),
            ("${A}:${B}", vec![secret("A"), text(":"), secret("B")]),
            ("$$5 ${A}", vec![text("$5 "), secret("A")]),
            ("costs $5 and ${", vec![text("costs $5 and ${")]),
            ("", vec![]),
        ] {
            assert_eq!(pieces(template), expected, "{template}");
        }
        assert_eq!(secrets("${a}${B}${A}"), ["A", "B"]);
    }

    #[test]
    fn the_secrets_of_a_place_are_those_of_its_templates() {
        let of = |placement| {
            secrets_of(&Injection {
                required: true,
                placement: Some(placement),
            })
        };
        let basic = |username: &str, password: &str| {
            Placement::Basic(BasicPlacement {
                username: username.to_owned(),
                password: password.to_owned(),
            })
        };
        let path = |variable: &str| {
            Placement::Path(PathPlacement {
                variable: variable.to_owned(),
            })
        };
        assert_eq!(of(basic("$${A}", "${B}")), ["B"]);
        assert_eq!(of(basic("${A}/token", "${a}")), ["A"]);
        assert_eq!(of(path("P")), ["P"]);
    }
}
