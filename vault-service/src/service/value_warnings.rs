//! Warnings about places that a put or restored value does not fit.

use proto::{Warning, WarningKind, vault::v1::ValueFacts};

/// Returns the warnings about the value of secret `name`. Headers are the only place with narrow rules, and most servers
/// take secrets there, so a value that does not fit a header is worth a warning also when it fits a body.
pub(super) fn value_warnings(name: &str, facts: &ValueFacts) -> Vec<Warning> {
    let Some(fault) = facts.header_fault() else {
        return Vec::new();
    };
    let effect = match facts.text_fault() {
        None => "so it fits a JSON or gRPC body (auth type skill), but no header and no bearer token",
        Some(_) => {
            "so it fits no header, no bearer token and no body; if it is text, it must be put as `text`, because `data` is \
             base64 in JSON"
        }
    };
    vec![Warning {
        kind: WarningKind::ValueUnfit.into(),
        secret: name.to_owned(),
        message: format!("the value of {name} {fault}, {effect}; calls with it in another place are refused"),
    }]
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
        assert!(warned(b"ghp_abc\n").contains("ends with a line break, so it fits a JSON"));
        assert!(warned(b"\x86\xda").contains("is not UTF-8, so it fits no header"));
    }
}
