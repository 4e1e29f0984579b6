//! Putting a secret.

use proto::{OriginPattern, SecretName, SecretValue};

use super::{
    current::CurrentVersion,
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
        record::{self, Expiry, Terms},
    },
    vault::{VaultError, Writer, labels::Labels},
};

/// Maximum number of origins that a value may be bound to.
pub const MAX_ORIGINS: usize = 16;

pub struct NewSecret {
    pub name: SecretName,
    pub value: SecretValue,
    /// Origins that the value may be sent to, at most [`MAX_ORIGINS`]; empty means any origin.
    pub upstream_origins: Vec<OriginPattern>,
    pub labels: Labels,
    /// `None` means that the value never expires.
    pub expiry: Option<Expiry>,
    /// Number that the current version must have, 0 for no secret; `None` accepts any.
    pub expected_version: Option<u64>,
    /// The caller's id for this put, which makes a retry safe.
    pub request_id: Option<RequestId>,
}

impl NewSecret {
    /// Returns a fingerprint of all fields that distinguish one put from another.
    fn fingerprint(&self, kek: &WorkspaceKek) -> Fingerprint {
        let Self {
            name,
            value,
            upstream_origins,
            labels,
            expiry,
            expected_version,
            request_id: _,
        } = self;
        let mut print = Fingerprinter::new(kek)
            .field(b"put")
            .field(name.as_str().as_bytes())
            .value(value)
            .field(&expiry.map_or(0, Expiry::seconds).to_be_bytes())
            .field(&expected_version_field(*expected_version))
            .field(&(upstream_origins.len() as u64).to_be_bytes());
        for origin in upstream_origins {
            print = print.field(origin.as_str().as_bytes());
        }
        for (key, value) in labels.iter() {
            print = print.field(key.as_bytes()).field(value.as_bytes());
        }
        print.finish()
    }
}

impl Writer {
    pub async fn put_secret(
        &self,
        permit: &WritePermit,
        new: NewSecret,
    ) -> Result<WrittenVersion, VaultError> {
        let name = new.name.clone();
        self.write_version(permit, &name, move |write| prepare_put(write, &new))
            .await
    }
}

fn prepare_put(write: VersionWrite<'_>, new: &NewSecret) -> Result<PreparedWrite, VaultError> {
    let (labels, facts) = (new.labels.clone(), new.value.facts());
    let terms = Terms {
        origins: &new.upstream_origins,
        expiry: new.expiry,
    };
    let request = match write.look_up(new.request_id.as_ref(), |kek| new.fingerprint(kek))? {
        RequestLookup::Repeated(earlier) => {
            let created = earlier.created;
            return write.repeated(earlier.record_of_put(&terms, labels), created, facts);
        }
        RequestLookup::New(request) => request,
    };
    let current = write.secret().current()?;
    let version = current.as_ref().map_or(0, CurrentVersion::version);
    check_version(version, new.expected_version)?;
    check_expiry(new.expiry, write.now)?;
    let next = write.next_version(current)?;
    let value = NewValue {
        encrypted: record::encrypt(&next.write.kek, &next.record_id(), &terms, &new.value)?,
        terms,
        labels,
        facts,
    };
    next.prepare(value, request)
}
