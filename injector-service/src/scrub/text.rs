use std::ops::Range;

use super::{
    Fingerprints, MASK, Scanned, SecretSet,
    budget::DigestBudget,
    decoded,
    fingerprints::{Candidate, Verdict},
};

/// Masks the values in a whole text. Returns `None` when no value was found.
pub fn mask_text(fingerprints: &Fingerprints, text: &[u8]) -> Option<Scanned> {
    let mut masked = MaskedText {
        text,
        output: Vec::new(),
        found: SecretSet::default(),
    };
    search(fingerprints, text, |value, range| masked.mask(value, range));
    masked.search_decoded(fingerprints, text);
    if !masked.found.is_empty() {
        // The end of a value and the beginning of a form behind it can look like one escaped character.
        let without_values = masked.output.clone();
        masked.search_decoded(fingerprints, &without_values);
    }
    let MaskedText { output, found, .. } = masked;
    (!found.is_empty()).then(|| Scanned {
        output: output.into(),
        found,
    })
}

/// Calls `found` with each value in `text` and its place.
fn search(fingerprints: &Fingerprints, text: &[u8], mut found: impl FnMut(u8, Range<usize>)) {
    let mut budget = DigestBudget::new();
    let part = |range| [text.get(range).unwrap_or_default(), &[][..]];
    let mut verify =
        |mut candidate: Candidate| match fingerprints.verify(&mut candidate, text.len(), &mut budget, part) {
            Verdict::Dismissed | Verdict::Incomplete => {}
            Verdict::Found { len } => {
                let until = text.len().min(candidate.start + len);
                found(candidate.value, candidate.start..until);
            }
        };
    let mut at = 0;
    loop {
        at = fingerprints.windows.find(text, at);
        let Some(window) = text.get(at..).and_then(<[u8]>::first_chunk) else {
            break;
        };
        fingerprints.candidates(at, window, &mut verify);
        at += fingerprints.stride;
    }
}

struct MaskedText<'t> {
    text: &'t [u8],
    /// The text with masks, once a value was found.
    output: Vec<u8>,
    found: SecretSet,
}

impl MaskedText<'_> {
    /// Masks the values in the decoded parts of `text`, which has the same length as the masked text.
    fn search_decoded(&mut self, fingerprints: &Fingerprints, text: &[u8]) {
        let Some(shortest) = fingerprints.shortest_decoded else {
            return;
        };
        decoded::for_each(text, shortest, |decoded| {
            search(fingerprints, &decoded.bytes, |value, range| {
                self.mask(value, decoded.place(range));
            });
        });
    }

    fn mask(&mut self, value: u8, range: Range<usize>) {
        self.found.insert(value);
        if self.output.is_empty() {
            self.output = self.text.to_vec();
        }
        if let Some(bytes) = self.output.get_mut(range) {
            bytes.fill(MASK);
        }
    }
}
