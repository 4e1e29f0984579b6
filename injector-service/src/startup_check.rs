//! The check behind `/startupz`: the vault can decrypt the secrets of every server.
//!
//! A startup probe that waits for the check keeps a program from starting before its calls can succeed. The vault checks the
//! injector's right to each secret and decrypts nothing for the injector (`check_only`).

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use chassis::readiness::ReadinessProblem;
use proto::{
    Reason, Refusal,
    injector::v1::{ExplainInjectionResponse, ExplainedSecret, explained_secret::State},
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
    Server(ServerProblem),
}

/// The reason why calls of a server would be refused.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ServerProblem {
    /// The text for the probe. It does not name secrets, because the programs on this machine can read it.
    shown: String,
    /// The text for the log, which names the secrets.
    logged: String,
}

impl From<StartProblem> for ReadinessProblem {
    fn from(problem: StartProblem) -> Self {
        match problem {
            StartProblem::Vault(problem) => problem,
            StartProblem::Server(problem) => Self {
                cause: "calls of a server would be refused",
                detail: Some(problem.shown),
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
            if let StartProblem::Server(problem) = &problem
                && logged.as_ref() != Some(problem)
            {
                tracing::warn!(problem = problem.logged, "the start is not complete");
                logged = Some(problem.clone());
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

    async fn check(&self, entry: &Arc<Entry>) -> Result<(), StartProblem> {
        let (workspace, name) = (&entry.server.workspace, &entry.server.name);
        let of_server = |shown: &str, logged: &str| {
            let [shown, logged] = [shown, logged].map(|text| format!("server {workspace}/{name}: {text}"));
            StartProblem::Server(ServerProblem { shown, logged })
        };
        let states = self.resolver.check_server(entry).await.map_err(|refusal| {
            let Refusal { reason, message } = refusal;
            match reason {
                Reason::VaultUnavailable => StartProblem::Vault(self.condition.problem()),
                Reason::VaultRefused => {
                    let text = format!(
                        "{message}; when the role is missing, {}",
                        self.condition.needed_role(workspace.as_str())
                    );
                    of_server(&text, &text)
                }
                _ => of_server(&message, &message),
            }
        })?;
        let requires = |secret: &NamedSecret<'_>| self.resolver.requires(secret);
        let explained = explain(entry, &states, requires);
        match explained.would_forward {
            true => Ok(()),
            false => Err(of_server(&shown(&explained), &logged(&explained))),
        }
    }
}

/// Returns the secrets for which calls are refused, each with the reason.
fn refused(explained: &ExplainInjectionResponse) -> impl Iterator<Item = (&ExplainedSecret, &'static str)> {
    explained.secrets.iter().filter_map(|secret| {
        let reason = match secret.state() {
            State::Missing if secret.required => "a required secret does not exist",
            State::Expired if secret.required => "a required secret has expired",
            State::OriginRefused => "a secret is bound to other origins",
            State::UpstreamNotVerified => "a secret needs a server that TLS verifies",
            State::Unfit => "a value does not fit its place",
            State::Unreadable => "the vault cannot decrypt a secret",
            State::Injected | State::Missing | State::Expired | State::Unspecified => return None,
        };
        Some((secret, reason))
    })
}

fn shown(explained: &ExplainInjectionResponse) -> String {
    let mut reasons: Vec<_> = refused(explained).map(|(_, reason)| reason).collect();
    reasons.dedup();
    format!(
        "{} (the log of the injector names the secrets)",
        reasons.join(", ")
    )
}

fn logged(explained: &ExplainInjectionResponse) -> String {
    let secrets = refused(explained).map(|(secret, _)| format!("{}: {}", secret.name, secret.detail));
    secrets.collect::<Vec<_>>().join(", ")
}
