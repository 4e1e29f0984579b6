use std::ops::Range;

use super::{
    Fingerprints, MASK, Scanned, SecretSet,
    budget::DigestBudget,
    decoded,
    fingerprints::{Candidate, Verdict},
};

/// The most ends of values behind which a text is decoded again.
const MAX_ENDS: usize = 16;

/// Masks the values in a whole text. Returns `None` when no value was found.
pub fn mask_text(fingerprints: &Fingerprints, text: &[u8]) -> Option<Scanned> {
    if fingerprints.are_too_long_for(text) {
        return None;
    }
    let mut masked = MaskedText {
        text,
        output: Vec::new(),
        found: SecretSet::default(),
        ends: Vec::new(),
    };
    search(fingerprints, text, |value, range| masked.mask(value, range));
    masked.search_decoded(fingerprints, 0);
    // The end of a value and the beginning of a form behind it can look like one escaped character. The search adds ends.
    let mut searched = 0;
    while let Some(end) = masked.ends.get(searched).copied() {
        masked.search_decoded(fingerprints, end);
        searched += 1;
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
    /// The ends of the first values that were found.
    ends: Vec<usize>,
}

impl MaskedText<'_> {
    /// Masks the values in the decoded parts of the text from `from` on.
    fn search_decoded(&mut self, fingerprints: &Fingerprints, from: usize) {
        let text = self.text.get(from..).unwrap_or_default();
        let Some(shortest) = fingerprints.shortest_decoded() else {
            return;
        };
        decoded::for_each(text, shortest, |decoded| {
            search(fingerprints, &decoded.bytes, |value, range| {
                let Range { start, end } = decoded.place(range);
                self.mask(value, from + start..from + end);
            });
        });
    }

    fn mask(&mut self, value: u8, range: Range<usize>) {
        self.found.insert(value);
        if self.ends.len() < MAX_ENDS && !self.ends.contains(&range.end) {
            self.ends.push(range.end);
        }
        if self.output.is_empty() {
            self.output = self.text.to_vec();
        }
        if let Some(bytes) = self.output.get_mut(range) {
            bytes.fill(MASK);
        }
    }
}
