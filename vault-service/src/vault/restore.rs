//! Making a kept version of a secret the current one.
//!
//! A restore must not bypass a decision that was made after the version was put: that the value may go to fewer
//! origins, or that it expires earlier. So a restore compares all later versions that are kept, not only the current
//! one; otherwise a put of any value without origins would lift the restriction. The vault drops the oldest versions
//! first, so none of the later versions is missing.

use std::{sync::Arc, time::SystemTime};

use proto::{OriginPattern, SecretName, origin};

use super::{
    VaultError, Writer,
    labels::Labels,
    requests::{Before, RequestId},
    secrets::{Author, MAX_ORIGINS, Prepared, Put, SecretMetadata, check_expiry, check_version, expected},
    stored::SecretRecord,
    versions::{Current, Successor},
    workspaces::{self, Found},
};
use crate::{
    authz::WritePermit,
    crypto::{
        WorkspaceKek,
        fingerprint::{Fingerprint, Fingerprinter},
        record::{self, Expiry, OwnedTerms},
    },
};

/// A request to restore a version of a secret.
pub struct Restore {
    /// Name of the secret.
    pub name: SecretName,
    /// Number of the version to restore.
    pub version: u64,
    /// Expiry of the new version.
    pub expiry: NewExpiry,
    /// Limits of the later versions that the new version may exceed.
    pub overrides: Overrides,
    /// Number that the current version must have; `None` accepts any.
    pub expected_version: Option<u64>,
    /// The caller's id for this restore, which makes a retry safe.
    pub request_id: Option<RequestId>,
}

/// Expiry of a restored version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewExpiry {
    /// The earliest expiry among the old version and the later versions.
    Kept,
    /// The restored version never expires.
    Never,
    /// The restored version expires at this time.
    At(Expiry),
}

/// Exceptions that an administrator allows for a restored version; the default allows none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Allows all origins of the old version.
    pub wider_origins: bool,
    /// Allows an expiry later than those of the old version and the later versions.
    pub later_expiry: bool,
}

impl Restore {
    /// Returns a fingerprint of all fields that distinguish one restore from another.
    fn fingerprint(&self, kek: &WorkspaceKek) -> Fingerprint {
        let Self {
            name,
            version,
            expiry,
            overrides: Overrides {
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
            .field(&expected(*expected_version));
        match expiry {
            NewExpiry::Kept => print.field(b"kept"),
            NewExpiry::Never => print.field(b"never"),
            NewExpiry::At(expiry) => print.field(b"at").field(&expiry.seconds().to_be_bytes()),
        }
        .finish()
    }

    /// Computes the terms of the new version from the terms of the old version and the descriptions of the later
    /// versions.
    fn terms(
        &self,
        had: OwnedTerms,
        since: &[SecretRecord],
        now: SystemTime,
    ) -> Result<OwnedTerms, VaultError> {
        Ok(OwnedTerms {
            expiry: self.new_expiry(had.expiry, since, now)?,
            origins: self.origins(had.origins, since)?,
        })
    }

    fn origins(
        &self,
        had: Vec<OriginPattern>,
        since: &[SecretRecord],
    ) -> Result<Vec<OriginPattern>, VaultError> {
        if self.overrides.wider_origins {
            return Ok(had);
        }
        let mut origins = had;
        for later in since {
            origins = origin::common(&origins, &parsed(&later.upstream_origins)?)
                .ok_or(VaultError::RestoreWidensOrigins)?;
        }
        if origins.len() > MAX_ORIGINS {
            return Err(VaultError::RestoreWidensOrigins);
        }
        Ok(origins)
    }

    fn new_expiry(
        &self,
        had: Option<Expiry>,
        since: &[SecretRecord],
        now: SystemTime,
    ) -> Result<Option<Expiry>, VaultError> {
        let later = since
            .iter()
            .filter_map(|later| Expiry::from_seconds(later.expires_at));
        let latest = had.into_iter().chain(later).min();
        let expiry = match self.expiry {
            NewExpiry::Kept if self.overrides.later_expiry => had,
            NewExpiry::Kept => latest,
            NewExpiry::Never => None,
            NewExpiry::At(expiry) => Some(expiry),
        };
        let extends = latest
            .is_some_and(|latest| latest.has_passed(now) || expiry.is_none_or(|expiry| expiry > latest));
        if extends && !self.overrides.later_expiry {
            return Err(VaultError::RestoreExtendsExpiry);
        }
        check_expiry(expiry, now)?;
        Ok(expiry)
    }
}

fn parsed(origins: &[String]) -> Result<Vec<OriginPattern>, VaultError> {
    let parsed = origins.iter().map(|origin| OriginPattern::parse(origin));
    parsed
        .collect::<Result<_, _>>()
        .map_err(|_| VaultError::Corrupt(None))
}

impl Writer {
    /// Makes the value of a kept version the current one, under a new number.
    pub async fn restore_version(
        &self,
        permit: &WritePermit,
        restore: Restore,
    ) -> Result<SecretMetadata, VaultError> {
        let (author, name) = (Author::of(permit), restore.name.clone());
        let put = self
            .make_version(permit, &name, move |writer| {
                writer.prepare_restore(&author, &restore)
            })
            .await?;
        Ok(put.secret)
    }

    fn prepare_restore(&self, author: &Author, restore: &Restore) -> Result<Prepared, VaultError> {
        let (store, now) = (&self.store, (self.clock)());
        let found = workspaces::find(store, &author.workspace)?;
        let kek = self.keyring.open(&found.uid, &found.record.wrapped_kek)?;
        let request = restore
            .request_id
            .as_ref()
            .map(|id| (id, restore.fingerprint(&kek)));
        let name = &restore.name;
        let before = Before::of(store, &found, author, request, now)?;
        let Some(current) = Current::read(store, &found, name)? else {
            return Err(VaultError::NoSecret(found.name, name.clone()));
        };
        let request = match before {
            Before::Done(done) => {
                let made = current.kept(store, &found, name, done.version)?;
                let secret = SecretMetadata::new(&found.name, name, made.metadata, now)?;
                let put = Put {
                    secret,
                    created: false,
                };
                return Ok(Prepared::Answered(put));
            }
            Before::New(request) => request,
        };
        check_version(current.version(), restore.expected_version)?;
        let old = current.kept(store, &found, name, restore.version)?;
        let since = current.since(store, &found, name, restore.version)?;
        let successor = Successor::of(store, &found, name, Some(current))?;
        let from = self.kek_of(&found, &old.record)?;
        let terms = |had| restore.terms(had, &since, now);
        let restored = record::reencrypt(&old.record, &from, &kek, &successor.place(), terms)?;
        let labels = Labels::stored(old.metadata.labels);
        successor.write(restored.record, &restored.terms.as_terms(), labels, request, now)
    }

    /// Returns the KEK that a record is under: the active one, or a retired one when a rotation has not moved the
    /// record yet.
    fn kek_of(&self, found: &Found, record: &[u8]) -> Result<Arc<WorkspaceKek>, VaultError> {
        let wrapped = found.retired(record::kek_id(record)?);
        self.keyring
            .open(&found.uid, wrapped.unwrap_or(&found.record.wrapped_kek))
    }
}
