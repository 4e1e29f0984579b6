use std::{collections::HashSet, mem, ops::Range, sync::Arc};

use bytes::{Buf as _, Bytes, BytesMut};

use super::{
    Fingerprints, MASK, SecretSet, WINDOW,
    budget::DigestBudget,
    fingerprints::{Candidate, Verdict},
};

/// Masks values in a stream of bytes that comes in pieces.
///
/// All positions in the fields count from the beginning of `kept`.
pub struct Scanner {
    fingerprints: Arc<Fingerprints>,
    /// The last bytes of the stream, as far as a value may contain them that has not ended yet.
    kept: BytesMut,
    /// The bytes of `kept` that were given out.
    given: usize,
    /// The position of the next sample.
    next_sample: usize,
    /// Places where a value may begin whose end has not come yet.
    candidates: Vec<Candidate>,
    /// Values that were found, and were not given out as a whole.
    found: Vec<FoundValue>,
    budget: DigestBudget,
}

/// The place of a value, and the position of the value in the list.
struct FoundValue {
    range: Range<usize>,
    value: u8,
    /// False when the value begins before `kept`, so that `range` begins at 0 instead.
    has_beginning: bool,
}

/// The bytes that a scanner gives out.
#[derive(Debug, Default)]
pub struct Scanned {
    pub output: Bytes,
    /// The values that were found. The bytes of a found value may come with the next output.
    pub found: SecretSet,
}

/// The kept bytes and the piece that follows them.
struct Stream<'s> {
    kept: &'s [u8],
    piece: &'s [u8],
}

impl Scanner {
    pub fn new(fingerprints: Arc<Fingerprints>) -> Self {
        Self {
            fingerprints,
            kept: BytesMut::new(),
            given: 0,
            next_sample: 0,
            candidates: Vec::new(),
            found: Vec::new(),
            budget: DigestBudget::new(),
        }
    }

    /// Scans the next piece of the stream, and returns the bytes that can be given out: the same length, with values
    /// masked, up to the held bytes. The piece itself is returned when nothing was held and nothing was found.
    pub fn scan(&mut self, piece: Bytes) -> Scanned {
        self.budget.refill(piece.len());
        let kept = mem::take(&mut self.kept);
        let stream = Stream {
            kept: &kept,
            piece: &piece,
        };
        let found = self.search(&stream);
        let after_control = self.drop_ended_candidates(&stream);
        let keep_from = self.first_unfinished();
        let until = self.given.max(after_control).max(keep_from);
        let output = self.output(&stream, until, &piece);
        self.kept = kept;
        self.keep(&piece, keep_from);
        Scanned { output, found }
    }

    /// Gives out the last bytes, without those from a place on at which a value almost certainly begins. The rest of a
    /// value that begins in the given bytes will be masked.
    pub fn release_tail(&mut self) -> Bytes {
        // Several forms of a value may begin alike. Once one of them was found, the others are improbable.
        let found: HashSet<_> = self
            .found
            .iter()
            .filter(|found| found.has_beginning)
            .map(|found| (found.range.start, found.value))
            .collect();
        let begun = self.candidates.iter();
        let begun = begun.filter(|each| each.is_probable() && !found.contains(&(each.start, each.value)));
        let until = begun.map(|each| each.start).min().unwrap_or(self.kept.len());
        self.release(until.max(self.given))
    }

    /// Gives out all bytes. The rest of a value that begins in them will be masked.
    pub fn release_all(&mut self) -> Bytes {
        self.release(self.kept.len())
    }

    /// Returns true when bytes were received that were not given out.
    pub fn holds_bytes(&self) -> bool {
        self.given < self.kept.len()
    }

    /// Gives out the last bytes of the stream.
    pub fn finish(mut self) -> Bytes {
        self.release_all()
    }

    fn release(&mut self, until: usize) -> Bytes {
        let kept = mem::take(&mut self.kept);
        let stream = Stream {
            kept: &kept,
            piece: &[],
        };
        let output = self.output(&stream, until, &Bytes::new());
        self.kept = kept;
        output
    }

    /// Looks for values that begin or end in the piece.
    fn search(&mut self, stream: &Stream<'_>) -> SecretSet {
        let mut found = SecretSet::default();
        for candidate in mem::take(&mut self.candidates) {
            self.verify(candidate, stream, &mut found);
        }
        let fingerprints = self.fingerprints.clone();
        let mut at = self.next_sample;
        while at < stream.kept.len() {
            let Some(window) = stream.window(at) else {
                self.next_sample = at;
                return found;
            };
            fingerprints.candidates(at, &window, |each| self.verify(each, stream, &mut found));
            at += fingerprints.stride;
        }
        let mut in_piece = at - stream.kept.len();
        loop {
            in_piece = fingerprints.windows.find(stream.piece, in_piece);
            let Some(window) = stream.piece.get(in_piece..).and_then(<[u8]>::first_chunk) else {
                break;
            };
            let at = stream.kept.len() + in_piece;
            fingerprints.candidates(at, window, |each| self.verify(each, stream, &mut found));
            in_piece += fingerprints.stride;
        }
        self.next_sample = stream.kept.len() + in_piece;
        found
    }

    fn verify(&mut self, mut candidate: Candidate, stream: &Stream<'_>, found: &mut SecretSet) {
        let text = |range| <[&[u8]; 2]>::from(stream.range(range));
        let fingerprints = &self.fingerprints;
        match fingerprints.verify(&mut candidate, stream.len(), &mut self.budget, text) {
            Verdict::Dismissed => {}
            Verdict::Incomplete => self.candidates.push(candidate),
            Verdict::Found { len } => {
                let Candidate { start, value, .. } = candidate;
                found.insert(value);
                self.add_found(start..start + len, value);
            }
        }
    }

    fn add_found(&mut self, range: Range<usize>, value: u8) {
        // A spent budget takes every beginning for a value, so there can be very many, of several values in turn.
        let is_spent = self.budget.is_spent();
        let touches = |known: &&mut FoundValue| {
            known.value == value && known.range.start <= range.end && range.start <= known.range.end
        };
        match self
            .found
            .iter_mut()
            .rev()
            .find(|known| is_spent && touches(known))
        {
            Some(known) => {
                known.range = known.range.start.min(range.start)..known.range.end.max(range.end);
            }
            None => self.found.push(FoundValue {
                range,
                value,
                has_beginning: true,
            }),
        }
    }

    /// No value goes on over a control character, unless a value has one. Drops the candidates before the last control
    /// character, and returns the position after this character, or 0.
    fn drop_ended_candidates(&mut self, stream: &Stream<'_>) -> usize {
        if self.fingerprints.have_control_characters {
            return 0;
        }
        let (_, unfinished) = stream.range(self.first_unfinished()..stream.len());
        let Some(last) = unfinished.iter().rposition(u8::is_ascii_control) else {
            return 0;
        };
        let after_control = stream.len() - unfinished.len() + last + 1;
        self.candidates.retain(|each| each.start >= after_control);
        after_control
    }

    /// Returns the first position at which a value may begin that has not ended: at a candidate, or in the last bytes,
    /// whose samples have not come yet.
    fn first_unfinished(&self) -> usize {
        let unsampled = (self.next_sample + 1).saturating_sub(self.fingerprints.stride);
        let candidates = self.candidates.iter().map(|each| each.start);
        candidates.fold(unsampled, usize::min)
    }

    /// Returns the bytes from `given` to `until`, with values masked. They are bytes of `piece` itself when possible.
    fn output(&mut self, stream: &Stream<'_>, until: usize, piece: &Bytes) -> Bytes {
        let given = mem::replace(&mut self.given, until);
        let masked = self
            .found
            .iter()
            .any(|found| found.range.start < until && found.range.end > given);
        let (kept, new) = stream.range(given..until);
        if kept.is_empty() && !masked {
            let start = given.saturating_sub(stream.kept.len());
            return piece.slice(start..start + new.len());
        }
        let mut output = Vec::with_capacity(until - given);
        output.extend_from_slice(kept);
        output.extend_from_slice(new);
        for FoundValue { range, .. } in &self.found {
            let end = range.end.saturating_sub(given).min(output.len());
            let range = range.start.saturating_sub(given)..end;
            if let Some(bytes) = output.get_mut(range) {
                bytes.fill(MASK);
            }
        }
        self.found.retain(|found| found.range.end > until);
        output.into()
    }

    /// Keeps the bytes of the stream from `from` on, and lets all positions count from there.
    fn keep(&mut self, piece: &[u8], from: usize) {
        match from.checked_sub(self.kept.len()) {
            Some(from) => {
                self.kept.clear();
                self.kept.extend_from_slice(piece.get(from..).unwrap_or_default());
            }
            None => {
                self.kept.advance(from);
                self.kept.extend_from_slice(piece);
            }
        }
        self.given -= from;
        self.next_sample -= from;
        self.candidates.iter_mut().for_each(|each| each.start -= from);
        for FoundValue {
            range, has_beginning, ..
        } in &mut self.found
        {
            *has_beginning &= range.start >= from;
            *range = range.start.saturating_sub(from)..range.end - from;
        }
    }
}

impl<'s> Stream<'s> {
    fn len(&self) -> usize {
        self.kept.len() + self.piece.len()
    }

    fn window(&self, at: usize) -> Option<[u8; WINDOW]> {
        let (kept, piece) = self.range(at..at + WINDOW);
        let mut window = [0; WINDOW];
        let (first, second) = window.split_at_mut_checked(kept.len())?;
        first.copy_from_slice(kept);
        (second.len() == piece.len()).then(|| second.copy_from_slice(piece))?;
        Some(window)
    }

    /// Returns the part of `range` in the kept bytes, and the part in the piece.
    fn range(&self, range: Range<usize>) -> (&'s [u8], &'s [u8]) {
        let kept = self.kept.len();
        let first = range.start.min(kept)..range.end.min(kept);
        let second = range.start.saturating_sub(kept)..range.end.saturating_sub(kept).min(self.piece.len());
        (
            self.kept.get(first).unwrap_or_default(),
            self.piece.get(second).unwrap_or_default(),
        )
    }
}
