//! `aerostack key …`

use chassis::service_channel::ServiceChannel;
use clap::{Args, Subcommand};
use proto::vault::v1::{
    GetKeyStatusRequest, ListWorkspaceKeysRequest, RotateRootKeyRequest, RotateWorkspaceKeyRequest,
    key_service_client::KeyServiceClient,
};
use serde::Serialize;

use crate::{
    connect::{Connection, Remote},
    failure::Failure,
    model::keys::{KeyStatus, PendingErasure, RootKey, Rotation, WorkspaceKey},
    output::{OutputArgs, Report, table},
};

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack key status\n\
\x20 aerostack key rotate my-workspace")]
pub enum KeyCommand {
    /// Show the root keys and their uses, the running rotations, and the deleted records that are not erased yet
    Status(KeyStatusArgs),
    /// Show the keys of a workspace, and how many records are under each
    Show(ShowKeysArgs),
    /// Make a new key for a workspace, and move its records to the key in the background; with --root, make a new root key
    Rotate(RotateKeyArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack key status")]
pub struct KeyStatusArgs {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack key show my-workspace")]
pub struct ShowKeysArgs {
    /// The workspace
    workspace: String,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack key rotate my-workspace\n\
\x20 aerostack key rotate --root")]
pub struct RotateKeyArgs {
    /// The workspace whose key is rotated
    #[arg(required_unless_present = "root", conflicts_with = "root")]
    workspace: Option<String>,
    /// Rotate the root key. Possible when the root key comes from a passphrase or a KMS
    #[arg(long)]
    root: bool,
}

#[derive(Serialize)]
struct WorkspaceKeys {
    keys: Vec<WorkspaceKey>,
}

impl KeyCommand {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        let vault = connection.vault()?;
        match self {
            Self::Status(KeyStatusArgs { output }) => status(output, &vault).await,
            Self::Show(ShowKeysArgs { workspace, output }) => show(workspace, output, &vault).await,
            Self::Rotate(RotateKeyArgs { workspace, root: _ }) => rotate(workspace, &vault).await,
        }
    }
}

fn client(vault: &Remote) -> KeyServiceClient<ServiceChannel> {
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
                "Deleted data, and keys that a rotation replaced, are not erased from the store's files yet: since {oldest}, in \
                 {workspace_count} workspace(s).\n"
            ));
        }
        if status.sealed {
            text.push_str("The vault is locked: the provider of its root key does not answer.\n");
        }
        text
    })
}

async fn show(workspace: String, output: OutputArgs, vault: &Remote) -> Result<Report, Failure> {
    let request = ListWorkspaceKeysRequest { workspace };
    let answer = vault.answer(client(vault).list_workspace_keys(request)).await?;
    let keys = answer.keys.into_iter().map(WorkspaceKey::of).collect();
    Report::new(output, &WorkspaceKeys { keys }, |all| {
        let rows = all.keys.iter().map(WorkspaceKey::row);
        table(["KEY", "STATE", "CREATED", "RECORDS"], rows)
    })
}

async fn rotate(workspace: Option<String>, vault: &Remote) -> Result<Report, Failure> {
    let (owner, key_id, moves_records) = match workspace {
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
        result: format!("{owner} has the new key {key_id}\n"),
        ..Report::default()
    };
    Ok(match moves_records {
        true => report
            .note("the records are being moved from the old key to the new one: see `aerostack key status`"),
        false => report,
    })
}
