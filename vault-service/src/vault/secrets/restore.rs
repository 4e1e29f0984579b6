//! Restoring a kept version of a secret as its current version.
//!
//! A restore must not bypass a decision that was made after the version was put: that the value may go to fewer
//! origins, or that it expires earlier. So a restore compares all later versions that are kept, not only the current
//! one; otherwise a put of any value without origins would lift the restriction. The vault drops the oldest versions
//! first, so none of the later versions is missing.

use std::{sync::Arc, time::SystemTime};

use proto::{OriginPattern, SecretName, origin, vault::v1::ValueFacts};

use super::{
    current::SecretEntries,
    put::MAX_ORIGINS,
    requests::{RequestId, RequestLookup},
    write_version::{
        NewValue, PreparedWrite, VersionWrite, WrittenVersion, check_expiry, check_version,
        expected_version_field,
    },
};
use crate::{
    authz::WritePermit,
    crypto::{
        WorkspaceKek,
        fingerprint::{Fingerprint, Fingerprinter},
        record::{self, Expiry, OwnedTerms},
    },
    vault::{
        VaultError, Writer, keyring::Keyring, labels::Labels, stored::StoredMetadata,
        workspace::StoredWorkspace,
    },
};

pub(crate) struct VersionRestore {
    pub(crate) name: SecretName,
    pub(crate) version: u64,
    pub(crate) expiry: RestoredExpiry,
    /// Limits of the later versions that the new version may exceed.
    pub(crate) overrides: RestoreOverrides,
    /// Number that the current version must have; `None` accepts any.
    pub(crate) expected_version: Option<u64>,
    /// The caller's id for this restore, which makes a retry safe.
    pub(crate) request_id: Option<RequestId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestoredExpiry {
    /// The earliest expiry among the old version and the later versions.
    Kept,
    Never,
    At(Expiry),
}

/// Exceptions that an administrator allows for a restored version; the default allows none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RestoreOverrides {
    /// Allows all origins of the old version.
    pub(crate) wider_origins: bool,
    /// Allows an expiry later than those of the old version and the later versions.
    pub(crate) later_expiry: bool,
}

impl VersionRestore {
    /// Returns a fingerprint of all fields that distinguish one restore from another.
    fn fingerprint(&self, kek: &WorkspaceKek) -> Fingerprint {
        let Self {
            name,
            version,
            expiry,
            overrides:
                RestoreOverrides {
                    wider_origins,
                    later_expiry,
                },
            expected_version,
            request_id: _,
        } = self;
        let print = Fingerprinter::new(kek)
            .field(b"restore")
            .field(name.as_str().as_bytes())
            .field(&version.to_be_bytes())
            .field(&[u8::from(*wider_origins), u8::from(*later_expiry)])
            .field(&expected_version_field(*expected_version));
        match expiry {
            RestoredExpiry::Kept => print.field(b"kept"),
            RestoredExpiry::Never => print.field(b"never"),
            RestoredExpiry::At(expiry) => print.field(b"at").field(&expiry.seconds().to_be_bytes()),
        }
        .finish()
    }

    /// Computes the terms of the new version from the terms of the old version and the metadata of the later versions.
    fn terms(
        &self,
        old: OwnedTerms,
        later: &[StoredMetadata],
        now: SystemTime,
    ) -> Result<OwnedTerms, VaultError> {
        Ok(OwnedTerms {
            expiry: self.new_expiry(old.expiry, later, now)?,
            origins: self.origins(old.origins, later)?,
        })
    }

    fn origins(
        &self,
        old: Vec<OriginPattern>,
        later: &[StoredMetadata],
    ) -> Result<Vec<OriginPattern>, VaultError> {
        if self.overrides.wider_origins {
            return Ok(old);
        }
        let mut origins = old;
        for version in later {
            origins = origin::common(&origins, &parse_stored(&version.upstream_origins)?)
                .ok_or(VaultError::RestoreWidensOrigins)?;
        }
        if origins.len() > MAX_ORIGINS {
            return Err(VaultError::RestoreWidensOrigins);
        }
        Ok(origins)
    }

    fn new_expiry(
        &self,
        old: Option<Expiry>,
        later: &[StoredMetadata],
        now: SystemTime,
    ) -> Result<Option<Expiry>, VaultError> {
        let later = later
            .iter()
            .filter_map(|version| Expiry::from_seconds(version.expires_at));
        let earliest = old.into_iter().chain(later).min();
        let expiry = match self.expiry {
            RestoredExpiry::Kept if self.overrides.later_expiry => old,
            RestoredExpiry::Kept => earliest,
            RestoredExpiry::Never => None,
            RestoredExpiry::At(expiry) => Some(expiry),
        };
        let extends = earliest.is_some_and(|earliest| {
            earliest.has_passed(now) || expiry.is_none_or(|expiry| expiry > earliest)
        });
        if extends && !self.overrides.later_expiry {
            return Err(VaultError::RestoreExtendsExpiry);
        }
        check_expiry(expiry, now)?;
        Ok(expiry)
    }
}

fn parse_stored(origins: &[String]) -> Result<Vec<OriginPattern>, VaultError> {
    let parsed = origins.iter().map(|origin| OriginPattern::parse(origin));
    parsed
        .collect::<Result<_, _>>()
        .map_err(|_| VaultError::Corrupt(None))
}

impl Writer {
    /// Makes the value of a kept version the current one, under a new number.
    pub(crate) async fn restore_version(
        &self,
        permit: &WritePermit,
        restore: VersionRestore,
    ) -> Result<WrittenVersion, VaultError> {
        let name = restore.name.clone();
        self.write_version(permit, &name, move |write| prepare_restore(write, &restore))
            .await
    }
}

fn prepare_restore(write: VersionWrite<'_>, restore: &VersionRestore) -> Result<PreparedWrite, VaultError> {
    let secret = write.secret();
    let request = write.look_up(restore.request_id.as_ref(), |kek| restore.fingerprint(kek))?;
    let current = secret.existing()?;
    let request = match request {
        RequestLookup::Repeated(earlier) => {
            let made = current.kept_version(secret, earlier.version)?;
            // The restore has succeeded already, so a value that cannot be decrypted any more only costs the warnings.
            let facts = kek_of_record(write.keyring, &write.workspace, &made.record)
                .and_then(|kek| facts(&kek, secret, &made.record))
                .unwrap_or_default();
            return write.repeated(made.metadata, false, facts);
        }
        RequestLookup::New(request) => request,
    };
    check_version(current.version(), restore.expected_version)?;
    let old = current.kept_version(secret, restore.version)?;
    let later = current.versions_after(secret, restore.version)?;
    let old_kek = kek_of_record(write.keyring, &write.workspace, &old.record)?;
    let facts = facts(&old_kek, secret, &old.record)?;
    let next = write.next_version(Some(current))?;
    let terms = |terms| restore.terms(terms, &later, next.write.now);
    let restored = record::reencrypt(&old.record, &old_kek, &next.write.kek, &next.record_id(), terms)?;
    let value = NewValue {
        encrypted: restored.record,
        terms: restored.terms.as_terms(),
        labels: Labels::stored(old.metadata.labels),
        facts,
    };
    next.prepare(value, request)
}

/// Returns the KEK that wraps the DEK of a record: the active one, or a retired one when a rotation has not moved the
/// record yet.
fn kek_of_record(
    keyring: &Keyring,
    workspace: &StoredWorkspace,
    record: &[u8],
) -> Result<Arc<WorkspaceKek>, VaultError> {
    let retired = workspace.retired_kek(record::kek_id(record)?);
    keyring.open(&workspace.uid, retired.unwrap_or(&workspace.record.wrapped_kek))
}

/// Returns the facts about the value of a record. The value is wiped at once.
fn facts(kek: &WorkspaceKek, secret: SecretEntries<'_>, record: &[u8]) -> Result<ValueFacts, VaultError> {
    let decrypted = record::decrypt(kek, &secret.workspace.uid, secret.name, record)?;
    Ok(decrypted.value.facts())
}
