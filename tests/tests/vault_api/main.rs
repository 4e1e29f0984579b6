//! Tests of the vault's API over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod backups;
mod conditions;
mod decrypting;
mod expiry;
mod keys;
mod kms;
mod names;
mod older_versions;
mod restart;
mod sealing;
mod serving;
mod values;
mod versions;
#[path = "../wire/mod.rs"]
mod wire;
mod workspaces;
mod write_only;

use std::{collections::BTreeSet, fmt::Debug, fs, path::Path, time::Duration};

use bytes::Bytes;
use e2e::{Injector, Pki, Vault, eventually, pki, raw};
use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use prost_reflect::DescriptorPool;
use prost_types::FieldMask;
use proto::{
    WarningKind,
    injector::v1 as injector_api,
    vault::v1::{
        CreateWorkspaceRequest, DecryptAnswer, DecryptCall, DecryptRequest, DecryptResponse, DecryptStatus,
        DecryptStreamRequest, DecryptedSecret, DeleteSecretRequest, DeleteWorkspaceRequest,
        GetSecretMetadataRequest, GetWorkspaceRequest, ListSecretsRequest, ListSecretsResponse,
        ListWorkspacesRequest, Plan, PutSecretRequest, PutSecretResponse, Secret, UpdateWorkspaceRequest,
        ValueFacts, Workspace, decrypt_answer::Outcome, put_secret_request::Value,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

const MIB: usize = 1024 * 1024;
const LARGEST: usize = 64 * 1024;

fn named(workspace: &str, name: &str) -> PutSecretRequest {
    put(workspace, name, "value")
}

fn put(workspace: &str, name: &str, value: impl Into<Vec<u8>>) -> PutSecretRequest {
    PutSecretRequest {
        workspace: workspace.to_owned(),
        name: name.to_owned(),
        value: Some(Value::Data(value.into())),
        ..Default::default()
    }
}

fn ask<S: ToString>(workspace: &str, names: impl IntoIterator<Item = S>) -> DecryptRequest {
    DecryptRequest {
        workspace: workspace.to_owned(),
        names: names.into_iter().map(|name| name.to_string()).collect(),
        ..Default::default()
    }
}

fn create(name: &str, plan: Plan) -> CreateWorkspaceRequest {
    CreateWorkspaceRequest {
        workspace: Some(Workspace {
            name: name.to_owned(),
            plan: plan.into(),
            ..Default::default()
        }),
    }
}

fn update(workspace: Workspace, paths: &[&str]) -> UpdateWorkspaceRequest {
    let paths = paths.iter().map(|&path| path.to_owned()).collect();
    UpdateWorkspaceRequest {
        workspace: Some(workspace),
        update_mask: Some(FieldMask { paths }),
    }
}

fn delete(name: &str, force: bool) -> DeleteWorkspaceRequest {
    DeleteWorkspaceRequest {
        name: name.to_owned(),
        force,
        revision: 0,
    }
}

/// Asserts that the call was refused with this code, and with this reason in its `ErrorInfo`. Returns the status.
fn refused<T: Debug>(answer: Result<T, Status>, code: Code, reason: &str) -> Status {
    let status = answer.expect_err(reason);
    let (found, domain) = status
        .get_details_error_info()
        .map(|info| (info.reason, info.domain))
        .unwrap_or_default();
    assert_eq!((status.code(), found.as_str()), (code, reason), "{status:?}");
    assert_eq!(domain, "aerostack");
    status
}

async fn try_put(vault: &Vault, request: PutSecretRequest) -> Result<PutSecretResponse, Status> {
    vault
        .secrets()
        .put_secret(request)
        .await
        .map(tonic::Response::into_inner)
}

async fn list(
    vault: &Vault,
    workspace: &str,
    page_size: u32,
    page_token: &str,
) -> Result<ListSecretsResponse, Status> {
    let (workspace, page_token) = (workspace.to_owned(), page_token.to_owned());
    let request = ListSecretsRequest {
        workspace,
        page_size,
        page_token,
    };
    vault
        .secrets()
        .list_secrets(request)
        .await
        .map(tonic::Response::into_inner)
}

/// Returns the metadata of a secret of the workspace `w`.
async fn metadata(vault: &Vault, name: &str) -> Secret {
    let request = GetSecretMetadataRequest {
        workspace: "w".into(),
        name: name.into(),
    };
    let answer = vault.secrets().get_secret_metadata(request).await;
    answer.unwrap().into_inner().secret.unwrap()
}

async fn decrypt(vault: &Vault, request: DecryptRequest) -> Result<DecryptResponse, Status> {
    vault
        .decrypts()
        .decrypt(request)
        .await
        .map(tonic::Response::into_inner)
}

/// Decrypts one secret.
async fn decrypt_one(vault: &Vault, workspace: &str, name: &str) -> DecryptedSecret {
    let mut answer = decrypt(vault, ask(workspace, [name])).await.unwrap();
    assert_eq!(answer.secrets.len(), 1);
    answer.secrets.remove(0)
}

/// Puts `count` secrets, named `S0000` and so on, concurrently. Returns the number of successful puts, and the refusals.
async fn put_many(vault: &Vault, workspace: &str, count: usize) -> (usize, Vec<Status>) {
    let secrets = vault.secrets();
    let puts = (0..count).map(|number| {
        let (mut secrets, request) = (secrets.clone(), named(workspace, &format!("S{number:04}")));
        async move { secrets.put_secret(request).await }
    });
    let answers: Vec<_> = stream::iter(puts).buffer_unordered(128).collect().await;
    let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    (taken.len(), refused.into_iter().map(Result::unwrap_err).collect())
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn files(dir: &Path) -> Vec<Vec<u8>> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![fs::read(path).unwrap()]
            }
        })
        .collect()
}

trait Nanos {
    fn as_nanos(&self) -> i128;
}

impl Nanos for prost_types::Timestamp {
    fn as_nanos(&self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos)
    }
}

struct Conversation {
    calls: mpsc::Sender<DecryptStreamRequest>,
    answers: Streaming<proto::vault::v1::DecryptStreamResponse>,
}

impl Conversation {
    async fn open(vault: &Vault, principal: &str) -> Self {
        let mut client =
            proto::vault::v1::decrypt_service_client::DecryptServiceClient::new(vault.channel(principal));
        let (calls, queue) = mpsc::channel(8);
        let answers = client
            .decrypt_stream(ReceiverStream::new(queue))
            .await
            .unwrap()
            .into_inner();
        Self { calls, answers }
    }

    async fn say(&self, calls: impl IntoIterator<Item = (u64, DecryptRequest)>) {
        let calls = calls
            .into_iter()
            .map(|(id, request)| DecryptCall {
                id,
                request: Some(request),
            })
            .collect();
        self.calls
            .send(DecryptStreamRequest {
                calls,
                recipient: None,
            })
            .await
            .unwrap();
    }

    async fn hear(&mut self) -> Result<Option<Vec<DecryptAnswer>>, Status> {
        let message = timeout(e2e::PATIENCE, self.answers.message())
            .await
            .expect("no answer came");
        Ok(message?.map(|message| message.answers))
    }

    /// Receives `count` answers, and returns their outcomes by id.
    async fn gather(&mut self, count: usize) -> Vec<(u64, Outcome)> {
        let mut answers = Vec::new();
        while answers.len() < count {
            answers.extend(self.hear().await.unwrap().expect("the stream ended"));
        }
        let mut answers: Vec<_> = answers
            .into_iter()
            .map(|answer| (answer.id, answer.outcome.unwrap()))
            .collect();
        answers.sort_by_key(|(id, _)| *id);
        answers
    }
}
