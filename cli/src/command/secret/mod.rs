//! `aerostack workspace secret …`

mod set;

use clap::{Args, Subcommand};
use prost_types::Timestamp;
use proto::{
    SecretName, SecretNameError,
    vault::v1::{
        DeleteSecretRequest, ListSecretVersionsRequest, ListSecretsRequest, RestoreSecretVersionRequest,
        restore_secret_version_request, secret_service_client::SecretServiceClient,
    },
};
use serde::Serialize;
use tonic::transport::Channel;

use self::set::SetArgs;
use super::{
    pages::{MAX_PAGE_SIZE, list_all},
    server,
};
use crate::{
    connect::{Connection, Remote},
    failure::{Failure, FailureKind},
    model::{Secret, SecretVersion, Server, expires},
    output::{OutputArgs, Report, date, table},
    value::{time_at, time_in},
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
    /// List the kept versions of a secret, the newest first
    Versions(VersionsArgs),
    /// Make the value of a kept version the current one, under a new version number, without showing it
    Restore(RestoreArgs),
    /// Delete a secret with all its versions. Servers that use it stay as they are, and no longer get it
    Delete(DeleteArgs),
}

/// When a value expires. Then servers get it no more than if it had been deleted.
#[derive(Debug, Args)]
struct ExpiryArgs {
    /// When the value expires, such as 2027-01-31T00:00:00Z; a new value without it never does
    #[arg(long, value_name = "TIME", value_parser = time_at, conflicts_with = "expires_in")]
    expires_at: Option<Timestamp>,
    /// In how much time the value expires: `90d`, `12h`, `1h30m`
    #[arg(long, value_name = "DURATION", value_parser = time_in)]
    expires_in: Option<Timestamp>,
}

impl ExpiryArgs {
    fn time(self) -> Option<Timestamp> {
        let Self {
            expires_at,
            expires_in,
        } = self;
        expires_at.or(expires_in)
    }
}

/// `workspace secret list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// The workspace
    workspace: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// `workspace secret versions`
#[derive(Debug, Args)]
pub struct VersionsArgs {
    /// The workspace
    workspace: String,
    /// The secret's name
    name: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// `workspace secret restore`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The workspace
    workspace: String,
    /// The secret's name
    name: String,
    /// Which version
    #[arg(long, value_name = "VERSION")]
    version: u64,
    #[command(flatten)]
    expiry: ExpiryArgs,
    /// Never let the restored value expire. Without an expiry flag the value expires with the old version, or with a
    /// kept later version that expires earlier
    #[arg(long, conflicts_with_all = ["expires_at", "expires_in"])]
    never_expires: bool,
    /// For administrators: let the value be sent wherever the old version could be sent, not only where every later
    /// version could be sent, too
    #[arg(long)]
    allow_wider_origins: bool,
    /// For administrators: let the value expire later than the old version and the later versions
    #[arg(long)]
    allow_later_expiry: bool,
    /// Restore it only if this is the current version
    #[arg(long, value_name = "VERSION")]
    expected_version: Option<u64>,
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
    /// Delete it only if this is the current version
    #[arg(long, value_name = "VERSION")]
    expected_version: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct Secrets {
    secrets: Vec<Secret>,
}

#[derive(Serialize)]
struct Versions {
    versions: Vec<SecretVersion>,
}

#[derive(Serialize)]
struct Restored {
    secret: Secret,
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
            Self::Set(args) => args.run(&connection.vault()?).await,
            Self::List(args) => list(args, connection).await,
            Self::Versions(args) => versions(args, &connection.vault()?).await,
            Self::Restore(args) => restore(args, &connection.vault()?).await,
            Self::Delete(args) => delete(args, connection).await,
        }
    }
}

fn client(vault: &Remote) -> SecretServiceClient<Channel> {
    SecretServiceClient::new(vault.channel.clone())
}

fn normalized(name: &str) -> Result<SecretName, Failure> {
    SecretName::parse(name).map_err(|error| {
        let failure = Failure::new(FailureKind::Usage, error);
        match error {
            SecretNameError::EqualsSign => failure.hint(
                "aerostack workspace secret set WORKSPACE NAME VALUE sets one secret, --from-env-file FILE all secrets of \
                 a file of NAME=VALUE lines",
            ),
            _ => failure,
        }
    })
}

async fn list(args: ListArgs, connection: &Connection) -> Result<Report, Failure> {
    let ListArgs { workspace, output } = args;
    let vault = &connection.vault()?;
    let secrets = list_all(async |page_token| {
        let request = ListSecretsRequest {
            workspace: workspace.clone(),
            page_size: MAX_PAGE_SIZE,
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
                expires(secret.expires_at.as_deref(), secret.expired),
                used(secret),
                secret.upstream_origins.join(", "),
            ]
        });
        table(
            [
                "KEY",
                "CREATED",
                "VERSION",
                "UPDATED",
                "EXPIRES",
                "LAST USED",
                "ONLY TO",
            ],
            rows,
        )
    })
}

/// When a secret was last given, and for which server.
fn used(secret: &Secret) -> String {
    match (&secret.last_decrypt_time, secret.last_decrypt_server.as_deref()) {
        (Some(time), Some("") | None) => date(time),
        (Some(time), Some(server)) => format!("{} by {server}", date(time)),
        (None, _) => String::new(),
    }
}

async fn versions(args: VersionsArgs, vault: &Remote) -> Result<Report, Failure> {
    let VersionsArgs {
        workspace,
        name,
        output,
    } = args;
    let name = normalized(&name)?;
    let versions = list_all(async |page_token| {
        let request = ListSecretVersionsRequest {
            workspace: workspace.clone(),
            name: name.as_str().to_owned(),
            page_size: MAX_PAGE_SIZE,
            page_token,
        };
        let answer = vault.answer(client(vault).list_secret_versions(request)).await?;
        Ok((answer.versions, answer.next_page_token))
    })
    .await?;
    let versions = versions.into_iter().map(SecretVersion::of).collect();
    Report::new(output, &Versions { versions }, |all| {
        let rows = all.versions.iter().map(SecretVersion::row);
        table(["VERSION", "CREATED", "EXPIRES", "LABELS", "ONLY TO"], rows)
    })
}

async fn restore(args: RestoreArgs, vault: &Remote) -> Result<Report, Failure> {
    use restore_secret_version_request::Expiry;
    let RestoreArgs {
        workspace,
        name,
        version,
        expiry,
        never_expires,
        allow_wider_origins,
        allow_later_expiry,
        expected_version,
        output,
    } = args;
    let name = normalized(&name)?;
    let request = RestoreSecretVersionRequest {
        workspace,
        name: name.as_str().to_owned(),
        version,
        expiry: match expiry.time() {
            Some(time) => Some(Expiry::ExpiresAt(time)),
            None => never_expires.then_some(Expiry::NeverExpires(true)),
        },
        expected_version,
        // One try.
        request_id: String::new(),
        allow_wider_origins,
        allow_later_expiry,
    };
    let answer = vault
        .answer(client(vault).restore_secret_version(request))
        .await?;
    let restored = Restored {
        secret: Secret::of(answer.secret.unwrap_or_default()),
    };
    let report = Report::new(output, &restored, |Restored { secret }| {
        let Secret {
            name, version: new, ..
        } = secret;
        format!("{name} is again what it was as version {version} (version {new})\n")
    })?;
    Ok(match restored.secret.upstream_origins.as_slice() {
        [] => report,
        bound => report.note(format!("It is bound to {}", bound.join(", "))),
    })
}

async fn delete(args: DeleteArgs, connection: &Connection) -> Result<Report, Failure> {
    let DeleteArgs {
        workspace,
        name,
        expected_version,
        output,
    } = args;
    let name = normalized(&name)?;
    let request = DeleteSecretRequest {
        workspace: workspace.clone(),
        name: name.as_str().to_owned(),
        expected_version,
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
