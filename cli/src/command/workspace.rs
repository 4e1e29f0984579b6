//! `aerostack workspace …`

use std::io::{self, IsTerminal as _, Write as _};

use clap::{Args, Subcommand, ValueEnum};
use proto::vault::v1::{
    self as api, CreateWorkspaceRequest, DeleteWorkspaceRequest, GetWorkspaceRequest, ListWorkspacesRequest,
    UpdateWorkspaceRequest, workspace_service_client::WorkspaceServiceClient,
};
use serde::Serialize;
use tonic::transport::Channel;

use super::{
    pages::{MAX_PAGE_SIZE, list_all},
    secret, server,
};
use crate::{
    connect::{Connection, Remote},
    failure::{Failure, FailureKind},
    model::Workspace,
    output::{OutputArgs, Report, fields, table},
};

/// What is done with workspaces.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an empty workspace
    Create(CreateArgs),
    /// List the workspaces
    List(ListArgs),
    /// Show a workspace
    Show(ShowArgs),
    /// Change a workspace's plan, or how many versions it keeps
    Update(UpdateArgs),
    /// Delete a workspace with all its secrets, and destroy its keys
    Delete(DeleteArgs),
    /// Secrets: set, list, restore and delete. No value can be read back
    #[command(subcommand)]
    Secret(secret::Command),
    /// Servers: the upstreams that the injector knows, with the secrets that each gets
    #[command(subcommand)]
    Server(server::Command),
}

/// How many secrets a workspace may hold.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Plan {
    /// 10
    Free,
    /// 50
    Starter,
    /// 200
    Pro,
    /// 1,000
    Business,
    /// Any number
    Enterprise,
}

/// `workspace create`
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// A DNS label: lower-case letters, digits and `-`
    workspace: String,
    /// How many secrets it may hold; without it, what the vault's `--default-plan` says
    #[arg(long, value_enum)]
    plan: Option<Plan>,
    /// How many versions of each secret are kept, 1 to 100
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    kept_versions: u32,
    #[command(flatten)]
    output: OutputArgs,
}

/// `workspace list`
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// `workspace show`
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Its name
    workspace: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// `workspace update`
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// Its name
    workspace: String,
    /// How many secrets it may hold. A lower plan only stops new names: what is there stays
    #[arg(long, value_enum, required_unless_present = "kept_versions")]
    plan: Option<Plan>,
    /// How many versions of each secret are kept, 1 to 100. A lower number removes older ones of a secret when it is set
    /// again
    #[arg(long, value_name = "NUMBER")]
    kept_versions: Option<u32>,
    #[command(flatten)]
    output: OutputArgs,
}

/// `workspace delete`
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Its name
    workspace: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct Deleted {
    name: String,
    secret_count: u64,
}

#[derive(Serialize)]
struct Workspaces {
    workspaces: Vec<Workspace>,
}

impl Command {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        match self {
            Self::Create(args) => create(args, &connection.vault()?).await,
            Self::List(args) => list(args, &connection.vault()?).await,
            Self::Show(ShowArgs { workspace, output }) => {
                shown(get(&connection.vault()?, &workspace).await?, output)
            }
            Self::Update(args) => update(args, &connection.vault()?).await,
            Self::Delete(args) => delete(args, &connection.vault()?).await,
            Self::Secret(command) => command.run(connection).await,
            Self::Server(command) => command.run(connection).await,
        }
    }
}

impl Plan {
    fn api(self) -> api::Plan {
        match self {
            Self::Free => api::Plan::Free,
            Self::Starter => api::Plan::Starter,
            Self::Pro => api::Plan::Pro,
            Self::Business => api::Plan::Business,
            Self::Enterprise => api::Plan::Enterprise,
        }
    }
}

fn client(vault: &Remote) -> WorkspaceServiceClient<Channel> {
    WorkspaceServiceClient::new(vault.channel.clone())
}

async fn create(args: CreateArgs, vault: &Remote) -> Result<Report, Failure> {
    let CreateArgs {
        workspace,
        plan,
        kept_versions,
        output,
    } = args;
    let workspace = api::Workspace {
        name: workspace,
        plan: plan.map_or(api::Plan::Unspecified, Plan::api).into(),
        kept_versions,
        ..Default::default()
    };
    let request = CreateWorkspaceRequest {
        workspace: Some(workspace),
    };
    let answer = vault.answer(client(vault).create_workspace(request)).await?;
    shown(answer.workspace.unwrap_or_default(), output)
}

async fn list(args: ListArgs, vault: &Remote) -> Result<Report, Failure> {
    let workspaces = list_all(async |page_token| {
        let request = ListWorkspacesRequest {
            page_size: MAX_PAGE_SIZE,
            page_token,
        };
        let answer = vault.answer(client(vault).list_workspaces(request)).await?;
        Ok((answer.workspaces, answer.next_page_token))
    })
    .await?;
    let workspaces = workspaces.into_iter().map(Workspace::of).collect();
    Report::new(args.output, &Workspaces { workspaces }, |all| {
        let rows = all.workspaces.iter().map(Workspace::row);
        table(["NAME", "PLAN", "SECRETS", "CREATED"], rows)
    })
}

async fn get(vault: &Remote, workspace: &str) -> Result<api::Workspace, Failure> {
    let request = GetWorkspaceRequest {
        name: workspace.to_owned(),
    };
    let answer = vault.answer(client(vault).get_workspace(request)).await?;
    Ok(answer.workspace.unwrap_or_default())
}

async fn update(args: UpdateArgs, vault: &Remote) -> Result<Report, Failure> {
    let UpdateArgs {
        workspace,
        plan,
        kept_versions,
        output,
    } = args;
    let changed = [
        plan.map(|_| "plan".to_owned()),
        kept_versions.map(|_| "kept_versions".to_owned()),
    ];
    let request = UpdateWorkspaceRequest {
        workspace: Some(api::Workspace {
            name: workspace,
            plan: plan.map_or(api::Plan::Unspecified, Plan::api).into(),
            kept_versions: kept_versions.unwrap_or_default(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: changed.into_iter().flatten().collect(),
        }),
    };
    let answer = vault.answer(client(vault).update_workspace(request)).await?;
    shown(answer.workspace.unwrap_or_default(), output)
}

async fn delete(args: DeleteArgs, vault: &Remote) -> Result<Report, Failure> {
    let DeleteArgs {
        workspace: name,
        yes,
        output,
    } = args;
    let workspace = get(vault, &name).await?;
    if !yes && !confirmed(&workspace)? {
        return Err(Failure::new(
            FailureKind::Negative,
            format_args!("{name} was not deleted"),
        ));
    }
    let request = DeleteWorkspaceRequest {
        name: name.clone(),
        force: true,
        // What was agreed to is what is deleted.
        revision: workspace.revision,
    };
    vault.answer(client(vault).delete_workspace(request)).await?;
    let deleted = Deleted {
        name,
        secret_count: workspace.secret_count,
    };
    Report::new(output, &deleted, |Deleted { name, secret_count }| {
        format!("{name} deleted, with {} and its keys\n", secrets(*secret_count))
    })
}

fn secrets(count: u64) -> String {
    match count {
        1 => "1 secret".to_owned(),
        count => format!("{count} secrets"),
    }
}

fn confirmed(workspace: &api::Workspace) -> Result<bool, Failure> {
    let name = &workspace.name;
    if !io::stdin().is_terminal() {
        let message = format!("deleting {name} has to be confirmed, and there is no terminal to ask on");
        return Err(Failure::new(FailureKind::Usage, message).hint("give --yes"));
    }
    let ask = || {
        write!(
            io::stderr(),
            "Delete workspace {name} with {}? Nothing can bring them back. [y/N] ",
            secrets(workspace.secret_count)
        )?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    };
    ask().map_err(|error: io::Error| Failure::new(FailureKind::File, format_args!("the terminal: {error}")))
}

fn shown(workspace: api::Workspace, output: OutputArgs) -> Result<Report, Failure> {
    Report::new(output, &Workspace::of(workspace), |workspace| {
        let [name, plan, secrets, created] = workspace.row();
        fields([
            ("Name", name),
            ("Plan", plan),
            ("Secrets", secrets),
            ("Versions kept", workspace.kept_versions.to_string()),
            ("Created", created),
        ])
    })
}
