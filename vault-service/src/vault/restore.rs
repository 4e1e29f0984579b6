//! Making a kept version of a secret the current one.
//!
//! A restore must not be a way around what was decided since the version was put: that its value may go to fewer origins,
//! or that it ends earlier. All kept versions since are compared, not only the current one, since otherwise a put of
//! anything without origins would open the way. Versions are dropped oldest first, so none of those since is missing.

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
    authz::AdminPermit,
    crypto::{
        WorkspaceKek,
        fingerprint::{Fingerprint, Fingerprinter},
        record::{self, Expiry, OwnedTerms},
    },
};

/// Which version is restored.
pub struct Restore {
    /// Of which secret.
    pub name: SecretName,
    /// Its number.
    pub version: u64,
    /// When the new version is gone.
    pub expiry: NewExpiry,
    /// What the new version may have beyond what the versions since have.
    pub overrides: Overrides,
    /// The version that is to be replaced; any when it is not given.
    pub expected_version: Option<u64>,
    /// What the caller calls this restore, when it may be tried again.
    pub request_id: Option<RequestId>,
}

/// When a restored version is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewExpiry {
    /// When the old one is, or a version since if that is earlier.
    Kept,
    /// Never.
    Never,
    /// Then.
    At(Expiry),
}

/// What an administrator allows a restored version; by default nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overrides {
    /// All the origins that the old version had.
    pub wider_origins: bool,
    /// An expiry later than those of the old version and the versions since.
    pub later_expiry: bool,
}

impl Restore {
    /// Of all that makes one restore another than the next.
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

    /// The terms of the new version, from those of the old one and what is stored of the versions since.
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
        permit: &AdminPermit,
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
        let restored = record::restore(&old.record, &from, &kek, &successor.place(), terms)?;
        let labels = Labels::stored(old.metadata.labels);
        successor.write(restored.record, &restored.terms.as_terms(), labels, request, now)
    }

    /// The KEK that a record is under: the active one, or one that a rotation has not moved it away from yet.
    fn kek_of(&self, found: &Found, record: &[u8]) -> Result<Arc<WorkspaceKek>, VaultError> {
        let wrapped = found.retired(record::kek_id(record)?);
        self.keyring
            .open(&found.uid, wrapped.unwrap_or(&found.record.wrapped_kek))
    }
}
