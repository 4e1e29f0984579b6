//! From names to values, at call time: every call asks the vault, and nothing of the answer is kept.

mod asking;
mod backoff;
mod condition;
mod keeper;
mod sealed;
mod stream;
mod waiting;

use std::{sync::Arc, time::Duration};

use prometheus_client::metrics::histogram::Histogram;
use proto::{
    CallId, OriginPattern, Reason, Refusal, SecretName, SecretValue, Uid, WorkspaceName,
    vault::v1::{DecryptStatus, DecryptedSecret, ValueFacts},
};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use crate::{
    inject::ResolvedSecret,
    registry::{Entry, server::Injection},
    status,
};
use asking::Asking;
pub use condition::{ConnectionFault, VaultCondition};
pub use sealed::Identities;
use sealed::Opened;
use stream::Stream;
pub use stream::VaultDriver;

/// A secret as the vault answered for it, and its value if it has one.
type OneAnswer = (DecryptedSecret, Option<Zeroizing<Vec<u8>>>);

/// Asks the vault. Clones share one stream to it.
#[derive(Clone)]
pub struct Resolver {
    stream: Stream,
    budget: Duration,
    /// Every secret of every server is required, whatever the servers say.
    requires_all: bool,
    /// Duration of each decrypt that a call waits for.
    seconds: Histogram,
}

/// What the vault says of one secret, without its value.
#[derive(Debug, Clone, PartialEq)]
pub enum SecretState {
    /// It exists.
    Found {
        /// In this version.
        version: u64,
        /// For these origins; empty means any.
        origins: Vec<OriginPattern>,
        /// The facts about its value; `None` from a vault that does not know them.
        facts: Option<ValueFacts>,
    },
    /// It does not.
    Missing,
    /// It does, but has expired.
    Expired,
    /// It does, but cannot be decrypted.
    Unreadable,
}

/// One name of an answer that was found to be what was asked.
enum Answered {
    Found {
        version: u64,
        origins: Vec<OriginPattern>,
        /// None when it was not asked for.
        value: Option<Zeroizing<Vec<u8>>>,
        facts: Option<ValueFacts>,
    },
    Missing,
    Expired,
    DataLoss,
    KeyNotLoaded,
}

impl Resolver {
    /// Asks by the link that comes with it, for at most `budget` each time. `seconds` gets the duration of each decrypt
    /// that a call waits for.
    pub fn new(ends: Identities, budget: Duration, seconds: Histogram) -> (Self, VaultDriver) {
        let (stream, link) = Stream::new(ends);
        let resolver = Self {
            stream,
            budget,
            requires_all: false,
            seconds,
        };
        (resolver, link)
    }

    /// Requires every secret of every server, whatever the servers say.
    #[must_use]
    pub fn requiring_all(self) -> Self {
        Self {
            requires_all: true,
            ..self
        }
    }

    /// Returns true when a call without this secret is refused.
    pub fn requires(&self, injection: &Injection) -> bool {
        injection.required || self.requires_all
    }

    /// Whether the vault can be asked now.
    pub fn is_connected(&self) -> bool {
        self.stream.is_connected()
    }

    /// Decrypts the secrets of a server for the call `call_id`, which has to end by `deadline`. A missing secret that
    /// is not required becomes a [`ResolvedSecret`] without a value; any other failure refuses the whole call.
    pub async fn resolve<'e>(
        &self,
        entry: &'e Arc<Entry>,
        call_id: &CallId,
        deadline: Option<Instant>,
    ) -> Result<Vec<ResolvedSecret<'e>>, Refusal> {
        let server = &entry.server;
        if server.spec.injections.is_empty() {
            return Ok(Vec::new());
        }
        let began = Instant::now();
        let answered = self.ask(entry, Some(call_id.clone()), deadline).await;
        self.seconds.observe(began.elapsed().as_secs_f64());
        let answered = answered?;
        let secrets = server.spec.injections.iter().zip(answered);
        secrets
            .map(|(injection, answered)| {
                let name = &injection.secret;
                let value = match answered {
                    Answered::Found { origins, value, .. } => {
                        server
                            .spec
                            .check_binding(&origins)
                            .map_err(|error| status::binding(name, &error, "nothing was sent"))?;
                        let value = value.and_then(|value| SecretValue::parse(value).ok());
                        Some(value.ok_or_else(|| not_what_was_asked("a value of an illegal size"))?)
                    }
                    Answered::Missing if self.requires(injection) => {
                        return Err(required_missing(name, "does not exist"));
                    }
                    Answered::Expired if self.requires(injection) => {
                        return Err(required_missing(name, "has expired"));
                    }
                    Answered::Missing | Answered::Expired => None,
                    Answered::DataLoss => return Err(unreadable(Reason::RecordCorrupt, name)),
                    Answered::KeyNotLoaded => return Err(unreadable(Reason::KeyNotLoaded, name)),
                };
                Ok(ResolvedSecret {
                    secret: name,
                    placement: &injection.placement,
                    value,
                })
            })
            .collect()
    }

    /// What a call would find, in the order of the server's injections. No value crosses the wire.
    pub async fn check(&self, entry: &Arc<Entry>) -> Result<Vec<SecretState>, Refusal> {
        let answered = self.ask(entry, None, None).await?;
        let state = |answered| match answered {
            Answered::Found {
                version,
                origins,
                value: _,
                facts,
            } => SecretState::Found {
                version,
                origins,
                facts,
            },
            Answered::Missing => SecretState::Missing,
            Answered::Expired => SecretState::Expired,
            Answered::DataLoss | Answered::KeyNotLoaded => SecretState::Unreadable,
        };
        Ok(answered.into_iter().map(state).collect())
    }

    /// The uid of a workspace that exists.
    pub async fn workspace_uid(&self, workspace: &WorkspaceName) -> Result<Uid, Refusal> {
        let opened = self.within(None, Asking::Workspace(workspace.clone())).await?;
        let (uid, _) = read(opened, std::iter::empty(), true)?;
        Ok(uid)
    }

    async fn ask(
        &self,
        entry: &Arc<Entry>,
        call_id: Option<CallId>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Answered>, Refusal> {
        let check_only = call_id.is_none();
        let asking = Asking::Secrets {
            entry: entry.clone(),
            call_id,
        };
        let opened = self.within(deadline, asking).await?;
        let (uid, answered) = read(opened, asking::names(entry), check_only)?;
        // The vault was told which one, but its word is not taken for it.
        if entry.pin(uid) != uid {
            return Err(not_what_was_asked("another workspace"));
        }
        Ok(answered)
    }

    async fn within(&self, deadline: Option<Instant>, asking: Asking) -> Result<Opened, Refusal> {
        let budget = Instant::now() + self.budget;
        let until = deadline.map_or(budget, |deadline| deadline.min(budget));
        match timeout_at(until, self.stream.ask(asking)).await {
            Ok(answer) => answer,
            Err(_) if self.is_connected() => Err(Refusal::new(
                Reason::DeadlineExceeded,
                "the vault did not answer in time; nothing was sent",
            )),
            Err(_) => Err(unavailable()),
        }
    }
}

/// Takes an answer apart, and refuses it unless it has exactly the names that were asked for, in that order.
fn read<'n>(
    opened: Opened,
    asked: impl Iterator<Item = &'n SecretName>,
    check_only: bool,
) -> Result<(Uid, Vec<Answered>), Refusal> {
    let opened = opened.take(check_only);
    let (uid, secrets) = opened.map_err(|_| not_what_was_asked("a status without its value"))?;
    let as_asked = secrets
        .iter()
        .map(|(secret, _)| secret.name.as_str())
        .eq(asked.map(SecretName::as_str));
    if !as_asked {
        return Err(not_what_was_asked("other names than asked for"));
    }
    let uid = parse_uid(&uid)?;
    let answered = secrets.into_iter().map(read_one).collect::<Result<_, _>>()?;
    Ok((uid, answered))
}

fn read_one((secret, value): OneAnswer) -> Result<Answered, Refusal> {
    let status = secret.status();
    let DecryptedSecret {
        name: _,
        status: _,
        version,
        value: _,
        upstream_origins,
        facts,
    } = secret;
    match status {
        DecryptStatus::Ok => {
            let origins = upstream_origins
                .iter()
                .map(|origin| OriginPattern::parse(origin))
                .collect::<Result<_, _>>();
            let origins = origins.map_err(|_| not_what_was_asked("an origin that is none"))?;
            Ok(Answered::Found {
                version,
                origins,
                value,
                facts,
            })
        }
        DecryptStatus::NotFound => Ok(Answered::Missing),
        DecryptStatus::Expired => Ok(Answered::Expired),
        DecryptStatus::DataLoss => Ok(Answered::DataLoss),
        DecryptStatus::KeyNotLoaded => Ok(Answered::KeyNotLoaded),
        DecryptStatus::Unspecified => Err(not_what_was_asked("a status that is none")),
    }
}

fn parse_uid(text: &str) -> Result<Uid, Refusal> {
    Uid::parse(text).map_err(|_| not_what_was_asked("no workspace uid"))
}

fn required_missing(name: &SecretName, why: &str) -> Refusal {
    let message = format!("secret {name}, which this server requires, {why}; nothing was sent");
    Refusal::new(Reason::SecretRequiredMissing, message)
}

fn unreadable(reason: Reason, name: &SecretName) -> Refusal {
    Refusal::new(
        reason,
        format!("the vault cannot decrypt secret {name}; nothing was sent"),
    )
}

fn not_what_was_asked(what: &str) -> Refusal {
    tracing::error!(what, "the vault's answer was not used");
    Refusal::new(
        Reason::VaultAnswerInvalid,
        "the vault's answer is not what was asked for; nothing was sent",
    )
}

fn unavailable() -> Refusal {
    Refusal::new(
        Reason::VaultUnavailable,
        "the vault cannot be reached; nothing was sent",
    )
}

#[cfg(test)]
mod tests;
