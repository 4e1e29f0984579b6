//! JSON Pointers (RFC 6901): the places of secrets in JSON bodies.

use std::fmt;

/// The most bytes of a pointer.
const MAX_POINTER: usize = 1024;
/// The most names that lead to a place.
const MAX_TOKENS: usize = 16;

/// The names of members that lead from the object of a body to one member: `/params/_meta/token`. The injector puts
/// secrets into members of objects only, so a number is the name of a member too, and never an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPointer(Vec<String>);

/// The message completes the sentence "the pointer …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonPointerError {
    #[error("must begin with / and name a member, such as /params/_meta/token")]
    NoMember,
    #[error("has more than {MAX_POINTER} bytes")]
    TooLong,
    #[error("names more than {MAX_TOKENS} members")]
    TooDeep,
    #[error("has a ~ that begins neither ~0 (for ~) nor ~1 (for /)")]
    Tilde,
    #[error("has a control character")]
    ControlCharacter,
}

impl JsonPointer {
    pub fn parse(text: &str) -> Result<Self, JsonPointerError> {
        if text.len() > MAX_POINTER {
            return Err(JsonPointerError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(JsonPointerError::ControlCharacter);
        }
        let tokens = text.strip_prefix('/').ok_or(JsonPointerError::NoMember)?;
        let tokens: Vec<_> = tokens.split('/').map(unescape).collect::<Result<_, _>>()?;
        match tokens.len() {
            0..=MAX_TOKENS => Ok(Self(tokens)),
            _ => Err(JsonPointerError::TooDeep),
        }
    }

    /// Returns the pointer to the member `name` of the member `object`.
    pub(crate) fn to_member(object: &str, name: &str) -> Self {
        Self(vec![object.to_owned(), name.to_owned()])
    }

    /// Returns the names of the members, the outermost first. There is at least one.
    pub fn tokens(&self) -> &[String] {
        &self.0
    }
}

fn unescape(token: &str) -> Result<String, JsonPointerError> {
    let mut unescaped = String::with_capacity(token.len());
    let mut rest = token;
    while let Some((before, after)) = rest.split_once('~') {
        unescaped.push_str(before);
        let (character, after) = match (after.strip_prefix('0'), after.strip_prefix('1')) {
            (Some(after), _) => ('~', after),
            (None, Some(after)) => ('/', after),
            (None, None) => return Err(JsonPointerError::Tilde),
        };
        unescaped.push(character);
        rest = after;
    }
    unescaped.push_str(rest);
    Ok(unescaped)
}

/// Writes the pointer as [`JsonPointer::parse`] reads it.
impl fmt::Display for JsonPointer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|token| write!(formatter, "/{}", token.replace('~', "~0").replace('/', "~1")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_a_list_of_names() {
        for (text, tokens) in [
            ("/token", &["token"][..]),
            ("/params/_meta/token", &["params", "_meta", "token"]),
            ("/a~1b/m~0n/~01", &["a/b", "m~n", "~1"]),
            ("/", &[""]),
            ("/0/\u{e4} b", &["0", "\u{e4} b"]),
        ] {
            let pointer = JsonPointer::parse(text).unwrap();
            assert_eq!(pointer.tokens(), tokens);
            assert_eq!(pointer.to_string(), text);
        }
    }

    #[test]
    fn a_text_that_leads_to_no_member_is_refused() {
        let long = format!("/{}", "x".repeat(MAX_POINTER));
        let deep = "/x".repeat(MAX_TOKENS + 1);
        for (text, error) in [
            ("", JsonPointerError::NoMember),
            ("token", JsonPointerError::NoMember),
            ("#/token", JsonPointerError::NoMember),
            ("/a~", JsonPointerError::Tilde),
            ("/a~2", JsonPointerError::Tilde),
            ("/a\n", JsonPointerError::ControlCharacter),
            (&long, JsonPointerError::TooLong),
            (&deep, JsonPointerError::TooDeep),
        ] {
            assert_eq!(JsonPointer::parse(text), Err(error), "{text}");
        }
    }
}
