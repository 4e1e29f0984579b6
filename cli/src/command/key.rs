//! `aerostack key …`

use clap::{Args, Subcommand};
use proto::vault::v1::{
    GetKeyStatusRequest, ListWorkspaceKeysRequest, RotateRootKeyRequest, RotateWorkspaceKeyRequest,
    key_service_client::KeyServiceClient,
};
use serde::Serialize;
use tonic::transport::Channel;

use crate::{
    connect::{Connection, Remote},
    failure::Failure,
    model::keys::{KeyStatus, PendingErasure, RootKey, Rotation, WorkspaceKey},
    output::{OutputArgs, Report, table},
};

/// What is done with keys.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the root keys and their uses, the rotations that are under way, and the deleted records still to be erased
    Status(StatusArgs),
    /// Show the keys of a workspace, and how many records are under each
    Show(ShowArgs),
    /// Make a new key for a workspace or for all of them, and move everything to it in the background
    Rotate(RotateArgs),
}

/// `key status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// `key show`
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The workspace
    workspace: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// `key rotate`
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// The workspace
    #[arg(required_unless_present = "root", conflicts_with = "root")]
    workspace: Option<String>,
    /// The root key, when it comes from a passphrase or a KMS
    #[arg(long)]
    root: bool,
}

#[derive(Serialize)]
struct Keys {
    keys: Vec<WorkspaceKey>,
}

impl Command {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        let vault = connection.vault()?;
        match self {
            Self::Status(StatusArgs { output }) => status(output, &vault).await,
            Self::Show(ShowArgs { workspace, output }) => show(workspace, output, &vault).await,
            Self::Rotate(RotateArgs { workspace, root: _ }) => rotate(workspace, &vault).await,
        }
    }
}

fn client(vault: &Remote) -> KeyServiceClient<Channel> {
    KeyServiceClient::new(vault.channel.clone())
}

async fn status(output: OutputArgs, vault: &Remote) -> Result<Report, Failure> {
    let answer = vault
        .answer(client(vault).get_key_status(GetKeyStatusRequest {}))
        .await?;
    let status = KeyStatus::of(answer);
    Report::new(output, &status, |status| {
        let keys = status.root_keys.iter().map(RootKey::row);
        let mut text = table(["ROOT KEY", "STATE", "PROVIDER", "WORKSPACES"], keys);
        if !status.rotations.is_empty() {
            let rotations = status.rotations.iter().map(Rotation::row);
            text.push('\n');
            text.push_str(&table(["ROTATION", "DONE", "OF", "UNREADABLE"], rotations));
        }
        let PendingErasure {
            workspace_count,
            oldest_delete_time,
        } = &status.pending_erasure;
        if let Some(oldest) = oldest_delete_time {
            text.push_str(&format!(
                "What was deleted since {oldest} is not erased from the store's files yet (workspaces: {workspace_count}).\n"
            ));
        }
        if status.sealed {
            text.push_str("The vault is sealed: its root key's provider does not answer.\n");
        }
        text
    })
}

async fn show(workspace: String, output: OutputArgs, vault: &Remote) -> Result<Report, Failure> {
    let request = ListWorkspaceKeysRequest { workspace };
    let answer = vault.answer(client(vault).list_workspace_keys(request)).await?;
    let keys = answer.keys.into_iter().map(WorkspaceKey::of).collect();
    Report::new(output, &Keys { keys }, |all| {
        let rows = all.keys.iter().map(WorkspaceKey::row);
        table(["KEY", "STATE", "CREATED", "RECORDS"], rows)
    })
}

async fn rotate(workspace: Option<String>, vault: &Remote) -> Result<Report, Failure> {
    let (of, key_id, moves) = match workspace {
        Some(workspace) => {
            let request = RotateWorkspaceKeyRequest {
                workspace: workspace.clone(),
            };
            let answer = vault.answer(client(vault).rotate_workspace_key(request)).await?;
            (workspace, answer.key_id, true)
        }
        None => {
            let request = RotateRootKeyRequest {};
            let answer = vault.answer(client(vault).rotate_root_key(request)).await?;
            ("the root key".to_owned(), answer.key_id, false)
        }
    };
    let report = Report {
        result: format!("{of} has the new key {key_id}\n"),
        ..Report::default()
    };
    Ok(match moves {
        true => report.note("what is under the old one is being moved: see `aerostack key status`"),
        false => report,
    })
}
