//! Templates of injected values: text in which `${NAME}` stands for the value of a secret.

use std::fmt;

use proto::{SecretName, secret_name::SecretNameError};

/// The most bytes of a template.
pub(crate) const MAX_TEMPLATE: usize = 1024;
/// The most secrets that one template may name, counted as often as they are named.
pub(crate) const MAX_TEMPLATE_SECRETS: usize = 8;

/// Text with the places of secrets in it, such as `Sentry-Bearer ${SENTRY_TOKEN}`. `$$` stands for one dollar sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

/// A piece of a template. Two pieces of text never follow one another, and no text is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Text(String),
    Secret(SecretName),
}

/// The reason why a text is not a template. The message completes the sentence "the template …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("has more than {MAX_TEMPLATE} bytes")]
    TooLong,
    #[error("names more than {MAX_TEMPLATE_SECRETS} secrets")]
    TooManySecrets,
    #[error("has other characters than printable ASCII")]
    NotPrintableAscii,
    #[error(
        "has a $ that begins no ${{NAME}}; write ${{NAME}} for the value of a secret, and $$ for a dollar sign"
    )]
    Dollar,
    #[error("names a secret that cannot exist: {0}")]
    SecretName(#[from] SecretNameError),
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEMPLATE {
            return Err(TemplateError::TooLong);
        }
        if !text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
            return Err(TemplateError::NotPrintableAscii);
        }
        let mut parts = Parts::default();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            parts.push_text(before);
            rest = match after.strip_prefix('$') {
                Some(after) => {
                    parts.push_text("$");
                    after
                }
                None => {
                    let variable = after.strip_prefix('{').and_then(|after| after.split_once('}'));
                    let (name, after) = variable.ok_or(TemplateError::Dollar)?;
                    parts.push_secret(SecretName::parse(name)?)?;
                    after
                }
            };
        }
        parts.push_text(rest);
        Ok(Self(parts.parts))
    }

    /// Returns the template that consists of one secret.
    pub(crate) fn of(secret: SecretName) -> Self {
        Self(vec![Part::Secret(secret)])
    }

    /// Returns the template with a secret behind a text, which must not be empty.
    pub(crate) fn after(text: &str, secret: SecretName) -> Self {
        Self(vec![Part::Text(text.to_owned()), Part::Secret(secret)])
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.0
    }

    /// Returns the secrets that the template names, in order, as often as it names them.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        self.0.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Secret(name) => Some(name),
        })
    }

    /// Returns the texts around the secrets.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Secret(_) => None,
        })
    }
}

/// The parts of a template that is being parsed.
#[derive(Default)]
struct Parts {
    parts: Vec<Part>,
    secrets: usize,
}

impl Parts {
    fn push_text(&mut self, text: &str) {
        match self.parts.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Text(before)) => before.push_str(text),
            Some(Part::Secret(_)) | None => self.parts.push(Part::Text(text.to_owned())),
        }
    }

    fn push_secret(&mut self, name: SecretName) -> Result<(), TemplateError> {
        self.secrets += 1;
        if self.secrets > MAX_TEMPLATE_SECRETS {
            return Err(TemplateError::TooManySecrets);
        }
        self.parts.push(Part::Secret(name));
        Ok(())
    }
}

/// Writes the template as [`Template::parse`] reads it, with normalized names.
impl fmt::Display for Template {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => formatter.write_str(&text.replace('$', "$$")),
            Part::Secret(name) => write!(formatter, "${{{name}}}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    fn secret(name: &str) -> Part {
        Part::Secret(SecretName::parse(name).unwrap())
    }

    #[test]
    fn a_template_is_text_with_the_names_of_secrets() {
        for (template, parts) in [
            ("", vec![]),
            ("constant", vec![text("constant")]),
            ("${KEY}", vec![secret("KEY")]),
            (
                "Bearer ${my-token}!",
                vec![text("Bearer "), secret("MY_TOKEN"), text("!")],
            ),
            ("${A}${B}", vec![secret("A"), secret("B")]),
            ("$$", vec![text("$")]),
            ("a$$$${A}$$", vec![text("a$${A}$")]),
            ("$$${A}", vec![text("$"), secret("A")]),
            ("{A}", vec![text("{A}")]),
        ] {
            assert_eq!(Template::parse(template).unwrap().parts(), parts, "{template}");
        }
    }

    #[test]
    fn a_template_is_written_as_it_is_read() {
        for written in [
            "",
            "x",
            "${KEY}",
            "Token token=${T}",
            "$$",
            "a$$b${A}$${B}",
            "${A}${A}",
        ] {
            let template = Template::parse(written).unwrap();
            assert_eq!(template.to_string(), written);
        }
        assert_eq!(Template::parse("${my-key}").unwrap().to_string(), "${MY_KEY}");
    }

    #[test]
    fn a_dollar_sign_that_names_no_secret_is_refused() {
        for template in ["$", "a$", "$KEY", "${KEY", "$ {KEY}", "$$$", "${"] {
            assert_eq!(
                Template::parse(template),
                Err(TemplateError::Dollar),
                "{template}"
            );
        }
        assert!(matches!(
            Template::parse("${}"),
            Err(TemplateError::SecretName(_))
        ));
    }

    #[test]
    fn a_template_has_limits() {
        let most = "x".repeat(MAX_TEMPLATE);
        assert!(Template::parse(&most).is_ok());
        assert_eq!(Template::parse(&format!("{most}x")), Err(TemplateError::TooLong));
        let many = "${A}".repeat(MAX_TEMPLATE_SECRETS);
        assert!(Template::parse(&many).is_ok());
        assert_eq!(
            Template::parse(&format!("{many}${{B}}")),
            Err(TemplateError::TooManySecrets)
        );
        for text in ["a\nb", "\u{e4}", "\0"] {
            assert_eq!(Template::parse(text), Err(TemplateError::NotPrintableAscii));
        }
    }
}
