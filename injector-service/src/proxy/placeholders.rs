//! The placeholders of one call's values.

use http::{HeaderName, HeaderValue, uri::PathAndQuery};
use proto::{Reason, Refusal};

use crate::{
    placeholder::{PlaceholderGuard, PlaceholderTable, PossibleVersions},
    upstream::ClearValues,
};

/// Makes the placeholders of one call, and keeps them valid until the request was sent.
pub(super) struct CallPlaceholders<'t> {
    table: &'t PlaceholderTable,
    versions: PossibleVersions,
    guards: Vec<PlaceholderGuard>,
    has_clear_value: bool,
}

impl<'t> CallPlaceholders<'t> {
    pub(super) fn new(table: &'t PlaceholderTable, versions: PossibleVersions) -> Self {
        Self {
            table,
            versions,
            guards: Vec::new(),
            has_clear_value: false,
        }
    }

    /// Returns a placeholder for the value of a field, or `None` when the head has to contain the value itself.
    pub(super) fn insert(&mut self, name: &HeaderName, value: &[u8]) -> Option<HeaderValue> {
        let Some((placeholder, guard)) = self.table.insert(name, value, self.versions) else {
            self.has_clear_value = true;
            return None;
        };
        self.guards.push(guard);
        Some(placeholder)
    }

    /// Returns a placeholder for the target of the request, or `None` when the head has to contain the target itself.
    pub(super) fn insert_target(&mut self, target: &[u8]) -> Option<PathAndQuery> {
        let Some((placeholder, guard)) = self.table.insert_target(target, self.versions) else {
            self.has_clear_value = true;
            return None;
        };
        self.guards.push(guard);
        Some(placeholder)
    }

    /// Returns the parts of the request that contain values without a placeholder.
    pub(super) fn clear_values(&self, in_body: bool) -> ClearValues {
        match (self.has_clear_value, in_body) {
            (true, _) => ClearValues::Head,
            (false, true) => ClearValues::Body,
            (false, false) => ClearValues::None,
        }
    }

    /// Fails when the upstream got a placeholder instead of its value.
    pub(super) fn check_substituted(self) -> Result<(), Refusal> {
        if self.guards.iter().all(PlaceholderGuard::is_substituted) {
            return Ok(());
        }
        tracing::error!("a secret was not put into its place; the upstream got a call without it");
        Err(Refusal::new(
            Reason::Internal,
            "a secret was not put into its place; the upstream got the call without it",
        ))
    }
}
