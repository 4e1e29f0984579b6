//! Warnings about places that a put or restored value does not fit.

use proto::{Warning, WarningKind, vault::v1::ValueFacts};

/// Returns the warnings about the value of secret `name`. Most servers take secrets in headers, which have the narrowest rules,
/// so a value that does not fit a header is worth a warning also when it fits other places.
pub(super) fn value_warnings(name: &str, facts: &ValueFacts) -> Vec<Warning> {
    let Some(fault) = facts.header_fault() else {
        return Vec::new();
    };
    let fitting = fitting_places(facts);
    let effect = if fitting.is_empty() {
        "so it fits no place of a request; if it is text, it must be put as `text`, because `data` is base64 in JSON".to_owned()
    } else {
        format!(
            "so it fits no header and no bearer token; it fits {}, and calls with it in another place are refused",
            fitting.join(", ")
        )
    };
    vec![Warning {
        kind: WarningKind::ValueUnfit.into(),
        secret: name.to_owned(),
        message: format!("the value of {name} {fault}, {effect}"),
    }]
}

/// Returns the places other than headers where the value is legal.
fn fitting_places(facts: &ValueFacts) -> Vec<&'static str> {
    let places = [
        (facts.cookie_fault(), "cookies"),
        (facts.basic_password_fault(), "Basic passwords"),
        (facts.query_fault(), "queries"),
        (facts.path_fault(), "paths"),
        (facts.text_fault(), "forms, JSON and gRPC messages"),
    ];
    let fitting = places.into_iter().filter(|(fault, _)| fault.is_none());
    fitting.map(|(_, place)| place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_value_that_does_not_fit_a_header_has_a_warning() {
        let warned = |value: &[u8]| {
            let mut warnings = value_warnings("KEY", &ValueFacts::of(value)).into_iter();
            warnings.next().map(|warning| warning.message).unwrap_or_default()
        };
        assert_eq!(warned(b"ghp_abc"), "");
        for (value, warning) in [
            (
                "ghp_abc\n".as_bytes(),
                "ends with a line break, so it fits no header and no bearer token; it fits forms, JSON and gRPC messages,",
            ),
            (
                "pässword".as_bytes(),
                "it fits Basic passwords, queries, paths, forms, JSON and gRPC messages, and calls",
            ),
            (b"\x86\xda", "is not UTF-8, so it fits no place"),
        ] {
            assert!(warned(value).contains(warning), "{}", warned(value));
        }
    }
}
