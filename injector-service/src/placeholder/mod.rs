//! Placeholders for secret values in the heads of requests to an upstream.
//!
//! hyper and h2 write a request's head into buffers that they keep and reuse, without wiping them, for as long as a
//! connection lives. Therefore hyper gets a placeholder instead of each value. [`SubstitutingStream`], between hyper
//! and the socket (or TLS), writes the value instead of its placeholder, from a buffer that is wiped after the write.
//!
//! [`SubstitutingStream`] replaces a placeholder in one position only: in the head of a request, as the whole value of
//! the field that the placeholder was made for, or as the whole target when the placeholder was made for a target.
//! Everything else passes unchanged: other fields, other targets, bodies and trailers. No program can make use of a
//! placeholder: `header_rules` removes the fields that a program sends under the names of fields with values, each
//! placeholder works in one head only, and nobody can guess a placeholder before that head is written:
//!
//! ```text
//! placeholder   random part, then padding; the HPACK code (RFC 7541, appendix B) of each symbol has five or six bits;
//!               the placeholder of a target begins with `/`
//! random part   26 symbols out of 32: 130 random bits, which take at most 20 bytes in HPACK
//! padding       as many symbols as make the placeholder's HPACK code as long as the value's
//! ```
//!
//! In HTTP/1.1 the value itself replaces the placeholder. In HTTP/2 the value's HPACK code replaces the placeholder's
//! code, which has the same length, so the lengths of strings and frames stay correct. h2 writes a target, the field
//! `:path`, as a field that an intermediary may index. The stream turns such a field into one that is never indexed. A target
//! that is too short for a placeholder stays as h2 writes it.

mod connection_use;
mod hpack;
mod http1;
mod http2;
mod huffman;
mod stream;

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, uri::PathAndQuery};
use tokio::{runtime::Handle, time::sleep};
use zeroize::Zeroizing;

pub(crate) use connection_use::ConnectionUse;
pub(crate) use stream::{HttpVersion, SubstitutingStream};

/// Symbols of the random part: all whose HPACK code has five bits, and some whose code has six bits.
const SYMBOLS: &[u8; 32] = b"012aceiost3456789bdfghlmnpruA-._";
const PADDING: u8 = SYMBOLS[0];
const PADDING_BITS: usize = 5;
/// Number of symbols in the random part, with five random bits each.
const RANDOM_SYMBOLS: usize = 26;
/// Time that a value stays in the table after its call was cancelled before the head was written. The head may be in a
/// queue of h2, which writes the head before it resets the stream, and the upstream must not get a placeholder.
const RETENTION: Duration = Duration::from_millis(500);

/// First bytes of a placeholder, as text or in HPACK. The table looks placeholders up by these bytes.
type LookupKey = [u8; 16];

/// Versions of HTTP that the connection for a request may turn out to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PossibleVersions {
    /// HTTP/1.1, where a placeholder may have another length than its value.
    Http1Only,
    Any,
}

/// The placeholders that requests on their way to one upstream contain. Clones share the table.
#[derive(Clone, Default)]
pub(crate) struct PlaceholderTable {
    substitutions: Arc<Mutex<HashMap<LookupKey, Arc<Substitution>>>>,
}

/// The part of a head that a placeholder was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum HeadPart {
    /// The path and query in the request line of HTTP/1.1, or in the field `:path` of HTTP/2.
    Target,
    /// The value of the field with this name.
    Field(HeaderName),
}

/// A placeholder for a value in `part`, in both encodings that a head can have.
struct Substitution {
    part: HeadPart,
    plain: Pair,
    /// HPACK's Huffman code. `None` when the request goes over HTTP/1.1 only.
    huffman: Option<Pair>,
    is_done: AtomicBool,
}

struct Pair {
    placeholder: Vec<u8>,
    value: Zeroizing<Vec<u8>>,
}

/// Keeps a placeholder and its value in the table. Dropping the guard wipes the value: at once when the value was
/// written, and after [`RETENTION`] when it was not.
pub(crate) struct PlaceholderGuard {
    table: PlaceholderTable,
    substitution: Arc<Substitution>,
}

struct Occurrence {
    range: Range<usize>,
    substitution: Arc<Substitution>,
}

impl HeadPart {
    /// Returns the fixed beginning of the part's placeholders.
    fn prefix(&self) -> &'static [u8] {
        match self {
            Self::Target => b"/",
            Self::Field(_) => b"",
        }
    }
}

impl PlaceholderTable {
    /// Makes a placeholder for the value of the field `name`. The caller keeps the guard until the head was written.
    /// Returns `None` when no placeholder can have the length of the value's HPACK code; the head then has to contain
    /// the value itself.
    pub(crate) fn insert(
        &self,
        name: &HeaderName,
        value: &[u8],
        versions: PossibleVersions,
    ) -> Option<(HeaderValue, PlaceholderGuard)> {
        let substitution = Substitution::new(HeadPart::Field(name.clone()), value, versions)?;
        let header_value = substitution.header_value()?;
        Some((header_value, self.insert_substitution(substitution)))
    }

    /// Makes a placeholder for the whole target of one request, which is its path and query. The caller keeps the guard
    /// until the head was written. Returns `None` when the head has to contain `target` itself: for HTTP/2 because
    /// `target` is too short, or so long that its placeholder would exceed 65,534 symbols; and when `target` has spaces
    /// or control characters.
    pub(crate) fn insert_target(
        &self,
        target: &[u8],
        versions: PossibleVersions,
    ) -> Option<(PathAndQuery, PlaceholderGuard)> {
        if target.iter().any(|byte| *byte == b' ' || byte.is_ascii_control()) {
            return None;
        }
        let substitution = Substitution::new(HeadPart::Target, target, versions)?;
        let placeholder = PathAndQuery::try_from(substitution.plain.placeholder.as_slice()).ok()?;
        Some((placeholder, self.insert_substitution(substitution)))
    }

    fn insert_substitution(&self, substitution: Substitution) -> PlaceholderGuard {
        let substitution = Arc::new(substitution);
        let mut substitutions = self.lock();
        for key in substitution.keys() {
            substitutions.insert(key, substitution.clone());
        }
        drop(substitutions);
        let table = self.clone();
        PlaceholderGuard { table, substitution }
    }

    /// Returns the substitution for `placeholder`, if `matches` accepts it, and removes it from the table.
    fn take(&self, placeholder: &[u8], matches: impl Fn(&Substitution) -> bool) -> Option<Arc<Substitution>> {
        let key = placeholder.first_chunk()?;
        let mut substitutions = self.lock();
        let substitution = substitutions.get(key).filter(|found| matches(found))?.clone();
        substitution.remove_from(&mut substitutions);
        substitution.is_done.store(true, Ordering::Release);
        Some(substitution)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LookupKey, Arc<Substitution>>> {
        self.substitutions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Substitution {
    fn new(part: HeadPart, value: &[u8], versions: PossibleVersions) -> Option<Self> {
        let code = match versions {
            PossibleVersions::Http1Only => None,
            PossibleVersions::Any => {
                let shortest = max_random_code(part.prefix())?;
                Some(huffman::encode(value).filter(|code| code.len() >= shortest)?)
            }
        };
        let placeholder = random_placeholder(part.prefix(), code.as_ref().map(|code| code.len()))?;
        let huffman = match code {
            None => None,
            Some(value) => Some(Pair {
                placeholder: huffman::encode(&placeholder)?.to_vec(),
                value,
            }),
        };
        Some(Self {
            part,
            plain: Pair {
                placeholder,
                value: Zeroizing::new(value.to_vec()),
            },
            huffman,
            is_done: AtomicBool::new(false),
        })
    }

    fn header_value(&self) -> Option<HeaderValue> {
        let text = Bytes::copy_from_slice(&self.plain.placeholder);
        let mut value = HeaderValue::from_maybe_shared(text).ok()?;
        // HPACK never indexes a sensitive value.
        value.set_sensitive(true);
        Some(value)
    }

    fn keys(&self) -> impl Iterator<Item = LookupKey> {
        let pairs = [Some(&self.plain), self.huffman.as_ref()];
        pairs
            .into_iter()
            .flatten()
            .filter_map(|pair| pair.placeholder.first_chunk().copied())
    }

    fn remove_from(&self, substitutions: &mut HashMap<LookupKey, Arc<Self>>) {
        for key in self.keys() {
            substitutions.remove(&key);
        }
    }

    /// Returns true when the request line of an HTTP/1.1 head has the placeholder as its target.
    fn matches_plain_target(&self, target: &[u8]) -> bool {
        self.part == HeadPart::Target && self.plain.placeholder == target
    }

    /// Returns true when this field of an HTTP/1.1 head has the placeholder as its whole value.
    fn matches_plain_field(&self, name: &[u8], value: &[u8]) -> bool {
        match &self.part {
            HeadPart::Target => false,
            HeadPart::Field(own) => own.as_str().as_bytes() == name && self.plain.placeholder == value,
        }
    }

    /// Returns true when this field of an HTTP/2 head has the placeholder's Huffman code as its whole value.
    fn matches_huffman(&self, field: &hpack::HuffmanField<'_>, code: &[u8]) -> bool {
        let pair = self.huffman.as_ref();
        pair.is_some_and(|pair| pair.placeholder == code)
            && match &self.part {
                HeadPart::Target => field.is_target(),
                HeadPart::Field(name) => field.is_sensitive(name),
            }
    }
}

impl PlaceholderGuard {
    pub(crate) fn is_substituted(&self) -> bool {
        self.substitution.is_done.load(Ordering::Acquire)
    }
}

impl Drop for PlaceholderGuard {
    fn drop(&mut self) {
        if self.is_substituted() {
            return;
        }
        let (table, substitution) = (self.table.clone(), self.substitution.clone());
        match Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    sleep(RETENTION).await;
                    substitution.remove_from(&mut table.lock());
                });
            }
            Err(_) => substitution.remove_from(&mut table.lock()),
        }
    }
}

/// Returns the most bytes that `prefix` and the random part can take in HPACK.
fn max_random_code(prefix: &[u8]) -> Option<usize> {
    Some((huffman::bits(prefix)? + RANDOM_SYMBOLS * 6).div_ceil(8))
}

/// Returns a new placeholder, whose HPACK code has `code_length` bytes if that is given. Returns `None` when the system
/// has no randomness.
fn random_placeholder(prefix: &[u8], code_length: Option<usize>) -> Option<Vec<u8>> {
    let mut random = [0; RANDOM_SYMBOLS];
    getrandom::fill(&mut random).ok()?;
    for symbol in &mut random {
        *symbol = *SYMBOLS.get(usize::from(*symbol) % SYMBOLS.len())?;
    }
    let mut text = [prefix, &random].concat();
    if let Some(length) = code_length {
        // The padding leaves fewer bits free than a symbol has. HPACK fills these bits up with ones.
        let room = (length * 8).checked_sub(huffman::bits(&text)?)?;
        text.resize(text.len() + room / PADDING_BITS, PADDING);
    }
    Some(text)
}

#[cfg(test)]
mod tests;
