//! JSON Pointers (RFC 6901): the places of secrets in JSON bodies.

pub(crate) mod fold;

use std::{fmt, sync::Arc};

use fold::FoldedName;

/// The most bytes of a pointer.
const MAX_POINTER: usize = 512;
/// The most names in a pointer.
const MAX_POINTER_NAMES: usize = 16;

/// The names of members that lead from the object of a body to one member: `/params/_meta/token`. The injector puts
/// secrets into members of objects only, so a number is the name of a member too, and never an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPointer {
    text: String,
    names: Vec<Arc<MemberName>>,
}

/// The name of a member, decoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MemberName {
    pub(crate) text: String,
    pub(crate) folded: FoldedName,
    /// The part of the pointer that ends with this name.
    pub(crate) pointer: String,
}

/// The reason why a text is not a pointer. The message completes the sentence "the pointer …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonPointerError {
    #[error("is empty; it begins with / and names a member, such as /params/_meta/token")]
    Empty,
    #[error("does not begin with /")]
    NoSlash,
    #[error("has more than {MAX_POINTER} bytes")]
    TooLong,
    #[error("names more than {MAX_POINTER_NAMES} members")]
    TooManyNames,
    #[error("has a ~ that is neither ~0 (for ~) nor ~1 (for /)")]
    Tilde,
    #[error("has a control character")]
    ControlCharacter,
}

impl JsonPointer {
    pub fn parse(text: &str) -> Result<Self, JsonPointerError> {
        if text.is_empty() {
            return Err(JsonPointerError::Empty);
        }
        if text.len() > MAX_POINTER {
            return Err(JsonPointerError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(JsonPointerError::ControlCharacter);
        }
        let tokens = text.strip_prefix('/').ok_or(JsonPointerError::NoSlash)?;
        let names = tokens.split('/').scan(0, |end, token| {
            *end += 1 + token.len();
            Some(MemberName::parse(token, text.get(..*end)?).map(Arc::new))
        });
        let names: Vec<_> = names.collect::<Result<_, _>>()?;
        if names.len() > MAX_POINTER_NAMES {
            return Err(JsonPointerError::TooManyNames);
        }
        Ok(Self {
            text: text.to_owned(),
            names,
        })
    }

    /// Returns true when one body cannot have a value at both pointers: they are equal, one leads into the other, or they
    /// spell a name that they share in two ways. Names are compared without regard to case.
    pub fn conflicts(&self, other: &Self) -> bool {
        let pairs = self.names.iter().zip(&other.names);
        let shared: Vec<_> = pairs.take_while(|(one, two)| one.folded == two.folded).collect();
        shared.len() == self.names.len().min(other.names.len())
            || shared.iter().any(|(one, two)| one.text != two.text)
    }

    /// Returns the pointer to the member `name` of the member `object`.
    pub(crate) fn to_member(object: &str, name: &str) -> Self {
        let (outer, both) = (spelled(object), spelled(object) + &spelled(name));
        Self {
            names: vec![
                Arc::new(MemberName::new(object.to_owned(), &outer)),
                Arc::new(MemberName::new(name.to_owned(), &both)),
            ],
            text: both,
        }
    }

    /// Returns the names of the members, decoded, the outermost first. There is at least one.
    pub(crate) fn tokens(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.names.iter().map(|name| name.text.as_str())
    }

    pub(crate) fn names(&self) -> &[Arc<MemberName>] {
        &self.names
    }
}

impl MemberName {
    fn parse(token: &str, pointer: &str) -> Result<Self, JsonPointerError> {
        let mut escapes = token.split('~').skip(1);
        if !escapes.all(|after| after.starts_with(['0', '1'])) {
            return Err(JsonPointerError::Tilde);
        }
        // In this order (RFC 6901, section 4), because `~01` stands for `~1`.
        Ok(Self::new(token.replace("~1", "/").replace("~0", "~"), pointer))
    }

    fn new(text: String, pointer: &str) -> Self {
        Self {
            folded: FoldedName::new(&text),
            text,
            pointer: pointer.to_owned(),
        }
    }
}

fn spelled(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// Writes the pointer as it was given.
impl fmt::Display for JsonPointer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let pointer = JsonPointer::parse(text).unwrap();
        assert_eq!(pointer.to_string(), text);
        let last = pointer.names.last().unwrap();
        assert_eq!(last.pointer, text);
        pointer.names.iter().map(|name| name.text.clone()).collect()
    }

    #[test]
    fn a_pointer_is_a_list_of_names() {
        assert_eq!(names("/a"), ["a"]);
        assert_eq!(names("/params/_meta/token"), ["params", "_meta", "token"]);
        assert_eq!(names("/a~1b/c~0d/~01/~10"), ["a/b", "c~d", "~1", "/0"]);
        assert_eq!(names("/0/-/ x/\u{e9}"), ["0", "-", " x", "\u{e9}"]);
        assert_eq!(names("/"), [""]);
        assert_eq!(names("/a/"), ["a", ""]);
    }

    #[test]
    fn a_pointer_can_be_made_of_names() {
        for (object, name, text) in [
            ("secrets", "TOKEN", "/secrets/TOKEN"),
            ("a~/", "/~1", "/a~0~1/~1~01"),
        ] {
            let pointer = JsonPointer::to_member(object, name);
            assert_eq!(JsonPointer::parse(text).unwrap(), pointer);
            assert_eq!(pointer.tokens().collect::<Vec<_>>(), [object, name]);
        }
    }

    #[test]
    fn a_text_that_is_no_pointer_is_refused() {
        for (text, error) in [
            ("", JsonPointerError::Empty),
            ("a/b", JsonPointerError::NoSlash),
            ("#/a", JsonPointerError::NoSlash),
            ("/a~", JsonPointerError::Tilde),
            ("/a~2", JsonPointerError::Tilde),
            ("/~/a", JsonPointerError::Tilde),
            ("/a\nb", JsonPointerError::ControlCharacter),
        ] {
            assert_eq!(JsonPointer::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_pointer_has_limits() {
        let most = format!("/{}", "x".repeat(MAX_POINTER - 1));
        assert!(JsonPointer::parse(&most).is_ok());
        assert_eq!(
            JsonPointer::parse(&format!("{most}x")),
            Err(JsonPointerError::TooLong)
        );
        assert!(JsonPointer::parse(&"/a".repeat(MAX_POINTER_NAMES)).is_ok());
        assert_eq!(
            JsonPointer::parse(&"/a".repeat(MAX_POINTER_NAMES + 1)),
            Err(JsonPointerError::TooManyNames)
        );
    }

    #[test]
    fn pointers_to_one_place_conflict() {
        let conflict = |one: &str, two: &str| {
            let (one, two) = (JsonPointer::parse(one).unwrap(), JsonPointer::parse(two).unwrap());
            assert_eq!(one.conflicts(&two), two.conflicts(&one));
            one.conflicts(&two)
        };
        for (one, two) in [
            ("/a", "/a"),
            ("/a", "/A"),
            ("/a", "/a/b"),
            ("/a/b/c", "/A/B"),
            ("/token", "/to\u{212a}en"),
            ("/params/a", "/Params/b"),
        ] {
            assert!(conflict(one, two), "{one} {two}");
        }
        for (one, two) in [
            ("/a", "/b"),
            ("/a/b", "/a/c"),
            ("/a/b", "/b/a"),
            ("/a", "/ab"),
            ("/x/a", "/x/b/a"),
        ] {
            assert!(!conflict(one, two), "{one} {two}");
        }
    }
}
