//! The check behind `/startupz`: the vault can decrypt the secrets of every server.
//!
//! A startup probe that waits for the check keeps a program from starting before its calls can succeed. The vault checks the
//! injector's right to each secret and decrypts nothing for the injector (`check_only`).

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use chassis::readiness::ReadinessProblem;
use proto::{
    Reason, Refusal,
    injector::v1::{ExplainInjectionResponse, explained_secret::State},
};
use tokio::time;

use crate::{
    placement::NamedSecret,
    registry::{Entry, Registry},
    resolve::{Resolver, VaultCondition},
    service::explain,
};

/// Pause between two checks, of which the first failure ends each.
const INTERVAL: Duration = Duration::from_millis(500);

/// The result of the check. Clones share it.
#[derive(Clone)]
pub(crate) struct StartupCheck(Arc<ArcSwapOption<ReadinessProblem>>);

/// The access to the vault and to the servers that the check needs.
pub(crate) struct StartupContext {
    pub(crate) registry: Registry,
    pub(crate) resolver: Resolver,
    pub(crate) condition: VaultCondition,
}

/// The reason why the start is not complete.
#[derive(Debug, Clone, PartialEq, Eq)]
enum StartProblem {
    /// The vault cannot be used, which [`VaultCondition`] logs.
    Vault(ReadinessProblem),
    Server(String),
}

impl From<StartProblem> for ReadinessProblem {
    fn from(problem: StartProblem) -> Self {
        match problem {
            StartProblem::Vault(problem) => problem,
            StartProblem::Server(text) => Self {
                cause: "calls of a server would be refused",
                detail: Some(text),
            },
        }
    }
}

impl StartupCheck {
    pub(crate) fn new() -> Self {
        let problem = ReadinessProblem::from("no server was checked yet");
        Self(Arc::new(ArcSwapOption::from_pointee(problem)))
    }

    /// Returns the reason why the start is not complete. A start that was complete stays so.
    pub(crate) fn result(&self) -> Result<(), ReadinessProblem> {
        match self.0.load_full() {
            None => Ok(()),
            Some(problem) => Err(ReadinessProblem::clone(&problem)),
        }
    }

    /// Checks all servers of the registry, again and again, until a check finds no problem.
    pub(crate) async fn run(self, context: StartupContext) {
        let mut logged = None;
        while let Err(problem) = context.check_all().await {
            if let StartProblem::Server(text) = &problem
                && logged.as_ref() != Some(text)
            {
                tracing::warn!(problem = text, "the start is not complete");
                logged = Some(text.clone());
            }
            self.0.store(Some(Arc::new(problem.into())));
            time::sleep(INTERVAL).await;
        }
        self.0.store(None);
        tracing::info!("the start is complete: the vault decrypts the secrets of every server");
    }
}

impl StartupContext {
    async fn check_all(&self) -> Result<(), StartProblem> {
        if !self.resolver.is_connected() {
            return Err(StartProblem::Vault(self.condition.problem()));
        }
        for entry in self.registry.entries() {
            self.check(&entry).await?;
        }
        Ok(())
    }

    /// Returns the reason why calls of a server would be refused. The reason does not name secrets, because the programs on this
    /// machine can read it.
    async fn check(&self, entry: &Arc<Entry>) -> Result<(), StartProblem> {
        let of_server = |problem: &str| {
            let server = &entry.server;
            StartProblem::Server(format!("server {}/{}: {problem}", server.workspace, server.name))
        };
        let states = self.resolver.check_server(entry).await.map_err(|refusal| {
            let Refusal { reason, message } = refusal;
            match reason {
                Reason::VaultUnavailable => StartProblem::Vault(self.condition.problem()),
                _ => of_server(&message),
            }
        })?;
        let requires = |secret: &NamedSecret<'_>| self.resolver.requires(secret);
        let explained = explain(entry, &states, requires);
        match explained.would_forward {
            true => Ok(()),
            false => Err(of_server(&problem(&explained))),
        }
    }
}

/// Returns the states of the secrets for which calls are refused, in words.
fn problem(explained: &ExplainInjectionResponse) -> String {
    let mut problems: Vec<_> = explained
        .secrets
        .iter()
        .filter_map(|secret| match secret.state() {
            State::Missing if secret.required => Some("a required secret does not exist"),
            State::Expired if secret.required => Some("a required secret has expired"),
            State::OriginRefused => Some("a secret is bound to other origins"),
            State::UpstreamNotVerified => Some("a secret needs a server that TLS verifies"),
            State::Unfit => Some("a value does not fit its place"),
            State::Unreadable => Some("the vault cannot decrypt a secret"),
            State::Injected | State::Missing | State::Expired | State::Unspecified => None,
        })
        .collect();
    problems.dedup();
    format!("{} (`explain` names the secrets)", problems.join(", "))
}
