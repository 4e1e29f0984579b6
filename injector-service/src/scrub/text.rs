use super::{
    Fingerprints, MASK, Scanned, SecretSet,
    budget::DigestBudget,
    fingerprints::{Candidate, Verdict},
};

/// Masks the values in a whole text. Returns `None` when no value was found.
pub fn mask_text(fingerprints: &Fingerprints, text: &[u8]) -> Option<Scanned> {
    let mut search = TextSearch {
        fingerprints,
        text,
        budget: DigestBudget::new(),
        output: Vec::new(),
        found: SecretSet::default(),
    };
    let mut at = 0;
    loop {
        at = fingerprints.windows.find(text, at);
        let Some(window) = text.get(at..).and_then(<[u8]>::first_chunk) else {
            break;
        };
        fingerprints.candidates(at, window, |candidate| search.verify(candidate));
        at += fingerprints.stride;
    }
    let TextSearch { output, found, .. } = search;
    (!found.is_empty()).then(|| Scanned {
        output: output.into(),
        found,
    })
}

struct TextSearch<'t> {
    fingerprints: &'t Fingerprints,
    text: &'t [u8],
    budget: DigestBudget,
    /// The text with masks, once a value was found.
    output: Vec<u8>,
    found: SecretSet,
}

impl TextSearch<'_> {
    fn verify(&mut self, mut candidate: Candidate) {
        let text = self.text;
        let part = |range| [text.get(range).unwrap_or_default(), &[][..]];
        let verdict = self
            .fingerprints
            .verify(&mut candidate, text.len(), &mut self.budget, part);
        match verdict {
            Verdict::Dismissed | Verdict::Incomplete => {}
            Verdict::Found { len } => {
                self.found.insert(candidate.value);
                if self.output.is_empty() {
                    self.output = text.to_vec();
                }
                let until = text.len().min(candidate.start + len);
                if let Some(bytes) = self.output.get_mut(candidate.start..until) {
                    bytes.fill(MASK);
                }
            }
        }
    }
}
