//! Puts a value: the request, the retry after a concurrent change, and the notes on the result.

use std::collections::BTreeMap;

use prost_types::Timestamp;
use proto::{
    Reason, SecretName,
    secret_value::MAX_SIZE,
    vault::v1::{self as api, GetSecretMetadataRequest, PutSecretRequest, PutSecretResponse},
};
use serde::Serialize;
use zeroize::Zeroizing;

use super::args::client;
use crate::{
    connect::Remote,
    failure::{Failure, FailureKind},
    model::{Secret, Warning},
    value::{Edits, flags_for_header, to_wire},
};

/// Attempts of a put when other writers change the secret at the same time.
const MAX_ATTEMPTS: usize = 5;

/// The arguments of a command that apply to every secret that it sets.
pub(super) struct PutOptions {
    pub(super) workspace: String,
    /// `None` keeps the origins of a secret that is replaced.
    pub(super) origins: Option<Vec<String>>,
    /// `None` keeps the labels of a secret that is replaced.
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) expected_version: Option<u64>,
    pub(super) edits: Edits,
}

#[derive(Serialize)]
pub(super) struct PutResult {
    pub(super) secret: Secret,
    pub(super) created: bool,
    warnings: Vec<Warning>,
    #[serde(skip)]
    pub(super) notes: Vec<String>,
}

impl PutOptions {
    pub(super) async fn put(
        &self,
        vault: &Remote,
        name: &SecretName,
        value: Zeroizing<Vec<u8>>,
    ) -> Result<PutResult, Failure> {
        let value = self.edits.apply(name.as_str(), value)?;
        // The command reads no more of a longer value, so the vault could not name its size.
        if value.len() > MAX_SIZE {
            let message = format!("the value of {name} has more than {MAX_SIZE} bytes");
            return Err(Failure::new(FailureKind::Usage, message));
        }
        let read = async || self.current(vault, name).await;
        let put = async |request| vault.answer(client(vault).put_secret(request)).await;
        let (before, answer) = self.read_and_put(name, &value, read, put).await?;
        Ok(self.result(&value, &before, answer))
    }

    /// Reads the current secret, and puts a request that keeps its origins and labels. Both steps are retried when
    /// another writer changes the secret in between: the vault refuses such a put, because the request names the version
    /// that was read.
    async fn read_and_put(
        &self,
        name: &SecretName,
        value: &[u8],
        mut read: impl AsyncFnMut() -> Result<api::Secret, Failure>,
        mut put: impl AsyncFnMut(PutSecretRequest) -> Result<PutSecretResponse, Failure>,
    ) -> Result<(api::Secret, PutSecretResponse), Failure> {
        let mut attempts = 1;
        loop {
            let before = match self.keeps_metadata() {
                true => read().await?,
                false => api::Secret::default(),
            };
            match put(self.request(name, value, &before)).await {
                Err(failure) if self.may_retry(&failure) && attempts < MAX_ATTEMPTS => attempts += 1,
                answer => return Ok((before, answer?)),
            }
        }
    }

    fn keeps_metadata(&self) -> bool {
        self.origins.is_none() || self.labels.is_none()
    }

    fn may_retry(&self, failure: &Failure) -> bool {
        let is_conflict = matches!(failure.reason, Some(Reason::VersionMismatch | Reason::Conflict));
        is_conflict && self.keeps_metadata() && self.expected_version.is_none()
    }

    fn request(&self, name: &SecretName, value: &[u8], before: &api::Secret) -> PutSecretRequest {
        let read_version = self.keeps_metadata().then_some(before.version);
        PutSecretRequest {
            workspace: self.workspace.clone(),
            name: name.as_str().to_owned(),
            value: Some(to_wire(value)),
            upstream_origins: self.origins.as_ref().unwrap_or(&before.upstream_origins).clone(),
            labels: self.labels.as_ref().unwrap_or(&before.labels).clone(),
            expires_at: self.expires_at,
            expected_version: self.expected_version.or(read_version),
            // Without an id: no request is sent twice.
            request_id: String::new(),
        }
    }

    /// Returns the metadata of the current secret. A secret that does not exist has version 0 and nothing else.
    async fn current(&self, vault: &Remote, name: &SecretName) -> Result<api::Secret, Failure> {
        let request = GetSecretMetadataRequest {
            workspace: self.workspace.clone(),
            name: name.as_str().to_owned(),
        };
        match vault.answer(client(vault).get_secret_metadata(request)).await {
            Ok(answer) => Ok(answer.secret.unwrap_or_default()),
            // Also returned when the workspace does not exist. The put then fails with the right message.
            Err(failure) if failure.kind == FailureKind::NotFound => Ok(api::Secret::default()),
            Err(failure) => Err(failure),
        }
    }

    fn result(&self, value: &[u8], before: &api::Secret, answer: PutSecretResponse) -> PutResult {
        let secret = Secret::of(answer.secret.unwrap_or_default());
        let warnings: Vec<_> = answer.warnings.into_iter().map(Warning::of).collect();
        let mut notes: Vec<_> = warnings.iter().map(Warning::note).collect();
        if let (false, Some(flags)) = (warnings.is_empty(), flags_for_header(value)) {
            notes.push(format!("The value would fit when it is set with {flags}"));
        }
        if before.expires_at.is_some() && self.expires_at.is_none() {
            notes.push(
                "The secret does not expire any more; set it with --expires-in DURATION to make it expire"
                    .to_owned(),
            );
        }
        let keeps_origins = self.origins.is_none() && !before.upstream_origins.is_empty();
        match secret.upstream_origins.as_slice() {
            [] => notes.push(
                "Whoever may edit servers can have the value sent anywhere: limit its origins with --only-to ORIGIN, such as \
                 --only-to https://api.github.com"
                    .to_owned(),
            ),
            origins if keeps_origins => notes.push(format!("The secret stays bound to {}", origins.join(", "))),
            _ => {}
        }
        PutResult {
            secret,
            created: answer.created,
            warnings,
            notes,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// The metadata of one secret, which `put` replaces unless the expected version is another one.
    struct FakeVault(RefCell<api::Secret>);

    impl FakeVault {
        fn put(&self, request: PutSecretRequest) -> Result<PutSecretResponse, Failure> {
            let mut secret = self.0.borrow_mut();
            if request
                .expected_version
                .is_some_and(|version| version != secret.version)
            {
                return Err(Failure {
                    reason: Some(Reason::VersionMismatch),
                    ..Failure::new(FailureKind::Conflict, "another version")
                });
            }
            secret.version += 1;
            secret.upstream_origins = request.upstream_origins;
            Ok(PutSecretResponse {
                secret: Some(secret.clone()),
                ..Default::default()
            })
        }

        /// Changes the origins as another administrator with `--only-to`.
        fn bind_to(&self, origin: &str) {
            let mut secret = self.0.borrow_mut();
            secret.version += 1;
            secret.upstream_origins = vec![origin.to_owned()];
        }

        fn origins(&self) -> Vec<String> {
            self.0.borrow().upstream_origins.clone()
        }
    }

    fn options() -> PutOptions {
        PutOptions {
            workspace: "w".to_owned(),
            origins: None,
            labels: None,
            expires_at: None,
            expected_version: None,
            edits: Edits::default(),
        }
    }

    /// Sets a secret while another administrator changes its origins after each of the first `changes` reads.
    async fn set_during_changes(options: &PutOptions, changes: usize) -> (Result<(), Failure>, Vec<String>) {
        let vault = FakeVault(RefCell::default());
        vault.bind_to("https://first.example");
        let mut changes = 1..=changes;
        let read = async || {
            let current = vault.0.borrow().clone();
            if let Some(number) = changes.next() {
                vault.bind_to(&format!("https://change-{number}.example"));
            }
            Ok(current)
        };
        let name = SecretName::parse("A").unwrap();
        let put = options.read_and_put(&name, b"x", read, async |request| vault.put(request));
        (put.await.map(drop), vault.origins())
    }

    #[tokio::test]
    async fn a_concurrent_change_of_the_origins_is_not_undone() {
        let (set, origins) = set_during_changes(&options(), 2).await;
        set.unwrap();
        assert_eq!(origins, ["https://change-2.example"]);
    }

    #[tokio::test]
    async fn changes_that_do_not_stop_are_reported_as_a_conflict() {
        let (set, origins) = set_during_changes(&options(), usize::MAX).await;
        assert_eq!(set.unwrap_err().kind, FailureKind::Conflict);
        assert_eq!(origins, [format!("https://change-{MAX_ATTEMPTS}.example")]);
    }

    #[tokio::test]
    async fn a_refusal_that_is_no_concurrent_change_is_not_retried() {
        for (reason, attempts) in [
            (Reason::VersionMismatch, MAX_ATTEMPTS),
            (Reason::Conflict, MAX_ATTEMPTS),
            (Reason::RequestIdReused, 1),
            (Reason::OutcomeUnknown, 1),
            (Reason::Overloaded, 1),
        ] {
            let mut puts = 0;
            let put = async |_| {
                puts += 1;
                Err(Failure {
                    reason: Some(reason),
                    ..Failure::new(FailureKind::Conflict, "refused")
                })
            };
            let read = async || Ok(api::Secret::default());
            let name = SecretName::parse("A").unwrap();
            let set = options().read_and_put(&name, b"x", read, put).await;
            assert_eq!(set.unwrap_err().reason, Some(reason));
            assert_eq!(puts, attempts, "{reason:?}");
        }
    }

    #[tokio::test]
    async fn an_expected_version_of_the_user_is_tried_once() {
        let options = PutOptions {
            expected_version: Some(1),
            ..options()
        };
        let (set, origins) = set_during_changes(&options, usize::MAX).await;
        assert_eq!(set.unwrap_err().kind, FailureKind::Conflict);
        assert_eq!(origins, ["https://change-1.example"]);
    }
}
