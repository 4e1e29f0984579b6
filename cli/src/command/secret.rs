//! `aerostack workspace secret …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use proto::{
    SecretName,
    vault::v1::{
        DeleteSecretRequest, GetSecretMetadataRequest, ListSecretsRequest, PutSecretRequest,
        secret_service_client::SecretServiceClient,
    },
};
use serde::Serialize;
use tonic::transport::Channel;

use super::{PAGE, all, server};
use crate::{
    connect::{Connection, Remote},
    failure::{Failure, Kind},
    model::{Secret, Server},
    output::{OutputArgs, Report, date, table},
    value::Source,
};

/// What is done with secrets.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set a secret, or replace it
    ///
    /// Without VALUE it is asked for, and not shown. A VALUE on the command line stays in the shell's history, and other
    /// users of this machine can see it while the command runs.
    Set(SetArgs),
    /// List the secrets of a workspace: names and dates, never values
    List(ListArgs),
    /// Delete a secret. Servers that use it stay as they are, and no longer get it
    Delete(DeleteArgs),
}

/// `workspace secret set`
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The workspace
    workspace: String,
    /// The secret's name; `github-token` and `GITHUB_TOKEN` are the same
    name: String,
    /// The value, or `-` to read it from standard input, without its final newline
    #[arg(allow_hyphen_values = true)]
    value: Option<String>,
    /// Read the value from a file, without its final newline
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    from_file: Option<PathBuf>,
    /// Where the value may be sent: `https://api.github.com`, `https://*.example.com`; may be repeated. When it is not
    /// given, a secret that is replaced keeps what it had
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',')]
    only_to: Vec<String>,
    /// Let the value be sent anywhere, whatever it was bound to before
    #[arg(long, conflicts_with = "only_to")]
    anywhere: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// `workspace secret list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// The workspace
    workspace: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// `workspace secret delete`
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The workspace
    workspace: String,
    /// The secret's name
    name: String,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct WasSet {
    secret: Secret,
    created: bool,
}

#[derive(Serialize)]
struct Secrets {
    secrets: Vec<Secret>,
}

#[derive(Serialize)]
struct Deleted {
    workspace: String,
    name: String,
    /// Absent when the injector could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    used_by: Option<Vec<String>>,
}

impl Command {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        match self {
            Self::Set(args) => set(args, &connection.vault()?).await,
            Self::List(args) => list(args, connection).await,
            Self::Delete(args) => delete(args, connection).await,
        }
    }
}

fn client(vault: &Remote) -> SecretServiceClient<Channel> {
    SecretServiceClient::new(vault.channel.clone())
}

fn normalized(name: &str) -> Result<SecretName, Failure> {
    SecretName::parse(name).map_err(|error| Failure::new(Kind::Usage, error))
}

async fn set(args: SetArgs, vault: &Remote) -> Result<Report, Failure> {
    let SetArgs {
        workspace,
        name: given,
        value,
        from_file,
        only_to,
        anywhere,
        output,
    } = args;
    let name = normalized(&given)?;
    let value = Source::of(value, from_file)?.read(name.as_str())?;
    let kept = if only_to.is_empty() && !anywhere {
        origins(vault, &workspace, &name).await?
    } else {
        Vec::new()
    };
    let keeps = !kept.is_empty();
    let request = PutSecretRequest {
        workspace,
        name: name.as_str().to_owned(),
        value: Some(value),
        upstream_origins: if keeps { kept } else { only_to },
        ..Default::default()
    };
    let answer = vault.answer(client(vault).put_secret(request)).await?;
    let set = WasSet {
        secret: Secret::of(answer.secret.unwrap_or_default()),
        created: answer.created,
    };
    let mut report = Report::new(output, &set, was_set)?;
    if given != name.as_str() {
        report = report.note(format!("{given} is called {name}"));
    }
    Ok(match set.secret.upstream_origins.as_slice() {
        [] => report.note(
            "Whoever may edit servers can have it sent anywhere: bind it with --only-to ORIGIN, such as \
             --only-to https://api.github.com",
        ),
        bound if keeps => report.note(format!("It stays bound to {}", bound.join(", "))),
        _ => report,
    })
}

fn was_set(set: &WasSet) -> String {
    let Secret { name, version, .. } = &set.secret;
    let done = if set.created { "created" } else { "replaced" };
    format!("{name} {done} (version {version})\n")
}

/// What a secret is bound to now: replacing it would set it free.
async fn origins(vault: &Remote, workspace: &str, name: &SecretName) -> Result<Vec<String>, Failure> {
    let request = GetSecretMetadataRequest {
        workspace: workspace.to_owned(),
        name: name.as_str().to_owned(),
    };
    match vault.answer(client(vault).get_secret_metadata(request)).await {
        Ok(answer) => Ok(answer.secret.unwrap_or_default().upstream_origins),
        // If it is the workspace that does not exist, the put says so.
        Err(failure) if failure.kind == Kind::NotFound => Ok(Vec::new()),
        Err(failure) => Err(failure),
    }
}

async fn list(args: ListArgs, connection: &Connection) -> Result<Report, Failure> {
    let ListArgs { workspace, output } = args;
    let vault = &connection.vault()?;
    let secrets = all(async |page_token| {
        let request = ListSecretsRequest {
            workspace: workspace.clone(),
            page_size: PAGE,
            page_token,
        };
        let answer = vault.answer(client(vault).list_secrets(request)).await?;
        Ok((answer.secrets, answer.next_page_token))
    })
    .await?;
    let secrets = secrets.into_iter().map(Secret::of).collect();
    Report::new(output, &Secrets { secrets }, |all| {
        let rows = all.secrets.iter().map(|secret| {
            [
                secret.name.clone(),
                date(&secret.create_time),
                secret.version.to_string(),
                date(&secret.update_time),
                secret.upstream_origins.join(", "),
            ]
        });
        table(["KEY", "CREATED", "VERSION", "UPDATED", "ONLY TO"], rows)
    })
}

async fn delete(args: DeleteArgs, connection: &Connection) -> Result<Report, Failure> {
    let DeleteArgs {
        workspace,
        name,
        output,
    } = args;
    let name = normalized(&name)?;
    let request = DeleteSecretRequest {
        workspace: workspace.clone(),
        name: name.as_str().to_owned(),
        ..Default::default()
    };
    let vault = connection.vault()?;
    let mut client = client(&vault);
    // Deleting does not wait for the injector's word: it never touches a server.
    let deleted = vault.answer(client.delete_secret(request));
    let (deleted, users) = tokio::join!(deleted, users(connection, &workspace, &name));
    deleted?;
    let (used_by, unknown) = match users {
        Ok(users) => (Some(users), None),
        Err(failure) => (None, Some(failure)),
    };
    let model = Deleted {
        workspace,
        name: name.as_str().to_owned(),
        used_by,
    };
    let report = Report::new(output, &model, |Deleted { name, .. }| format!("{name} deleted\n"))?;
    Ok(match (model.used_by.as_deref(), unknown) {
        (Some([]), _) | (None, None) => report,
        (Some(users), _) => report.note(format!(
            "These servers name it, and no longer get it: {}",
            users.join(", ")
        )),
        (None, Some(failure)) => report.note(format!("Which servers use it is not known: {failure}")),
    })
}

/// The servers of a workspace that name a secret.
async fn users(connection: &Connection, workspace: &str, name: &SecretName) -> Result<Vec<String>, Failure> {
    let servers = server::servers(&connection.injector()?, workspace).await?;
    let names = |server: &Server| server.inject_secrets.iter().any(|secret| secret == name.as_str());
    Ok(servers
        .into_iter()
        .filter(names)
        .map(|server| server.name)
        .collect())
}
