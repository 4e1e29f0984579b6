//! The values of secrets for one request.

use std::sync::Arc;

use proto::{SecretName, SecretValue};
use smallvec::SmallVec;

use crate::scrub::{Fingerprints, SearchScope};

/// A secret that the vault was asked for.
pub struct ResolvedSecret<'s> {
    pub name: &'s SecretName,
    /// `None` when the secret does not exist or has expired.
    pub value: Option<SecretValue>,
}

/// The secrets that the vault was asked for, each once, in the order of the request.
#[derive(Default)]
pub struct ResolvedSecrets<'s>(Vec<ResolvedSecret<'s>>);

impl<'s> ResolvedSecrets<'s> {
    /// Returns the value of a secret, or `None` when the secret does not exist or has expired, or the vault was not asked
    /// for it.
    pub fn value(&self, name: &SecretName) -> Option<&SecretValue> {
        let secret = self.0.iter().find(|secret| secret.name == name)?;
        secret.value.as_ref()
    }

    /// Returns the fingerprints of the values of the secrets that `is_sought` accepts, and the names in the same order.
    /// Returns `None` when no value is long enough.
    pub(crate) fn fingerprints(
        &self,
        is_sought: impl Fn(&SecretName) -> bool,
        scope: SearchScope,
    ) -> Option<(Arc<Fingerprints>, SmallVec<[SecretName; 1]>)> {
        let sought = self.0.iter().filter(|secret| is_sought(secret.name));
        let values = sought.filter_map(|secret| Some((secret.name, secret.value.as_ref()?.expose())));
        let fingerprints = Fingerprints::of(values.clone().map(|(_, value)| value), scope)?;
        Some((fingerprints, values.map(|(name, _)| name.clone()).collect()))
    }

    pub fn iter(&self) -> impl Iterator<Item = &ResolvedSecret<'s>> {
        self.0.iter()
    }
}

impl<'s> FromIterator<ResolvedSecret<'s>> for ResolvedSecrets<'s> {
    fn from_iter<I: IntoIterator<Item = ResolvedSecret<'s>>>(secrets: I) -> Self {
        Self(secrets.into_iter().collect())
    }
}
