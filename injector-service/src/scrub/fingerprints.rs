use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    ops::Range,
};

use siphasher::sip::SipHasher13;

use super::{MAX_STRIDE, MAX_VALUES, MIN_VALUE, WINDOW, forms::FormBuffer, window_table::WindowTable};

/// The lengths of beginnings that have digests of their own, besides the shortest one.
const LONGER_BEGINNINGS: [usize; 3] = [128, 1024, 8192];
/// The forms of a value that consists of letters and digits.
const USUAL_FORMS: usize = 11;

/// Recognizes values without containing them. The module doc says what is kept.
pub struct Fingerprints {
    /// Bytes between two samples.
    pub(super) stride: usize,
    /// True when a value contains a control character.
    pub(super) have_control_characters: bool,
    pub(super) windows: WindowTable,
    digest_key: [u64; 2],
    forms: Vec<Form>,
    /// The digests of all forms, one form after the other.
    digests: Vec<Digest>,
}

struct Form {
    /// The index of the value.
    value: u8,
    digests: Range<u32>,
    len: usize,
}

/// The digest of the first `len` bytes of a form.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Digest {
    len: usize,
    hash: u64,
}

/// A place at which a form may begin.
pub(super) struct Candidate {
    pub(super) start: usize,
    pub(super) value: u8,
    form: u16,
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
    pub fn of<'v>(values: impl Iterator<Item = &'v [u8]> + Clone) -> Option<Self> {
        let values = values.take(MAX_VALUES).enumerate();
        let values = values.filter(|(_, value)| value.len() >= MIN_VALUE);
        let lengths = || values.clone().map(|(_, value)| value.len());
        let shortest = lengths().min()?;
        let stride = MAX_STRIDE.min(shortest + 1 - WINDOW);
        let forms = USUAL_FORMS * lengths().count();
        let random = RandomState::new();
        let [tag_key, tag_factor, digest_key, second_digest_key] =
            [0_u8, 1, 2, 3].map(|purpose| random.hash_one(purpose));
        let mut fingerprints = Self {
            stride,
            have_control_characters: values
                .clone()
                .any(|(_, value)| value.iter().any(u8::is_ascii_control)),
            windows: WindowTable::new([tag_key, tag_factor], forms * stride),
            digest_key: [digest_key, second_digest_key],
            forms: Vec::with_capacity(forms),
            digests: Vec::with_capacity(2 * forms),
        };
        let mut buffer = FormBuffer::new(values.clone().map(|(_, value)| value));
        for (index, value) in values {
            let index = u8::try_from(index).ok()?;
            let first_form = fingerprints.forms.len();
            buffer.for_each(value, |form| fingerprints.push(form, index, first_form));
        }
        Some(fingerprints)
    }

    /// Adds `form`, unless one of the forms from `first_form` on is equal.
    fn push(&mut self, form: &[u8], value: u8, first_form: usize) {
        let start = self.digests.len();
        self.push_digests(form);
        let mut others = self.forms.get(first_form..).unwrap_or_default().iter();
        let digests = self.digests.get(start..).unwrap_or_default();
        if others.any(|other| self.digests_of(other) == digests) {
            self.digests.truncate(start);
            return;
        }
        let index = u16::try_from(self.forms.len()).unwrap_or(u16::MAX);
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        self.forms.push(Form {
            value,
            digests: count(start)..count(self.digests.len()),
            len: form.len(),
        });
        self.windows.insert(form, self.stride, index);
    }

    fn push_digests(&mut self, form: &[u8]) {
        let beginnings = [self.first_digest_len()].into_iter().chain(LONGER_BEGINNINGS);
        let beginnings = beginnings.take_while(|len| *len < form.len());
        let (mut hasher, mut hashed) = (self.hasher(), 0);
        for len in beginnings.chain([form.len()]) {
            hasher.write(form.get(hashed..len).unwrap_or_default());
            hashed = len;
            let hash = hasher.finish();
            self.digests.push(Digest { len, hash });
        }
    }

    /// The bytes of the shortest beginning that has a digest. Every form has as many.
    pub(super) fn first_digest_len(&self) -> usize {
        self.stride + WINDOW - 1
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

    pub(super) fn candidate(&self, start: usize, form: u16) -> Option<Candidate> {
        Some(Candidate {
            start,
            value: self.forms.get(usize::from(form))?.value,
            form,
            matched: 0,
        })
    }

    /// Compares the digests of a candidate as far as its bytes have come. `write` writes a range of the bytes to a
    /// hasher; `end` is the end of the bytes.
    pub(super) fn verify(
        &self,
        candidate: &mut Candidate,
        end: usize,
        write: impl Fn(Range<usize>, &mut SipHasher13),
    ) -> Verdict {
        let Some(form) = self.forms.get(usize::from(candidate.form)) else {
            return Verdict::Dismissed;
        };
        let Candidate { start, matched, .. } = candidate;
        let (mut hasher, mut hashed) = (self.hasher(), 0);
        for digest in self.digests_of(form).iter().skip(*matched) {
            if *start + digest.len > end {
                return Verdict::Incomplete;
            }
            write(*start + hashed..*start + digest.len, &mut hasher);
            hashed = digest.len;
            if hasher.finish() != digest.hash {
                return Verdict::Dismissed;
            }
            *matched += 1;
        }
        Verdict::Found { len: form.len }
    }
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
