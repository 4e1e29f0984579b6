//! Finds the values of secrets in the answers of upstreams, and masks them.
//!
//! An upstream may echo a request: debugging endpoints, error messages and tools that print their environment do. The
//! program that made the call must not learn a value in this way. [`Fingerprints`] recognize a value without containing
//! the value, and a [`Scanner`] replaces each occurrence in a stream of bytes by as many `*`. The code of this module
//! is pure: it never waits, dials or logs.
//!
//! # Forms of a value
//!
//! A value is recognized as it is, and in its usual encodings. `encoding` has those that write a fixed number of
//! characters for each byte or group of bytes: base64, hexadecimal digits, and percent-encoding of every byte. `styles` has
//! those that leave most characters as they are. Values of fewer than [`MIN_VALUE`] bytes are not looked for, because
//! ordinary text would contain them by chance.
//!
//! A stream is searched for all these forms. A field of a head is there as a whole: `decoded` decodes what may be a form,
//! and the decoded bytes are searched for the value itself.
//!
//! # Fingerprints
//!
//! A scanner samples the stream: it looks at the 8 bytes (a *window*) at each multiple of the stride, which is at most
//! 8. One of the first windows of every occurrence of a form is such a sample, because the shortest form is at least
//! `stride + 7` bytes long. The fingerprints contain:
//!
//! - for each form, for each of the windows at the offsets 0 to `stride - 1`, a tag of 16 bits, which is a part of the
//!   product of the window and a random number;
//! - for each form, its length, and a digest of 64 bits of its first `stride + 7` characters, which is a keyed folded
//!   multiplication;
//! - for each value, digests of its bytes (SipHash-1-3): of longer beginnings, and of the whole value. Forms with the same bytes share
//!   them, because a scanner decodes what it compares. A form of base64 has the bits of the value from the first bit of a
//!   whole character on, and thus digests of its own.
//!
//! A sample whose tag is known makes a *candidate*, about one sample of 800 in other text for one token. The digests
//! decide: the first one dismisses practically every candidate that is no beginning of a value, before its end was
//! received. The lengths of the longer beginnings grow by factors of eight. An upstream that sends only beginnings of
//! values therefore costs a bounded number of bytes to hash for each byte that it sends. A value that repeats itself, such
//! as many times the same letter, is the exception, because its beginnings overlap. `budget` limits the hashed bytes;
//! beyond the limit, every first digest that matches counts as a value, which masks too much and never too little.
//!
//! # Fingerprints are not a copy of the value
//!
//! The keys are random and new for each call, so the fingerprints of two calls have nothing in common. A digest of 64
//! bits fits many values of more than 64 bits. Whoever reads the memory of the process during the call can test guesses
//! of a value, and can compute the first `stride + 7` bytes of a value, because the tags and the first digests
//! depend on these bytes alone. A value of 16 bytes or fewer is thus disguised and not hidden; of a longer value,
//! the remaining bytes can only be guessed as a whole. No search can do without a test of short pieces. The
//! fingerprints cover the beginning because tokens begin with a known prefix. They are dropped at the end of the call.
//!
//! # Streams
//!
//! A scanner gives out a byte when no value can begin at this byte or before it any more. It holds back the last
//! 14 bytes at most, and everything from the beginning of a candidate whose first digest matched. Nothing is held when
//! the last byte is a control character and no value has one; the events of an SSE stream end with a line break. The
//! owner of the scanner may release the held bytes, so that an interactive stream does not wait for them
//! ([`Scanner::release_tail`], [`Scanner::release_all`]). The rest of a value whose beginning was released is masked.

mod budget;
mod decoded;
mod encoding;
mod fingerprints;
mod scanner;
mod shifted;
mod styles;
mod text;
mod window_table;

pub use fingerprints::{Fingerprints, SearchScope, SecretSet};
pub use scanner::{Scanned, Scanner};
pub use text::mask_text;

/// The fewest bytes of a value that is looked for. No form of a value is shorter than the value.
pub const MIN_VALUE: usize = 8;
/// The most values that one set of fingerprints tells apart.
pub const MAX_VALUES: usize = 64;

/// The bytes of one sample.
const WINDOW: usize = 8;
/// The most bytes between two samples.
const MAX_STRIDE: usize = 8;
/// The byte that replaces each byte of a value.
const MASK: u8 = b'*';

#[cfg(test)]
mod tests;
