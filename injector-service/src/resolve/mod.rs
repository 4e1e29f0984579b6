//! Secrets of a server, which the vault decrypts for each call. The injector keeps nothing of an answer.
//!
//! A request takes this way: [`Resolver::resolve`] makes a `VaultRequest`, the `StreamHandle` queues it, the
//! `StreamDriver` sends it in a batch and opens the answer with the `SealKeys`, and `answer::parse` checks that the answer
//! is the one for the request.

mod answer;
mod backoff;
mod condition;
mod credentials;
mod driver;
mod link;
mod pending;
mod request;
mod seal_keys;
mod stream;
mod vault_refusal;

use std::{sync::Arc, time::Duration};

use prometheus_client::metrics::histogram::Histogram;
use proto::{
    CallId, OriginPattern, Reason, Refusal, SecretName, SecretValue, Uid, WorkspaceName,
    vault::v1::ValueFacts,
};
use tokio::time::{Instant, timeout_at};

use crate::{
    inject::{ResolvedSecret, ResolvedSecrets},
    placement::NamedSecret,
    registry::{Entry, server::Spec},
    status,
};
use answer::{SecretAnswer, not_what_was_asked};
use request::VaultRequest;
use seal_keys::OpenedAnswer;
use stream::StreamHandle;

pub(crate) use condition::{ConnectionFault, VaultCondition};
pub(crate) use credentials::{InjectorIdentity, VaultCredentials};
pub(crate) use link::VaultLink;
pub(crate) use stream::VaultDriver;

/// Asks the vault for secrets. Clones share one stream to the vault.
#[derive(Clone)]
pub(crate) struct Resolver {
    stream: StreamHandle,
    /// Time limit for each request (`--vault-timeout`).
    timeout: Duration,
    /// Every secret of every server is required (`--require-all-secrets`).
    requires_all: bool,
    /// Durations of the decrypts that calls wait for.
    seconds: Histogram,
}

/// The state of one secret in the vault, without its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SecretState {
    Found {
        version: u64,
        /// Origins that the value may be sent to. Empty means any.
        origins: Vec<OriginPattern>,
        facts: Option<ValueFacts>,
    },
    Missing,
    Expired,
    /// The vault has a record that it cannot decrypt.
    Unreadable,
}

impl Resolver {
    /// Returns a resolver, and the driver that has to run for the resolver to get answers.
    pub(crate) fn new(timeout: Duration, requires_all: bool, seconds: Histogram) -> (Self, VaultDriver) {
        let (stream, driver) = stream::new();
        let resolver = Self {
            stream,
            timeout,
            requires_all,
            seconds,
        };
        (resolver, driver)
    }

    /// Returns true when a call without this secret is refused.
    pub(crate) fn requires(&self, secret: &NamedSecret<'_>) -> bool {
        secret.required || self.requires_all
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.stream.is_connected()
    }

    /// Decrypts `secrets` for the call `call_id` of a server, which has to end by `deadline`. A missing secret that is
    /// not required becomes a [`ResolvedSecret`] without a value; any other failure refuses the whole call.
    pub(crate) async fn resolve<'s>(
        &self,
        entry: &Arc<Entry>,
        secrets: &[NamedSecret<'s>],
        call_id: &CallId,
        deadline: Option<Instant>,
    ) -> Result<ResolvedSecrets<'s>, Refusal> {
        if secrets.is_empty() {
            return Ok(ResolvedSecrets::default());
        }
        let began = Instant::now();
        let answers = self
            .ask_for_secrets(entry, secrets, Some(call_id.clone()), deadline)
            .await;
        self.seconds.observe(began.elapsed().as_secs_f64());
        let answers = answers.map_err(nothing_was_sent)?;
        self.check_required(secrets, &answers)?;
        let secrets = secrets.iter().zip(answers);
        secrets
            .map(|(secret, answer)| {
                Ok(ResolvedSecret {
                    name: secret.name,
                    value: value(&entry.server.spec, secret.name, answer)?,
                })
            })
            .collect()
    }

    /// Refuses a call that lacks secrets which it needs, and names all of them.
    fn check_required(&self, secrets: &[NamedSecret<'_>], answers: &[SecretAnswer]) -> Result<(), Refusal> {
        let missing: Vec<_> = secrets
            .iter()
            .zip(answers)
            .filter(|(secret, _)| self.requires(secret))
            .filter_map(|(secret, answer)| match answer {
                SecretAnswer::Missing => Some(format!("{} does not exist", secret.name)),
                SecretAnswer::Expired => Some(format!("{} has expired", secret.name)),
                SecretAnswer::Found { .. } | SecretAnswer::DataLoss | SecretAnswer::KeyNotLoaded => None,
            })
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let message = format!(
            "this server requires secrets that are missing: {}; nothing was sent",
            missing.join(", ")
        );
        Err(Refusal::new(Reason::SecretRequiredMissing, message))
    }

    /// Returns the state of each of `secrets`, in their order. The vault sends no value.
    pub(crate) async fn check(
        &self,
        entry: &Arc<Entry>,
        secrets: &[NamedSecret<'_>],
    ) -> Result<Vec<SecretState>, Refusal> {
        let answers = self.ask_for_secrets(entry, secrets, None, None).await?;
        let state = |answer| match answer {
            SecretAnswer::Found {
                version,
                origins,
                value: _,
                facts,
            } => SecretState::Found {
                version,
                origins,
                facts,
            },
            SecretAnswer::Missing => SecretState::Missing,
            SecretAnswer::Expired => SecretState::Expired,
            SecretAnswer::DataLoss | SecretAnswer::KeyNotLoaded => SecretState::Unreadable,
        };
        Ok(answers.into_iter().map(state).collect())
    }

    /// Returns the state of each secret in [`Spec::secrets_and_certificate`], in their order.
    pub(crate) async fn check_server(&self, entry: &Arc<Entry>) -> Result<Vec<SecretState>, Refusal> {
        let spec = &entry.server.spec;
        let mut states = self.check(entry, &spec.secrets()).await?;
        if let Some(certificate) = spec.client_certificate() {
            states.extend(self.check(entry, &[certificate]).await?);
        }
        Ok(states)
    }

    /// Returns the uid of a workspace, which has to exist.
    pub(crate) async fn workspace_uid(&self, workspace: &WorkspaceName) -> Result<Uid, Refusal> {
        let request = VaultRequest::Workspace(workspace.clone());
        let opened = self.ask(request, None).await?;
        let (uid, _) = answer::parse(opened, std::iter::empty(), true)?;
        Ok(uid)
    }

    async fn ask_for_secrets(
        &self,
        entry: &Arc<Entry>,
        secrets: &[NamedSecret<'_>],
        call_id: Option<CallId>,
        deadline: Option<Instant>,
    ) -> Result<Vec<SecretAnswer>, Refusal> {
        let check_only = call_id.is_none();
        let request = VaultRequest::Secrets {
            entry: entry.clone(),
            names: secrets.iter().map(|secret| secret.name.to_string()).collect(),
            call_id,
        };
        let opened = self.ask(request, deadline).await?;
        let names = secrets.iter().map(|secret| secret.name);
        let (uid, answers) = answer::parse(opened, names, check_only)?;
        // The vault should answer for the workspace whose uid the request names. The injector verifies the uid in the answer.
        if entry.pin(uid) != uid {
            return Err(not_what_was_asked("another workspace"));
        }
        Ok(answers)
    }

    async fn ask(&self, request: VaultRequest, deadline: Option<Instant>) -> Result<OpenedAnswer, Refusal> {
        let timeout = Instant::now() + self.timeout;
        let until = deadline.map_or(timeout, |deadline| deadline.min(timeout));
        match timeout_at(until, self.stream.ask(request)).await {
            Ok(answer) => answer,
            Err(_) if self.is_connected() => Err(Refusal::new(
                Reason::DeadlineExceeded,
                "the vault did not answer in time",
            )),
            Err(_) => Err(Refusal::new(
                Reason::VaultUnavailable,
                "the vault cannot be reached",
            )),
        }
    }
}

/// Adds to a refusal of the vault that the call has not reached its upstream. Only calls have an upstream: the
/// administration API asks the vault too.
fn nothing_was_sent(Refusal { reason, message }: Refusal) -> Refusal {
    Refusal::new(reason, format!("{message}; nothing was sent"))
}

/// Returns the value of a secret, or `None` when the call goes out without it.
fn value(spec: &Spec, name: &SecretName, answer: SecretAnswer) -> Result<Option<SecretValue>, Refusal> {
    match answer {
        SecretAnswer::Found { origins, value, .. } => {
            spec.check_binding(&origins)
                .map_err(|error| status::binding(name, &error, "nothing was sent"))?;
            let value = value.and_then(|value| SecretValue::parse(value).ok());
            let value = value.ok_or_else(|| not_what_was_asked("a value of an illegal size"))?;
            Ok(Some(value))
        }
        SecretAnswer::Missing | SecretAnswer::Expired => Ok(None),
        SecretAnswer::DataLoss => Err(unreadable(Reason::RecordCorrupt, name)),
        SecretAnswer::KeyNotLoaded => Err(unreadable(Reason::KeyNotLoaded, name)),
    }
}

fn unreadable(reason: Reason, name: &SecretName) -> Refusal {
    Refusal::new(
        reason,
        format!("the vault cannot decrypt secret {name}; nothing was sent"),
    )
}

#[cfg(test)]
pub(crate) mod tests;
