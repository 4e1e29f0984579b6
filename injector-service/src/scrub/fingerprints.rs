use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    ops::Range,
    sync::Arc,
};

use proto::stack;
use siphasher::sip::SipHasher13;
use smallvec::SmallVec;

use super::{
    MAX_STRIDE, MAX_VALUES, MIN_VALUE, WINDOW,
    budget::DigestBudget,
    encoding::{self, Beginning, FirstBytes, ValueEncoding},
    shifted::ShiftedBits,
    styles::{EscapedTexts, is_plain},
    window_table::WindowTable,
};

/// The numbers of bytes of the beginnings that have digests of their own, besides the shortest one. They are whole groups
/// of base64.
const LONGER_BEGINNINGS: [usize; 3] = [126, 1023, 8190];
/// The forms of most values that consist of letters and digits, and of most other values.
const PLAIN_FORMS: usize = 8;
const ESCAPED_FORMS: usize = 48;
/// The most bytes between two samples of a head. Heads are short, so that fewer windows of each form cost less than more
/// samples of the head.
const MAX_HEAD_STRIDE: usize = 4;

/// Recognizes values without containing them. The module doc says what is kept.
pub struct Fingerprints {
    /// Bytes between two samples.
    pub(super) stride: usize,
    scope: SearchScope,
    /// The number of bytes of the shortest value. No form of a value is shorter.
    shortest: usize,
    /// True when a value contains a control character.
    pub(super) have_control_characters: bool,
    pub(super) windows: WindowTable,
    digest_key: [u64; 2],
    /// Allocates for more than one form only, because heads are searched for one form of each value, of which most calls have
    /// one. The digests are those of all values.
    forms: SmallVec<[Form; 1]>,
    digests: SmallVec<[Digest; 1]>,
}

/// The texts that fingerprints are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchScope {
    /// The fields of heads and trailers, which are short, and are decoded before they are searched.
    Heads,
    /// Streams of any length as well, which are searched for every form of a value.
    Bodies,
}

#[derive(Clone)]
struct Form {
    /// The index of the value.
    value: u8,
    encoding: ValueEncoding,
    /// The digest of the first characters.
    first: u64,
    /// The digests of the encoded bytes: of longer beginnings, and of all bytes.
    digests: Range<u32>,
    /// The number of characters.
    len: usize,
}

/// The digest of the first `len` bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Digest {
    len: usize,
    hash: u64,
}

/// A place at which a form may begin.
pub(super) struct Candidate {
    pub(super) start: usize,
    pub(super) value: u8,
    form: usize,
    /// The number of the form's digests that matched.
    matched: usize,
}

pub(super) enum Verdict {
    /// The form is not there.
    Dismissed,
    /// The bytes so far are a beginning of the form.
    Incomplete,
    Found {
        len: usize,
    },
}

/// A set of values, by their position in the list that the fingerprints were made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SecretSet(u64);

impl Fingerprints {
    /// Makes the fingerprints of at most [`MAX_VALUES`] values; values of fewer than [`MIN_VALUE`] bytes are left out.
    /// Returns `None` when no value is left.
    pub fn of<'v>(values: impl Iterator<Item = &'v [u8]> + Clone, scope: SearchScope) -> Option<Arc<Self>> {
        // The first characters of a value are in local variables, which the compiler may copy or keep in registers: a
        // destructor alone would not wipe every copy. The fingerprints themselves are moved to the heap before the wipe.
        stack::wiped(|| Self::make(values, scope).map(Arc::new))
    }

    fn make<'v>(values: impl Iterator<Item = &'v [u8]> + Clone, scope: SearchScope) -> Option<Self> {
        let values = values.take(MAX_VALUES).enumerate();
        let values = values.filter(|(_, value)| value.len() >= MIN_VALUE);
        let lengths = || values.clone().map(|(_, value)| value.len());
        let longest_stride = match scope {
            SearchScope::Heads => MAX_HEAD_STRIDE,
            SearchScope::Bodies => MAX_STRIDE,
        };
        let shortest = lengths().min()?;
        let stride = longest_stride.min(shortest + 1 - WINDOW);
        let forms_of = |value: &[u8]| match scope {
            SearchScope::Heads => 1,
            SearchScope::Bodies if is_plain(value) => PLAIN_FORMS,
            SearchScope::Bodies => ESCAPED_FORMS,
        };
        let forms: usize = values.clone().map(|(_, value)| forms_of(value)).sum();
        let random = RandomState::new();
        let digest_key = [0_u8, 1].map(|word| random.hash_one(word));
        let [first_key, second_key] = digest_key;
        let mut fingerprints = Self {
            stride,
            scope,
            shortest,
            have_control_characters: values.clone().any(|(_, value)| has_control_character(value)),
            windows: WindowTable::new(first_key ^ second_key.rotate_left(32), stride, forms),
            digest_key,
            forms: SmallVec::with_capacity(forms),
            digests: SmallVec::with_capacity(forms),
        };
        match scope {
            SearchScope::Heads => {
                for (index, value) in values {
                    fingerprints.add_value(value, u8::try_from(index).ok()?);
                }
            }
            SearchScope::Bodies => {
                let mut texts = EscapedTexts::new(values.clone().map(|(_, value)| value));
                for (index, value) in values {
                    fingerprints.add_forms(value, u8::try_from(index).ok()?, &mut texts);
                }
            }
        }
        Some(fingerprints)
    }

    /// Returns true when every value is longer than `text`, so that no form of a value fits.
    pub(super) fn are_too_long_for(&self, text: &[u8]) -> bool {
        text.len() < self.shortest
    }

    /// Returns the number of bytes of the shortest value when there are no fingerprints of the forms of a value.
    pub(super) fn shortest_decoded(&self) -> Option<usize> {
        (self.scope == SearchScope::Heads).then_some(self.shortest)
    }

    /// Adds the value itself, and returns its form.
    fn add_value(&mut self, value: &[u8], index: u8) -> (Form, FirstBytes) {
        let whole = self.push_digests(value.len(), |range, hasher| {
            hasher.write(value.get(range).unwrap_or_default());
        });
        let first = FirstBytes::of(value);
        let mut form = Form {
            value: index,
            encoding: ValueEncoding::Plain,
            first: 0,
            digests: whole,
            len: value.len(),
        };
        self.push(&mut form, first.plain());
        (form, first)
    }

    fn add_forms(&mut self, value: &[u8], index: u8, texts: &mut EscapedTexts) {
        let first_form = self.forms.len();
        let (mut form, first) = self.add_value(value, index);
        let mut text = Beginning::default();
        for encoding in [ValueEncoding::Hex, ValueEncoding::Percent] {
            (form.encoding, form.len) = (encoding, encoding.text_len(value.len()));
            match encoding {
                ValueEncoding::Percent => first.write_percent(&mut text),
                ValueEncoding::Plain | ValueEncoding::Hex | ValueEncoding::Base64 => {
                    first.write_hex(&mut text)
                }
            }
            self.push(&mut form, &text);
            if encoding::to_upper_case(&mut text, self.first_digest_len()) {
                self.push(&mut form, &text);
            }
        }
        self.add_base64(value, &first, form);
        texts.for_each(value, |text| self.add_text(text, index, first_form));
    }

    /// Adds the characters of base64 that depend on the value alone, for each number of bytes before the value in a group
    /// of three bytes. These characters begin with another bit of the value each time.
    fn add_base64(&mut self, value: &[u8], first: &FirstBytes, mut form: Form) {
        form.encoding = ValueEncoding::Base64;
        let mut text = Beginning::default();
        for skipped in [0, 4, 2] {
            let bits = ShiftedBits::new(value, skipped);
            form.len = bits.characters();
            form.digests = self.push_digests(bits.len(), |range, hasher| {
                bits.for_each(range, |part| hasher.write(part));
            });
            first.write_base64(skipped, &mut text);
            self.push(&mut form, &text);
            if encoding::to_url_alphabet(&mut text, self.first_digest_len()) {
                self.push(&mut form, &text);
            }
        }
    }

    /// Adds a text, unless one of the forms from `first_form` on is equal.
    fn add_text(&mut self, text: &[u8], value: u8, first_form: usize) {
        let digests = self.push_digests(text.len(), |range, hasher| {
            hasher.write(text.get(range).unwrap_or_default());
        });
        let first = FirstBytes::of(text);
        let mut form = Form {
            value,
            encoding: ValueEncoding::Plain,
            first: self.first_digest(first.plain()),
            digests,
            len: text.len(),
        };
        let mut others = self.forms.get(first_form..).unwrap_or_default().iter();
        if others.any(|other| self.are_equal(other, &form)) {
            let start = usize::try_from(form.digests.start).unwrap_or(usize::MAX);
            self.digests.truncate(start);
        } else {
            self.push(&mut form, first.plain());
        }
    }

    fn are_equal(&self, one: &Form, other: &Form) -> bool {
        one.encoding == other.encoding
            && one.first == other.first
            && self.digests_of(one) == self.digests_of(other)
    }

    /// Adds a form with this beginning. Other forms may have the same digests.
    fn push(&mut self, form: &mut Form, beginning: &Beginning) {
        form.first = self.first_digest(beginning);
        self.windows.insert(beginning);
        self.forms.push(form.clone());
    }

    /// Adds the digests of beginnings of `len` bytes, and of all of them. `write` writes a range of the bytes to a hasher.
    fn push_digests(&mut self, len: usize, write: impl Fn(Range<usize>, &mut SipHasher13)) -> Range<u32> {
        let count = |digests: &[Digest]| u32::try_from(digests.len()).unwrap_or(u32::MAX);
        let start = count(&self.digests);
        let beginnings = LONGER_BEGINNINGS
            .into_iter()
            .take_while(|beginning| *beginning < len);
        let (mut hasher, mut hashed) = (self.hasher(), 0);
        for len in beginnings.chain([len]) {
            write(hashed..len, &mut hasher);
            hashed = len;
            let hash = hasher.finish();
            self.digests.push(Digest { len, hash });
        }
        start..count(&self.digests)
    }

    /// The number of characters of the shortest beginning that has a digest. Every form has as many.
    pub(super) fn first_digest_len(&self) -> usize {
        self.stride + WINDOW - 1
    }

    /// Returns the digest of the first characters: a keyed folded multiplication, which costs less than SipHash.
    fn first_digest(&self, beginning: &Beginning) -> u64 {
        let [first_key, second_key] = self.digest_key;
        let unused = (beginning.len() - self.first_digest_len()) * 8;
        let characters = u128::from_be_bytes(**beginning) >> unused;
        let [first, second] = [characters >> 64, characters].map(low_half);
        let (low, high) = (first ^ first_key).carrying_mul(second ^ second_key, 0);
        low ^ high
    }

    #[cfg(test)]
    pub(super) fn form_count(&self) -> usize {
        self.forms.len()
    }

    fn hasher(&self) -> SipHasher13 {
        let [first, second] = self.digest_key;
        SipHasher13::new_with_keys(first, second)
    }

    fn digests_of(&self, form: &Form) -> &[Digest] {
        let index = |index: u32| usize::try_from(index).unwrap_or(usize::MAX);
        let range = index(form.digests.start)..index(form.digests.end);
        self.digests.get(range).unwrap_or_default()
    }

    /// Calls `each` with the places where forms may begin because of the sample `window` at `at`.
    pub(super) fn candidates(&self, at: usize, window: &[u8; WINDOW], mut each: impl FnMut(Candidate)) {
        self.windows.lookup(window, |form, offset| {
            let start = at.checked_sub(offset);
            let known = self.forms.get(form);
            if let (Some(start), Some(Form { value, .. })) = (start, known) {
                each(Candidate {
                    start,
                    value: *value,
                    form,
                    matched: 0,
                });
            }
        });
    }

    /// Compares the digests of a candidate as far as its characters have come. `text` returns a range of the characters
    /// in two parts; `end` is the end of the characters. When `budget` is spent, a beginning counts as the whole form.
    pub(super) fn verify<'t>(
        &self,
        candidate: &mut Candidate,
        end: usize,
        budget: &mut DigestBudget,
        text: impl Fn(Range<usize>) -> [&'t [u8]; 2],
    ) -> Verdict {
        let Candidate {
            start, form, matched, ..
        } = candidate;
        let Some(form) = self.forms.get(*form) else {
            return Verdict::Dismissed;
        };
        let part = |from: usize, to: usize| (*start + to <= end).then(|| text(*start + from..*start + to));
        if *matched == 0 {
            budget.spend(self.first_digest_len());
            match part(0, self.first_digest_len()).map(|first| self.begins(form, first)) {
                None => return Verdict::Incomplete,
                Some(false) => return Verdict::Dismissed,
                Some(true) => *matched = 1,
            }
        }
        let (mut hasher, mut hashed) = (self.hasher(), 0);
        for digest in self.digests_of(form).iter().skip(*matched - 1) {
            budget.spend(0);
            if budget.is_spent() {
                break;
            }
            let until = form.text_len(digest);
            let Some(text) = part(hashed, until) else {
                return Verdict::Incomplete;
            };
            budget.spend(until - hashed);
            hashed = until;
            let decoded = form.encoding.decode(text, |bytes| hasher.write(bytes));
            if decoded.is_none() || hasher.finish() != digest.hash {
                return Verdict::Dismissed;
            }
            *matched += 1;
        }
        Verdict::Found { len: form.len }
    }

    fn begins(&self, form: &Form, characters: [&[u8]; 2]) -> bool {
        let mut beginning = Beginning::default();
        let characters = characters.into_iter().flatten();
        beginning
            .iter_mut()
            .zip(characters)
            .for_each(|(to, from)| *to = *from);
        self.first_digest(&beginning) == form.first
    }
}

impl Form {
    /// Returns the number of characters whose bytes have the digest.
    fn text_len(&self, digest: &Digest) -> usize {
        // The characters of all bytes may end with an incomplete group.
        self.encoding.text_len(digest.len).min(self.len)
    }
}

fn low_half(bits: u128) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = bits.to_be_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

fn has_control_character(value: &[u8]) -> bool {
    // `any` would stop at the first control character, and could not use vector instructions.
    value
        .iter()
        .fold(false, |any, byte| any | byte.is_ascii_control())
}

impl Candidate {
    /// Returns true when a digest matched, so that the bytes at the candidate are almost certainly of a value.
    pub(super) fn is_probable(&self) -> bool {
        self.matched > 0
    }
}

impl SecretSet {
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn insert(&mut self, value: u8) {
        self.0 |= 1_u64.checked_shl(value.into()).unwrap_or_default();
    }

    /// Returns the values of this set that are not in `other`.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Returns the positions of the values in the list that the fingerprints were made of.
    pub fn positions(self) -> impl Iterator<Item = usize> {
        (0..MAX_VALUES).filter(move |position| self.0 >> position & 1 == 1)
    }
}
