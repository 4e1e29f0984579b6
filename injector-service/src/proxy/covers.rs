//! The covers of one call's values.

use http::{HeaderMap, HeaderValue};
use proto::{Reason, Refusal};

use crate::{
    upstream::Uncovered,
    veil::{Cover, Over, Veil},
};

/// A head larger than this may be cut into several HTTP/2 frames (of 16 KiB at least), and a stand-in with it.
const LARGEST_HEAD: usize = 12 * 1024;

/// Covers the values of one call, until they were sent.
pub(super) struct Covers<'v> {
    veil: &'v Veil,
    over: Over,
    /// What there may still be of the head.
    left: usize,
    covers: Vec<Cover>,
    /// Whether a value had to go without.
    uncovered: bool,
}

impl<'v> Covers<'v> {
    /// For a request that has these headers so far.
    pub(super) fn new(veil: &'v Veil, over: Over, headers: &HeaderMap) -> Self {
        let size: usize = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 32)
            .sum();
        Self {
            veil,
            over,
            left: LARGEST_HEAD.saturating_sub(size),
            covers: Vec::new(),
            uncovered: false,
        }
    }

    /// A stand-in for a value; none when it has to go as it is.
    pub(super) fn cover(&mut self, value: &[u8]) -> Option<HeaderValue> {
        let fits = match self.over {
            Over::Http1 => true,
            // A name of 128 characters, its prefix, and what is said about lengths.
            Over::Any => self
                .left
                .checked_sub(value.len() + 192)
                .map(|left| self.left = left)
                .is_some(),
        };
        let covered = fits.then(|| self.veil.cover(value, self.over)).flatten();
        let Some((stand_in, cover)) = covered else {
            self.uncovered = true;
            return None;
        };
        self.covers.push(cover);
        Some(stand_in)
    }

    /// What the request holds without a cover.
    pub(super) fn uncovered(&self, in_body: bool) -> Uncovered {
        match (self.uncovered, in_body) {
            (true, _) => Uncovered::Head,
            (false, true) => Uncovered::Body,
            (false, false) => Uncovered::Nothing,
        }
    }

    /// That the upstream got the values, and not what stood for them.
    pub(super) fn were_placed(self) -> Result<(), Refusal> {
        if self.covers.iter().all(Cover::was_placed) {
            return Ok(());
        }
        tracing::error!("a secret was not put into its place; the upstream got a call without it");
        Err(Refusal::new(
            Reason::Internal,
            "a secret was not put into its place; the upstream got the call without it",
        ))
    }
}
