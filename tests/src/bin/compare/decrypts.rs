//! A load of `Decrypt` calls on the vault, in the ways in which an injector calls the vault.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use e2e::{
    Pki,
    pki::{Files, INJECTOR, VAULT},
};
use proto::{
    seal::{RecipientKey, stream_nonce},
    vault::v1::{
        DecryptCall, DecryptRequest, DecryptResponse, DecryptStatus, DecryptStreamRequest, Recipient,
        decrypt_answer::Outcome, decrypt_service_client::DecryptServiceClient,
    },
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::{
    Failure,
    measure::{Period, Window},
    paced::Pace,
    services::{Vault, WORKSPACE, secret_name, workspace_name},
};

/// Number of concurrent unary calls, each on its own connection.
pub(crate) const UNARY: u32 = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecryptMode {
    /// Each unary call decrypts one secret.
    Unary { sealed: bool },
    /// One stream with sealed answers has `at_once` unanswered calls at any time.
    Stream { at_once: u32 },
    /// Unary calls with sealed answers are evenly spread over each second.
    Paced { per_second: u32 },
}

#[derive(Clone)]
pub(crate) struct Decrypts {
    mode: DecryptMode,
    pki: Arc<Pki>,
    files: Files,
    address: std::net::SocketAddr,
    process: u32,
    secrets: u32,
    /// Number of secrets in each workspace, or `None` when all secrets are in one workspace.
    secrets_per_workspace: Option<u32>,
}

impl Decrypts {
    /// Creates a load that decrypts `secrets` secrets in turn.
    pub(crate) fn new(mode: DecryptMode, vault: &Vault, secrets: u32) -> Self {
        Self {
            mode,
            pki: vault.pki.clone(),
            files: vault.pki.principal(INJECTOR),
            address: vault.address,
            process: vault.process.id(),
            secrets,
            secrets_per_workspace: None,
        }
    }

    /// Spreads the secrets over workspaces with `each` secrets per workspace.
    pub(crate) fn spread_over_workspaces(self, each: u32) -> Self {
        Self {
            secrets_per_workspace: Some(each),
            ..self
        }
    }

    pub(crate) async fn measure(&self, seconds: u32) -> Result<Window, Failure> {
        // One call per connection completes the TLS handshake before the measurement begins.
        let mut clients = Vec::new();
        let connections = match self.mode {
            DecryptMode::Unary { .. } | DecryptMode::Paced { .. } => UNARY,
            DecryptMode::Stream { .. } => 1,
        };
        for _ in 0..connections {
            let mut client = DecryptServiceClient::new(self.channel());
            client.decrypt(self.request(0)).await?;
            clients.push(client);
        }
        let period = Period::after_warming_up(seconds);
        let mut calls = JoinSet::new();
        for (first, client) in (0..).zip(clients) {
            let this = self.clone();
            calls.spawn(async move {
                match this.mode {
                    DecryptMode::Unary { sealed } => this.unary(client, first, sealed, None, period).await,
                    DecryptMode::Paced { per_second } => {
                        let step = Duration::from_secs(1) / per_second;
                        let pace = Pace::new(step * first, step * UNARY);
                        this.unary(client, first, true, Some(pace), period).await
                    }
                    DecryptMode::Stream { at_once } => this.stream(client, at_once, period).await,
                }
            });
        }
        period.watch(&[self.process], calls).await
    }

    fn channel(&self) -> Channel {
        self.pki.channel(&self.files, self.address, VAULT)
    }

    /// Returns a request for one secret. The factor 7919 spreads consecutive numbers over all secrets.
    fn request(&self, number: u32) -> DecryptRequest {
        let spread = u64::from(number) * 7919 % u64::from(self.secrets);
        let spread = u32::try_from(spread).unwrap_or_default();
        let one = || WORKSPACE.to_owned();
        DecryptRequest {
            workspace: self
                .secrets_per_workspace
                .map_or_else(one, |each| workspace_name(spread, each)),
            server: "bench".to_owned(),
            names: vec![secret_name(spread)],
            ..Default::default()
        }
    }

    async fn unary(
        self,
        mut client: DecryptServiceClient<Channel>,
        first: u32,
        sealed: bool,
        mut pace: Option<Pace>,
        period: Period,
    ) -> Result<Vec<u64>, Failure> {
        let recipient = sealed.then(RecipientKey::generate).transpose()?;
        let recipient_key = recipient.map(|key| key.public()).unwrap_or_default();
        let mut latencies = Vec::new();
        for number in (first..).step_by(usize::try_from(UNARY)?) {
            let request = DecryptRequest {
                recipient_key: recipient_key.clone(),
                ..self.request(number)
            };
            if let Some(pace) = &mut pace {
                pace.next().await;
            }
            let began = Instant::now();
            let answer = client.decrypt(request).await?;
            if period.is_over(began, &mut latencies) {
                break;
            }
            has_value(answer.get_ref())?;
        }
        Ok(latencies)
    }

    /// Keeps `at_once` calls unanswered. The calls that one message answers are sent again in one message.
    async fn stream(
        self,
        mut client: DecryptServiceClient<Channel>,
        at_once: u32,
        period: Period,
    ) -> Result<Vec<u64>, Failure> {
        let (messages, outbound) = mpsc::channel(4);
        let mut answers = client
            .decrypt_stream(ReceiverStream::new(outbound))
            .await?
            .into_inner();
        let recipient = Recipient {
            epoch: 1,
            public_key: RecipientKey::generate()?.public(),
            stream_nonce: stream_nonce()?.to_vec(),
        };
        let mut number = 0;
        let mut call = |id| {
            number += 1;
            DecryptCall {
                id,
                request: Some(self.request(number)),
            }
        };
        let mut began: Vec<Instant> = (0..at_once).map(|_| Instant::now()).collect();
        let first = DecryptStreamRequest {
            calls: (0..u64::from(at_once)).map(&mut call).collect(),
            recipient: Some(recipient),
        };
        messages.send(first).await?;
        let mut latencies = Vec::new();
        while let Some(message) = answers.message().await? {
            let mut calls = Vec::with_capacity(message.answers.len());
            for answer in message.answers {
                let Some(Outcome::Response(response)) = &answer.outcome else {
                    return Err(format!("the vault answered {answer:?}").into());
                };
                has_value(response)?;
                let slot = began.get_mut(usize::try_from(answer.id)?);
                let asked = slot.ok_or("an answer to a question that was not asked")?;
                if period.is_over(*asked, &mut latencies) {
                    return Ok(latencies);
                }
                *asked = Instant::now();
                calls.push(call(answer.id));
            }
            messages
                .send(DecryptStreamRequest {
                    calls,
                    recipient: None,
                })
                .await?;
        }
        Err("the vault ended the stream".into())
    }
}

fn has_value(response: &DecryptResponse) -> Result<(), Failure> {
    let found = response.secrets.iter().all(|secret| {
        secret.status() == DecryptStatus::Ok && (!secret.value.is_empty() || !response.sealed.is_empty())
    });
    if found && !response.secrets.is_empty() {
        Ok(())
    } else {
        Err("the vault answered without a value".into())
    }
}
