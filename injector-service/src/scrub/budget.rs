/// The bytes that a scanner may hash at once, and the most that it can save up.
const CAPACITY: usize = 1024 * 1024;
/// The bytes that a scanner may hash for each byte that it receives.
const PER_BYTE: usize = 64;
/// The price of one comparison, in addition to the hashed bytes.
const COMPARISON: usize = 2;

/// Limits the bytes that a scanner hashes, so that the time of a scan is proportional to the length of the stream.
///
/// A text of many overlapping beginnings of a value would otherwise take a time that grows with the length of the value
/// for each byte. Such a text needs a value that repeats itself, such as 40,000 times the same letter.
pub(super) struct DigestBudget(usize);

impl DigestBudget {
    pub(super) fn new() -> Self {
        Self(CAPACITY)
    }

    /// Adds the allowance for `received` bytes.
    pub(super) fn refill(&mut self, received: usize) {
        let allowed = received.saturating_mul(PER_BYTE);
        self.0 = self.0.saturating_add(allowed).min(CAPACITY);
    }

    pub(super) fn spend(&mut self, hashed: usize) {
        self.0 = self.0.saturating_sub(hashed + COMPARISON);
    }

    pub(super) fn is_spent(&self) -> bool {
        self.0 == 0
    }
}
