//! Stand-ins: what libraries see of a value on its way upstream.
//!
//! hyper and h2 write a request's head into buffers that they keep, and reuse without wiping, for as long as a connection
//! lives. So they are given a stand-in, and [`Unveiling`], between them and the socket (or TLS), puts the value in its
//! place: into a buffer of our own, which is wiped as soon as it is written.
//!
//! ```text
//! stand-in   MARK key filler, all of them symbols whose code in HPACK (RFC 7541, appendix B) has five bits
//! MARK       8 symbols, which are 5 bytes in HPACK
//! key        16 random symbols, which are 10 bytes: 53 bits, good for as long as one call waits for its head
//! filler     as many as make the HPACK form as long as the value's own
//! ```
//!
//! In HTTP/1.1 the stand-in is found as it is. In HTTP/2 every string is Huffman-coded on its own, from a byte's
//! boundary on, so its code is found, and replaced by the value's, which is just as long: no length has to change.

mod huffman;
mod unveiling;

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::HeaderValue;
use tokio::{runtime::Handle, time::sleep};
use zeroize::Zeroizing;

pub(crate) use unveiling::{Unveiling, Wire};

/// The symbols whose code has five bits: 0 to 9, in this order.
const SYMBOLS: &[u8; 10] = b"012aceiost";
/// What every stand-in begins with.
const MARK: &[u8; 8] = b"sto0eca1";
/// Symbols of a key.
const KEY: usize = 16;
/// Bytes of mark and key in HPACK.
const SHORTEST_CODE: usize = 15;
/// How long a value is kept whose call was given up before its head was written. It may be in a queue of h2 then, which
/// writes it all the same before it resets the stream; and nobody is to get what only stands for a credential.
const QUEUED: Duration = Duration::from_millis(500);

/// A key, as a number: sixteen digits.
type Key = u64;

/// Which versions of HTTP a request may go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// HTTP/1.1 alone, in which a value may have another length than its stand-in.
    Http1,
    /// HTTP/2, or whichever it turns out to be.
    Any,
}

/// The values that are on their way to one upstream. Clones share them.
#[derive(Clone, Default)]
pub struct Veil {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    hidden: Mutex<HashMap<Key, Arc<Hidden>>>,
    keys: Keys,
}

/// A value, in both forms that it has on the wire.
struct Hidden {
    plain: Zeroizing<Vec<u8>>,
    /// None when it may go over HTTP/1.1 alone.
    code: Option<Zeroizing<Vec<u8>>>,
    /// Symbols of its stand-in.
    symbols: usize,
    placed: AtomicBool,
}

/// Keeps a value until it was written; then wipes it. Given up before that, it is wiped soon after.
pub struct Cover {
    veil: Veil,
    key: Key,
    hidden: Arc<Hidden>,
}

impl Veil {
    /// A stand-in for a header's value, and what has to be kept until it was written. None when there is no stand-in of
    /// its length: then the value itself has to be sent.
    pub fn cover(&self, value: &[u8], over: Over) -> Option<(HeaderValue, Cover)> {
        let (symbols, code) = match over {
            Over::Http1 => (MARK.len() + KEY, None),
            Over::Any => {
                let code = huffman::encode(value)?;
                if code.len() < SHORTEST_CODE {
                    return None;
                }
                (code.len() * 8 / 5, Some(code))
            }
        };
        let key = self.shared.keys.next();
        let hidden = Arc::new(Hidden {
            plain: Zeroizing::new(value.to_vec()),
            code,
            symbols,
            placed: AtomicBool::new(false),
        });
        let mut stand_in = HeaderValue::from_maybe_shared(Bytes::from(text(key, symbols))).ok()?;
        // So that HPACK never indexes it.
        stand_in.set_sensitive(true);
        self.lock().insert(key, hidden.clone());
        let veil = self.clone();
        Some((stand_in, Cover { veil, key, hidden }))
    }

    fn find(&self, key: Key) -> Option<Arc<Hidden>> {
        self.lock().get(&key).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Hidden>>> {
        self.shared.hidden.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cover {
    /// Whether the value was put in the place of its stand-in.
    pub fn was_placed(&self) -> bool {
        self.hidden.placed.load(Ordering::Acquire)
    }
}

impl Drop for Cover {
    fn drop(&mut self) {
        let (veil, key) = (self.veil.clone(), self.key);
        match (self.was_placed(), Handle::try_current()) {
            (false, Ok(runtime)) => {
                runtime.spawn(async move {
                    sleep(QUEUED).await;
                    veil.lock().remove(&key);
                });
            }
            (true, _) | (false, Err(_)) => {
                veil.lock().remove(&key);
            }
        }
    }
}

/// Makes keys that nobody can foresee, without asking the system for each: a count, hashed under a random key
/// (SipHash, a pseudorandom function).
#[derive(Default)]
struct Keys {
    random: RandomState,
    count: AtomicU64,
}

impl Keys {
    fn next(&self) -> Key {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        self.random.hash_one(count) % 10_u64.pow(16)
    }
}

fn text(key: Key, symbols: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(symbols);
    text.extend_from_slice(MARK);
    text.resize(symbols, SYMBOLS[0]);
    let mut rest = key;
    for place in text.iter_mut().skip(MARK.len()).take(KEY).rev() {
        if let Some(symbol) = usize::try_from(rest % 10)
            .ok()
            .and_then(|digit| SYMBOLS.get(digit))
        {
            *place = *symbol;
        }
        rest /= 10;
    }
    text
}

/// The key that these symbols are: each a number from 0 to 9.
fn key_of(symbols: impl Iterator<Item = Option<u8>>) -> Option<Key> {
    let mut key = 0;
    for symbol in symbols.take(KEY) {
        key = key * 10 + u64::from(symbol.filter(|symbol| *symbol < 10)?);
    }
    Some(key)
}

#[cfg(test)]
mod tests;
