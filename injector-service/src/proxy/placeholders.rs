//! The covers of one call's values.

use http::{HeaderName, HeaderValue};
use proto::{Reason, Refusal};

use crate::{
    placeholder::{PlaceholderGuard, PlaceholderTable, PossibleVersions},
    upstream::ClearValues,
};

/// Covers the values of one call, until they were sent.
pub(super) struct CallPlaceholders<'v> {
    placeholders: &'v PlaceholderTable,
    over: PossibleVersions,
    covers: Vec<PlaceholderGuard>,
    /// Whether a value had to go without.
    uncovered: bool,
}

impl<'v> CallPlaceholders<'v> {
    /// Makes stand-ins for a request that may go over the HTTP versions in `over`.
    pub(super) fn new(placeholders: &'v PlaceholderTable, over: PossibleVersions) -> Self {
        Self {
            placeholders,
            over,
            covers: Vec::new(),
            uncovered: false,
        }
    }

    /// Returns a stand-in for the value of a field, or None when the value itself has to be sent.
    pub(super) fn cover(&mut self, name: &HeaderName, value: &[u8]) -> Option<HeaderValue> {
        let Some((stand_in, cover)) = self.placeholders.cover(name, value, self.over) else {
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
        if self.covers.iter().all(PlaceholderGuard::was_placed) {
            return Ok(());
        }
        tracing::error!("a secret was not put into its place; the upstream got a call without it");
        Err(Refusal::new(
            Reason::Internal,
            "a secret was not put into its place; the upstream got the call without it",
        ))
    }
}
