//! Stand-ins: what libraries see of a value on its way upstream.
//!
//! hyper and h2 write a request's head into buffers that they keep, and reuse without wiping, for as long as a connection
//! lives. So they are given a stand-in, and [`SubstitutingStream`], between them and the socket (or TLS), puts the value in its
//! place: into a buffer of our own, which is wiped as soon as it is written.
//!
//! [`SubstitutingStream`] replaces a stand-in in one place alone: in the head of a request, as the whole value of the field that
//! the stand-in was made for. Targets, other fields, bodies and trailers stay as they are. No other head has that field
//! with that value: `inject` removes the fields that a program sends under the names of fields with values, and a
//! stand-in is good for one head only. Nobody can guess a stand-in before that head is written:
//!
//! ```text
//! stand-in   secret filler, all of them symbols whose code in HPACK (RFC 7541, appendix B) has five or six bits
//! secret     26 symbols out of 32: 130 random bits, which are up to 20 bytes in HPACK
//! filler     as many as make the HPACK form as long as the value's own
//! ```
//!
//! HTTP/1.1 gets the value instead of the stand-in. HTTP/2 gets the value's HPACK code, which is as long as the
//! stand-in's code, so no length of a string or a frame has to change.

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
use http::{HeaderName, HeaderValue};
use tokio::{runtime::Handle, time::sleep};
use zeroize::Zeroizing;

pub(crate) use stream::{HttpVersion, SubstitutingStream};

/// The symbols of a secret: those whose HPACK code has five bits, and then some with six bits.
const SYMBOLS: &[u8; 32] = b"012aceiost3456789bdfghlmnpruA-._";
/// The symbol of a filler; its code has five bits.
const FILLER: u8 = SYMBOLS[0];
const FILLER_BITS: usize = 5;
/// The number of symbols of a secret, of five random bits each.
const SECRET: usize = 26;
/// The most bytes that a secret may take in HPACK.
const LONGEST_SECRET: usize = (SECRET * 6).div_ceil(8);
/// How long a value is kept whose call was given up before its head was written. It may be in a queue of h2 then, which
/// writes it all the same before it resets the stream; and nobody is to get what only stands for a credential.
const QUEUED: Duration = Duration::from_millis(500);

/// The first bytes of a stand-in, as text or in HPACK, by which the stand-in is found.
type Beginning = [u8; 16];

/// Which versions of HTTP a request may go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PossibleVersions {
    /// HTTP/1.1 alone, in which a value may have another length than its stand-in.
    Http1Only,
    /// HTTP/2, or whichever it turns out to be.
    Any,
}

/// The values that are on their way to one upstream. Clones share them.
#[derive(Clone, Default)]
pub struct PlaceholderTable {
    hidden: Arc<Mutex<HashMap<Beginning, Arc<Hidden>>>>,
}

/// A value and its stand-in, in both forms that they have on the wire.
struct Hidden {
    name: HeaderName,
    text: Form,
    /// `None` when the request may go over HTTP/1.1 alone.
    code: Option<Form>,
    placed: AtomicBool,
}

struct Form {
    stand_in: Vec<u8>,
    value: Zeroizing<Vec<u8>>,
}

/// Keeps a value until it was written; then wipes it. Given up before that, it is wiped soon after.
pub struct PlaceholderGuard {
    placeholders: PlaceholderTable,
    hidden: Arc<Hidden>,
}

/// A stand-in in a head, and the value that replaces it.
struct Found {
    range: Range<usize>,
    hidden: Arc<Hidden>,
}

impl PlaceholderTable {
    /// Returns a stand-in for the value of the field `name`, and a [`PlaceholderGuard`] to keep until the head was written.
    /// Returns None when no stand-in can have the value's length: then the value itself has to be sent.
    pub fn cover(
        &self,
        name: &HeaderName,
        value: &[u8],
        over: PossibleVersions,
    ) -> Option<(HeaderValue, PlaceholderGuard)> {
        let code = match over {
            PossibleVersions::Http1Only => None,
            PossibleVersions::Any => {
                Some(huffman::encode(value).filter(|code| code.len() >= LONGEST_SECRET)?)
            }
        };
        let text = stand_in(code.as_ref().map(|code| code.len()))?;
        let code = match code {
            None => None,
            Some(code) => Some(Form {
                stand_in: huffman::encode(&text)?.to_vec(),
                value: code,
            }),
        };
        let mut covered = HeaderValue::from_maybe_shared(Bytes::from(text.clone())).ok()?;
        // HPACK never indexes a sensitive value.
        covered.set_sensitive(true);
        let hidden = Arc::new(Hidden {
            name: name.clone(),
            text: Form {
                stand_in: text,
                value: Zeroizing::new(value.to_vec()),
            },
            code,
            placed: AtomicBool::new(false),
        });
        let mut waiting = self.lock();
        for beginning in hidden.beginnings() {
            waiting.insert(beginning, hidden.clone());
        }
        drop(waiting);
        let placeholders = self.clone();
        Some((covered, PlaceholderGuard { placeholders, hidden }))
    }

    /// Returns the value that `stand_in` stands for, if `is` confirms the place, and forgets `stand_in`, which is good
    /// for one head only.
    fn take(&self, stand_in: &[u8], is: impl Fn(&Hidden) -> bool) -> Option<Arc<Hidden>> {
        let beginning = stand_in.first_chunk()?;
        let mut waiting = self.lock();
        let hidden = waiting.get(beginning).filter(|hidden| is(hidden))?.clone();
        hidden.remove_from(&mut waiting);
        hidden.placed.store(true, Ordering::Release);
        Some(hidden)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Beginning, Arc<Hidden>>> {
        self.hidden.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hidden {
    fn beginnings(&self) -> impl Iterator<Item = Beginning> {
        let forms = [Some(&self.text), self.code.as_ref()];
        forms
            .into_iter()
            .flatten()
            .filter_map(|form| form.stand_in.first_chunk().copied())
    }

    fn remove_from(&self, waiting: &mut HashMap<Beginning, Arc<Self>>) {
        for beginning in self.beginnings() {
            waiting.remove(&beginning);
        }
    }

    /// Returns true when this HTTP/1.1 field is the one that the stand-in was made for.
    fn is_text(&self, name: &[u8], value: &[u8]) -> bool {
        self.name.as_str().as_bytes() == name && self.text.stand_in == value
    }

    /// Returns true when this HTTP/2 field is the one that the stand-in was made for.
    fn is_code(&self, name: &hpack::Name<'_>, value: &[u8]) -> bool {
        self.code.as_ref().is_some_and(|code| code.stand_in == value) && name.is(&self.name)
    }
}

impl PlaceholderGuard {
    /// Whether the value was put in the place of its stand-in.
    pub fn was_placed(&self) -> bool {
        self.hidden.placed.load(Ordering::Acquire)
    }
}

impl Drop for PlaceholderGuard {
    fn drop(&mut self) {
        if self.was_placed() {
            return;
        }
        let (placeholders, hidden) = (self.placeholders.clone(), self.hidden.clone());
        match Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    sleep(QUEUED).await;
                    hidden.remove_from(&mut placeholders.lock());
                });
            }
            Err(_) => hidden.remove_from(&mut placeholders.lock()),
        }
    }
}

/// Makes a stand-in, whose HPACK code has `length` bytes if that is given. Returns None without system randomness.
fn stand_in(length: Option<usize>) -> Option<Vec<u8>> {
    let mut text = [0; SECRET];
    getrandom::fill(&mut text).ok()?;
    for symbol in &mut text {
        *symbol = *SYMBOLS.get(usize::from(*symbol) % SYMBOLS.len())?;
    }
    let mut text = text.to_vec();
    if let Some(length) = length {
        // The filler leaves less than a symbol of the last byte free, which the code pads.
        let room = (length * 8).checked_sub(huffman::bits(&text)?)?;
        text.resize(SECRET + room / FILLER_BITS, FILLER);
    }
    Some(text)
}

#[cfg(test)]
mod head_tests;
#[cfg(test)]
mod tests;
