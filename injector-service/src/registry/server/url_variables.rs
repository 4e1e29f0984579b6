//! `${NAME}` in the path and the query of an upstream's URL.
//!
//! A dollar sign that no brace follows is text, because paths such as `/$metadata` exist.

use std::{borrow::Cow, fmt::Write as _};

use percent_encoding::percent_decode_str;
use proto::{SecretName, secret_name::SecretNameError};

use crate::template::{MAX_TEMPLATE_SECRETS, Part, Template, TemplateError};

/// The characters that a path may have (RFC 3986, section 3.3), besides letters, digits and `%` with two hexadecimal digits.
const PATH: &str = "-._~!$&'()*+,;=:@/";
/// The characters that a query may have: those of section 3.4, and the brackets that many servers expect in names.
const QUERY: &str = "-._~!$&'()*+,;=:@/?[]";

/// The reason why the secrets in the path or the query of a URL are not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    #[error("a `${{` in it has no `}}`; write ${{NAME}} for the value of a secret")]
    Unclosed,
    #[error("it names a secret that cannot exist: {0}")]
    SecretName(#[from] SecretNameError),
    #[error("its path names more than {MAX_TEMPLATE_SECRETS} secrets")]
    TooManySecrets,
    #[error("its path has a secret, so other characters than those of a URL must be percent-encoded in it")]
    PathCharacter,
    #[error("other characters than those of a URL must be percent-encoded in its query")]
    QueryCharacter,
    #[error("a secret in its query must be in the value of a parameter, as in ?key=${{NAME}}")]
    NotInValue,
    /// Some servers read `;` as the end of a parameter.
    #[error("a `;` beside a secret in its query must be written as %3B")]
    Semicolon,
    #[error("a value in its query {0}")]
    Value(#[from] TemplateError),
}

/// Returns the parts of the path `written`, which is `normalized` when the path has no secret.
pub(super) fn path_parts(written: &str, normalized: &str) -> Result<Vec<Part>, VariableError> {
    let parts = split(written)?;
    let names = parts.iter().filter(|part| matches!(part, Part::Secret(_)));
    match names.count() {
        0 => return Ok(vec![Part::Text(normalized.to_owned())]),
        1..=MAX_TEMPLATE_SECRETS => {}
        _ => return Err(VariableError::TooManySecrets),
    }
    let is_legal = |part: &Part| match part {
        Part::Text(text) => is_made_of(text, PATH),
        Part::Secret(_) => true,
    };
    parts
        .iter()
        .all(is_legal)
        .then_some(parts)
        .ok_or(VariableError::PathCharacter)
}

/// Returns the secrets in `parts`, each once.
pub(super) fn secrets(parts: &[Part]) -> Vec<&SecretName> {
    let mut secrets = Vec::new();
    for part in parts {
        match part {
            Part::Secret(name) if !secrets.contains(&name) => secrets.push(name),
            Part::Secret(_) | Part::Text(_) => {}
        }
    }
    secrets
}

/// Returns `parts` as text, with `${NAME}` for each secret.
pub(super) fn text_of(parts: &[Part]) -> String {
    parts.iter().fold(String::new(), |mut text, part| {
        match part {
            Part::Text(constant) => text.push_str(constant),
            Part::Secret(name) => {
                let _ = write!(text, "${{{name}}}");
            }
        }
        text
    })
}

/// The parameters in the query of a URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UrlQuery {
    fixed: String,
    injections: Vec<(String, Template)>,
}

impl UrlQuery {
    pub(super) fn parse(query: &str) -> Result<Self, VariableError> {
        let (mut fixed, mut injections) = (Vec::new(), Vec::new());
        for parameter in query.split('&') {
            if parameter.contains("${") {
                injections.push(parse_injection(parameter)?);
            } else {
                fixed.push(parameter);
            }
        }
        let fixed = fixed.join("&");
        if !is_made_of(&fixed, QUERY) {
            return Err(VariableError::QueryCharacter);
        }
        Ok(Self { fixed, injections })
    }

    /// Returns the parameters without secrets, as they were written.
    pub(super) fn fixed(&self) -> &str {
        &self.fixed
    }

    /// Returns the parameters with secrets, decoded.
    pub(super) fn injections(&self) -> &[(String, Template)] {
        &self.injections
    }
}

fn parse_injection(parameter: &str) -> Result<(String, Template), VariableError> {
    let (name, value) = parameter.split_once('=').ok_or(VariableError::NotInValue)?;
    if name.is_empty() || name.contains("${") {
        return Err(VariableError::NotInValue);
    }
    if parameter.contains(';') {
        return Err(VariableError::Semicolon);
    }
    let mut template = String::new();
    for part in split(value)? {
        match part {
            Part::Text(text) => template.push_str(&decoded(&text)?.replace('$', "$$")),
            Part::Secret(name) => {
                let _ = write!(template, "${{{name}}}");
            }
        }
    }
    Ok((decoded(name)?.into_owned(), Template::parse(&template)?))
}

/// Decodes a name or a value as forms are decoded, with `+` as a space.
fn decoded(text: &str) -> Result<Cow<'_, str>, VariableError> {
    if !is_made_of(text, QUERY) {
        return Err(VariableError::QueryCharacter);
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    let decoded = decoded.map_err(|_| VariableError::Value(TemplateError::NotPrintableAscii))?;
    Ok(Cow::Owned(decoded.into_owned()))
}

/// Splits text at its secrets. No part is empty.
fn split(text: &str) -> Result<Vec<Part>, VariableError> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or(VariableError::Unclosed)?;
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        parts.push(Part::Secret(SecretName::parse(name)?));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

/// Returns true when `text` consists of letters, digits, `punctuation`, and `%` with two hexadecimal digits.
fn is_made_of(text: &str, punctuation: &str) -> bool {
    let mut rest = text;
    while let Some((plain, code)) = rest.split_once('%') {
        let code = code.split_at_checked(2);
        let Some((_, after)) = code.filter(|(code, _)| code.bytes().all(|byte| byte.is_ascii_hexdigit()))
        else {
            return false;
        };
        if !is_plain(plain, punctuation) {
            return false;
        }
        rest = after;
    }
    is_plain(rest, punctuation)
}

fn is_plain(text: &str, punctuation: &str) -> bool {
    text.chars()
        .all(|char| char.is_ascii_alphanumeric() || punctuation.contains(char))
}

#[cfg(test)]
mod tests {
    use super::{super::upstream_url::UrlError, *};
    use crate::registry::server::UpstreamUrl;

    fn parse(path_and_query: &str) -> Result<UpstreamUrl, UrlError> {
        UpstreamUrl::parse(&format!("https://api.example.com{path_and_query}"))
    }

    fn error(path_and_query: &str) -> VariableError {
        match parse(path_and_query) {
            Err(UrlError::Variable(error)) => error,
            other => panic!("{path_and_query}: {other:?}"),
        }
    }

    #[test]
    fn a_path_may_name_secrets() {
        for (path, secrets, parsed) in [
            ("/bot${TOKEN}", &["TOKEN"][..], "/bot${TOKEN}"),
            ("/${my-token}/x/", &["MY_TOKEN"], "/${MY_TOKEN}/x"),
            ("/${A}${B}/${A}", &["A", "B"], "/${A}${B}/${A}"),
            ("/$metadata", &[], "/$metadata"),
            ("/a$/$$/b", &[], "/a$/$$/b"),
            ("/$%7BA%7D", &[], "/$%7BA%7D"),
            ("/{A}", &[], "/%7BA%7D"),
        ] {
            let url = parse(path).unwrap();
            assert_eq!(url.path(), parsed);
            assert_eq!(url.as_str(), format!("https://api.example.com{path}"));
            let names: Vec<_> = url.path_secrets().into_iter().map(SecretName::as_str).collect();
            assert_eq!(names, secrets, "{path}");
            assert_eq!(url.has_variables(), !secrets.is_empty(), "{path}");
        }
    }

    #[test]
    fn a_query_has_fixed_parameters_and_parameters_with_secrets() {
        for (query, fixed, injections) in [
            ("?v=1", "v=1", &[][..]),
            ("?a=%20+b&&c[d]=;e", "a=%20+b&&c[d]=;e", &[]),
            ("?price=$5&$top=1", "price=$5&$top=1", &[]),
            ("?key=${KEY}", "", &[("key", "${KEY}")]),
            ("?v=1&key=${key}&w", "v=1&w", &[("key", "${KEY}")]),
            (
                "?a%5Bb%5D=Bearer+%22${A}%22$=${B}",
                "",
                &[("a[b]", "Bearer \"${A}\"$$=${B}")],
            ),
            ("?a=${A}&b=${A}", "", &[("a", "${A}"), ("b", "${A}")]),
        ] {
            for path in ["", "/", "/x"] {
                let url = parse(&format!("{path}{query}")).unwrap();
                assert_eq!(url.path(), path.trim_end_matches('/'));
                assert_eq!(url.fixed_query(), fixed, "{query}");
                let found: Vec<_> = url
                    .query_injections()
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.to_string()))
                    .collect();
                let found: Vec<_> = found
                    .iter()
                    .map(|(name, value)| (*name, value.as_str()))
                    .collect();
                assert_eq!(found, injections, "{query}");
                assert_eq!(url.has_variables(), !injections.is_empty());
            }
        }
    }

    #[test]
    fn secrets_that_are_not_written_rightly_are_refused() {
        for (text, expected) in [
            ("/${A", VariableError::Unclosed),
            ("/x?a=${A", VariableError::Unclosed),
            ("/\u{e4}/${A}", VariableError::PathCharacter),
            ("/a b/${A}", VariableError::PathCharacter),
            ("/%zz/${A}", VariableError::PathCharacter),
            ("/${A}%2", VariableError::PathCharacter),
            ("/${A}}", VariableError::PathCharacter),
            ("/x?a=\u{e4}", VariableError::QueryCharacter),
            ("/x?a=b c", VariableError::QueryCharacter),
            ("/x?a=%2", VariableError::QueryCharacter),
            ("/x?a=<${A}>", VariableError::QueryCharacter),
            ("/x?${A}", VariableError::NotInValue),
            ("/x?${A}=b", VariableError::NotInValue),
            ("/x?=${A}", VariableError::NotInValue),
            ("/x?a=${A};b=c", VariableError::Semicolon),
            ("/x?a;b=${A}", VariableError::Semicolon),
            (
                "/x?a=%0A${A}",
                VariableError::Value(TemplateError::NotPrintableAscii),
            ),
            (
                "/x?a=%ff${A}",
                VariableError::Value(TemplateError::NotPrintableAscii),
            ),
        ] {
            assert_eq!(error(text), expected, "{text}");
        }
        assert!(matches!(error("/${}"), VariableError::SecretName(_)));
        assert!(matches!(error("/x?a=${ö}"), VariableError::SecretName(_)));
        let many = "${A}".repeat(MAX_TEMPLATE_SECRETS);
        assert!(parse(&format!("/{many}?a={many}")).is_ok());
        assert_eq!(error(&format!("/{many}${{A}}")), VariableError::TooManySecrets);
        assert_eq!(
            error(&format!("/?a={many}${{A}}")),
            VariableError::Value(TemplateError::TooManySecrets)
        );
    }

    #[test]
    fn the_path_of_a_url_is_found_in_paths_whose_values_are_masked() {
        for (url, path, rest) in [
            ("", "/a", Some("/a")),
            ("/v1/", "/v1", Some("")),
            ("/v1", "/v1/a", Some("/a")),
            ("/v1", "/v1a", None),
            ("/bot${T}/", "/bot***/send", Some("/send")),
            ("/bot${T}", "/bot*", Some("")),
            ("/bot${T}", "/bot/send", None),
            ("/bot${T}", "/bot***x/send", None),
            ("/bot${T}", "/bot${T}/send", None),
            ("/${A}${B}/x/${C}-y", "/****/x/*-y/z", Some("/z")),
            ("/${A}*/x", "/***/x/z", Some("/z")),
            ("/${A}/x", "/***/y", None),
        ] {
            assert_eq!(parse(url).unwrap().strip_path(path), rest, "{url} {path}");
        }
    }
}
