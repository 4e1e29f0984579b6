//! Paging of lists: a bounded size, and a token that belongs to the request it was given for.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Entries on a page when the request does not say.
pub const DEFAULT_SIZE: usize = 50;
/// The most entries on a page.
pub const MAX_SIZE: usize = 1000;

/// Which part of a list is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// How many entries at the most, at least 1.
    pub size: usize,
    /// The key after which the page begins; none for the first.
    pub after: Option<String>,
    scope: u64,
}

/// The token was not made for this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("page_token is not one that this list gave for the same request; begin again without it")]
pub struct PageTokenError;

impl Page {
    /// Reads `page_size` (0 means 50; more than 1,000 means 1,000) and `page_token`. `scope` is what else the request
    /// says: who asks, and for what.
    pub fn parse(size: u32, token: &str, scope: impl Hash) -> Result<Self, PageTokenError> {
        let size = match usize::try_from(size).unwrap_or(MAX_SIZE) {
            0 => DEFAULT_SIZE,
            size => size.min(MAX_SIZE),
        };
        let scope = digest(scope);
        if token.is_empty() {
            return Ok(Self {
                size,
                after: None,
                scope,
            });
        }
        let (seal, after) = token.split_once('.').ok_or(PageTokenError)?;
        let after = decode(after).ok_or(PageTokenError)?;
        if seal != format!("{:016x}", digest((scope, &after))) {
            return Err(PageTokenError);
        }
        Ok(Self {
            size,
            after: Some(after),
            scope,
        })
    }

    /// The token of the page that follows an entry with the key `last`.
    pub fn token(&self, last: &str) -> String {
        format!("{:016x}.{}", digest((self.scope, last)), encode(last))
    }
}

// Not a secret and not a signature: a token says no more than the list does, and a forged one begins a page elsewhere
// in the caller's own list. It only tells a client that it mixed two lists up.
fn digest(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(hex: &str) -> Option<String> {
    if hex.len() > 1024 || !hex.is_ascii() {
        return None;
    }
    let bytes: Option<Vec<u8>> = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    String::from_utf8(bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bounded() {
        for (asked, given) in [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (u32::MAX, 1000)] {
            assert_eq!(Page::parse(asked, "", "x").unwrap().size, given);
        }
    }

    #[test]
    fn a_token_continues_its_own_list_only() {
        let token = Page::parse(10, "", ("alice", "w")).unwrap().token("GITHUB_TOKEN");
        let next = Page::parse(20, &token, ("alice", "w")).unwrap();
        assert_eq!(next.after.as_deref(), Some("GITHUB_TOKEN"));
        assert_eq!(Page::parse(10, &token, ("alice", "v")), Err(PageTokenError));
        assert_eq!(Page::parse(10, &token, ("bob", "w")), Err(PageTokenError));
        for bad in ["x", ".", "0.zz", &token[1..], &format!("{token}ff")] {
            assert_eq!(Page::parse(10, bad, ("alice", "w")), Err(PageTokenError), "{bad}");
        }
    }
}
