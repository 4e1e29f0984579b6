//! The covers of one call's values.

use http::{HeaderName, HeaderValue};
use proto::{Reason, Refusal};

use crate::{
    upstream::ClearValues,
    veil::{Cover, Over, Veil},
};

/// Covers the values of one call, until they were sent.
pub(super) struct Covers<'v> {
    veil: &'v Veil,
    over: Over,
    covers: Vec<Cover>,
    /// Whether a value had to go without.
    uncovered: bool,
}

impl<'v> Covers<'v> {
    /// Makes stand-ins for a request that may go over the HTTP versions in `over`.
    pub(super) fn new(veil: &'v Veil, over: Over) -> Self {
        Self {
            veil,
            over,
            covers: Vec::new(),
            uncovered: false,
        }
    }

    /// Returns a stand-in for the value of a field, or None when the value itself has to be sent.
    pub(super) fn cover(&mut self, name: &HeaderName, value: &[u8]) -> Option<HeaderValue> {
        let Some((stand_in, cover)) = self.veil.cover(name, value, self.over) else {
            self.uncovered = true;
            return None;
        };
        self.covers.push(cover);
        Some(stand_in)
    }

    /// What the request holds without a cover.
    pub(super) fn uncovered(&self, in_body: bool) -> ClearValues {
        match (self.uncovered, in_body) {
            (true, _) => ClearValues::Head,
            (false, true) => ClearValues::Body,
            (false, false) => ClearValues::None,
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
