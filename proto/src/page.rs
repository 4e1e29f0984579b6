//! Paging of lists: a bounded page size, and a token that is only valid for the request that it was made for.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Number of entries on a page when the request gives no size.
pub const DEFAULT_SIZE: usize = 50;
/// Maximum number of entries on a page.
pub const MAX_SIZE: usize = 1000;

/// The page of a list that a request wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Maximum number of entries, at least 1.
    pub size: usize,
    /// Key of the last entry before the page; `None` for the first page.
    pub after: Option<String>,
    scope: u64,
}

/// The token was not made for this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("page_token is not one that this list gave for the same request; begin again without it")]
pub struct PageTokenError;

impl Page {
    /// Reads `page_size` (0 means 50; more than 1,000 means 1,000) and `page_token`. `scope` identifies the list: the caller
    /// and the other fields of the request.
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
        let (checksum, after) = token.split_once('.').ok_or(PageTokenError)?;
        let after = decode(after).ok_or(PageTokenError)?;
        if checksum != format!("{:016x}", digest((scope, &after))) {
            return Err(PageTokenError);
        }
        Ok(Self {
            size,
            after: Some(after),
            scope,
        })
    }

    /// Returns the token of the page after the entry with the key `last`.
    pub fn token(&self, last: &str) -> String {
        format!("{:016x}.{}", digest((self.scope, last)), encode(last))
    }
}

// A checksum, not a signature: a token contains nothing that the list does not show, and a forged token only starts a
// page elsewhere in the caller's own list. The checksum tells a client that it mixed up two lists.
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
