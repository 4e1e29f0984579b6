//! `aerostack workspace …`

use chassis::service_channel::ServiceChannel;
use clap::{Args, Subcommand, ValueEnum};
use proto::vault::v1::{
    self as api, CreateWorkspaceRequest, DeleteWorkspaceRequest, GetWorkspaceRequest, UpdateWorkspaceRequest,
    workspace_service_client::WorkspaceServiceClient,
};
use serde::Serialize;

use super::{
    confirm::{self, confirm},
    secret, server,
};
use crate::{
    connect::{Connection, Remote},
    failure::{Failure, FailureKind},
    model::Workspace,
    output::{OutputArgs, Report, fields, printable, table},
    pages,
};

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack workspace list\n\
\x20 aerostack workspace create my-workspace --plan pro")]
pub enum WorkspaceCommand {
    /// Make an empty workspace
    Create(CreateWorkspaceArgs),
    /// List the workspaces
    List(ListWorkspacesArgs),
    /// Show a workspace
    Show(ShowWorkspaceArgs),
    /// Change a workspace's plan, or how many versions it keeps
    Update(UpdateWorkspaceArgs),
    /// Delete a workspace with all its secrets, and destroy its keys
    Delete(DeleteWorkspaceArgs),
    /// Secrets: set, list, restore and delete. No value can be read back
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// Servers: the upstreams that the injector knows, with the secrets that each one gets
    #[command(subcommand)]
    Server(server::ServerCommand),
}

/// The largest number of secrets in a workspace.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum PlanArg {
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

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack workspace create my-workspace\n\
\x20 aerostack workspace create my-workspace --plan pro --kept-versions 5")]
pub struct CreateWorkspaceArgs {
    /// The name of the workspace, a DNS label: lower-case letters, digits and `-`
    workspace: String,
    /// The plan, which limits the number of secrets; without this flag the vault's `--default-plan`
    #[arg(long, value_enum)]
    plan: Option<PlanArg>,
    /// The number of versions that the vault keeps of each secret, 1 to 100
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    kept_versions: u32,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack workspace list\n\
\x20 aerostack workspace list --output json")]
pub struct ListWorkspacesArgs {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack workspace show my-workspace")]
pub struct ShowWorkspaceArgs {
    /// The name of the workspace
    workspace: String,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack workspace update my-workspace --plan starter\n\
\x20 aerostack workspace update my-workspace --kept-versions 5")]
pub struct UpdateWorkspaceArgs {
    /// The name of the workspace
    workspace: String,
    /// The plan, which limits the number of secrets. A lower plan only stops new names, and deletes no secret
    #[arg(long, value_enum, required_unless_present = "kept_versions")]
    plan: Option<PlanArg>,
    /// The number of versions that the vault keeps of each secret, 1 to 100. With a lower number, older versions of a
    /// secret are removed when the secret is set again
    #[arg(long, value_name = "NUMBER")]
    kept_versions: Option<u32>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack workspace delete my-workspace")]
pub struct DeleteWorkspaceArgs {
    /// The name of the workspace
    workspace: String,
    /// Delete without asking for confirmation
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct DeletedWorkspace {
    name: String,
    secret_count: u64,
}

#[derive(Serialize)]
struct WorkspaceList {
    workspaces: Vec<Workspace>,
}

impl WorkspaceCommand {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        match self {
            Self::Create(args) => create(args, &connection.vault()?).await,
            Self::List(args) => list(args, &connection.vault()?).await,
            Self::Show(ShowWorkspaceArgs { workspace, output }) => {
                workspace_report(get(&connection.vault()?, &workspace).await?, output)
            }
            Self::Update(args) => update(args, &connection.vault()?).await,
            Self::Delete(args) => delete(args, connection).await,
            Self::Secret(command) => command.run(connection).await,
            Self::Server(command) => command.run(connection).await,
        }
    }
}

impl PlanArg {
    fn to_wire(self) -> api::Plan {
        match self {
            Self::Free => api::Plan::Free,
            Self::Starter => api::Plan::Starter,
            Self::Pro => api::Plan::Pro,
            Self::Business => api::Plan::Business,
            Self::Enterprise => api::Plan::Enterprise,
        }
    }
}

fn client(vault: &Remote) -> WorkspaceServiceClient<ServiceChannel> {
    WorkspaceServiceClient::new(vault.channel.clone())
}

async fn create(args: CreateWorkspaceArgs, vault: &Remote) -> Result<Report, Failure> {
    let output = args.output;
    let request = CreateWorkspaceRequest {
        workspace: Some(args.new_workspace()),
    };
    let answer = vault.answer(client(vault).create_workspace(request)).await?;
    workspace_report(answer.workspace.unwrap_or_default(), output)
}

impl CreateWorkspaceArgs {
    /// Returns the workspace of the request. The vault chooses the plan when the plan is unspecified.
    fn new_workspace(self) -> api::Workspace {
        api::Workspace {
            name: self.workspace,
            plan: self.plan.map_or(api::Plan::Unspecified, PlanArg::to_wire).into(),
            kept_versions: self.kept_versions,
            ..Default::default()
        }
    }
}

async fn list(args: ListWorkspacesArgs, vault: &Remote) -> Result<Report, Failure> {
    let workspaces = pages::workspaces(vault).await?;
    let workspaces = workspaces.into_iter().map(Workspace::of).collect();
    Report::new(args.output, &WorkspaceList { workspaces }, |all| {
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

async fn update(args: UpdateWorkspaceArgs, vault: &Remote) -> Result<Report, Failure> {
    let UpdateWorkspaceArgs {
        workspace,
        plan,
        kept_versions,
        output,
    } = args;
    let update_mask = [
        plan.map(|_| "plan".to_owned()),
        kept_versions.map(|_| "kept_versions".to_owned()),
    ];
    let request = UpdateWorkspaceRequest {
        workspace: Some(api::Workspace {
            name: workspace,
            plan: plan.map_or(api::Plan::Unspecified, PlanArg::to_wire).into(),
            kept_versions: kept_versions.unwrap_or_default(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: update_mask.into_iter().flatten().collect(),
        }),
    };
    let answer = vault.answer(client(vault).update_workspace(request)).await?;
    workspace_report(answer.workspace.unwrap_or_default(), output)
}

async fn delete(args: DeleteWorkspaceArgs, connection: &Connection) -> Result<Report, Failure> {
    let DeleteWorkspaceArgs {
        workspace: name,
        yes,
        output,
    } = args;
    let vault = &connection.vault()?;
    let workspace = get(vault, &name).await?;
    if !yes && !confirm_deletion(&workspace, connection).await? {
        return Err(Failure::new(
            FailureKind::Negative,
            format_args!("{name} was not deleted"),
        ));
    }
    let request = DeleteWorkspaceRequest {
        name: name.clone(),
        force: true,
        // The workspace is deleted only in the state that the user confirmed.
        revision: workspace.revision,
    };
    vault.answer(client(vault).delete_workspace(request)).await?;
    let deleted = DeletedWorkspace {
        name,
        secret_count: workspace.secret_count,
    };
    Report::new(output, &deleted, |DeletedWorkspace { name, secret_count }| {
        format!(
            "{name} deleted, with {} and its keys\n",
            count_of_secrets(*secret_count)
        )
    })
}

fn count_of_secrets(count: u64) -> String {
    match count {
        1 => "1 secret".to_owned(),
        count => format!("{count} secrets"),
    }
}

/// Asks at the terminal whether to delete the workspace.
async fn confirm_deletion(workspace: &api::Workspace, connection: &Connection) -> Result<bool, Failure> {
    let name = &workspace.name;
    let action = format!("deleting {name}");
    // Without a terminal the injector is not asked.
    confirm::require_terminal(&action)?;
    let secrets = count_of_secrets(workspace.secret_count);
    let servers = printable(&servers_that_fail(connection, name).await);
    confirm(
        &action,
        &format!(
            "{servers}\nDelete workspace {name} with {secrets}? Nothing can bring them back but a backup."
        ),
    )
}

/// Returns a sentence about the servers of a workspace, which the injector keeps after the workspace is deleted.
async fn servers_that_fail(connection: &Connection, workspace: &str) -> String {
    let servers = async { pages::servers(&connection.injector()?, workspace).await };
    match servers.await {
        Ok(servers) if servers.is_empty() => "No server of the injector belongs to it.".to_owned(),
        Ok(servers) => {
            let names: Vec<_> = servers.into_iter().map(|server| server.name).collect();
            format!("Calls to these servers fail from then on: {}.", names.join(", "))
        }
        Err(failure) => format!(
            "The servers that belong to it are not known: {}.",
            failure.message
        ),
    }
}

fn workspace_report(workspace: api::Workspace, output: OutputArgs) -> Result<Report, Failure> {
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct CreateCommandLine {
        #[command(flatten)]
        args: CreateWorkspaceArgs,
    }

    #[test]
    fn without_the_flag_plan_the_vault_chooses_the_plan() {
        let plan = |args: &[&str]| {
            let command_line = [&["create", "w"], args].concat();
            CreateCommandLine::parse_from(command_line)
                .args
                .new_workspace()
                .plan()
        };
        assert_eq!(plan(&[]), api::Plan::Unspecified);
        assert_eq!(plan(&["--plan", "pro"]), api::Plan::Pro);
    }
}
