//! `aerostack workspace secret delete`

use clap::Args;
use proto::{SecretName, vault::v1::DeleteSecretRequest};
use serde::Serialize;

use super::args::{client, secret_name};
use crate::{
    command::confirm::{confirm, is_possible},
    connect::Connection,
    failure::{Failure, FailureKind},
    output::{OutputArgs, Report, printable},
    pages,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack workspace secret delete my-workspace GITHUB_TOKEN\n\
\x20 aerostack workspace secret delete my-workspace GITHUB_TOKEN --expected-version 4 --yes")]
pub struct DeleteSecretArgs {
    /// The workspace
    workspace: String,
    /// The secret's name
    name: String,
    /// Delete only if VERSION is the current version
    #[arg(long, value_name = "VERSION")]
    expected_version: Option<u64>,
    /// Delete without asking for confirmation. Without a terminal the command never asks
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct DeletedSecret {
    workspace: String,
    name: String,
    /// Servers that name the secret. Absent when the injector did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    used_by: Option<Vec<String>>,
}

pub(super) async fn delete(args: DeleteSecretArgs, connection: &Connection) -> Result<Report, Failure> {
    let DeleteSecretArgs {
        workspace,
        name,
        expected_version,
        yes,
        output,
    } = args;
    let name = secret_name(&name)?;
    if !yes {
        confirm_deletion(connection, &workspace, &name).await?;
    }
    let request = DeleteSecretRequest {
        workspace: workspace.clone(),
        name: name.as_str().to_owned(),
        expected_version,
    };
    let vault = connection.vault()?;
    let mut client = client(&vault);
    // The delete does not depend on the injector's answer, because it changes no server.
    let deleted = vault.answer(client.delete_secret(request));
    let (deleted, servers) = tokio::join!(deleted, servers_with(connection, &workspace, &name));
    deleted?;
    let (used_by, unknown) = match servers {
        Ok(names) => (Some(names), None),
        Err(failure) => (None, Some(failure)),
    };
    let model = DeletedSecret {
        workspace,
        name: name.as_str().to_owned(),
        used_by,
    };
    let report = Report::new(output, &model, |DeletedSecret { name, .. }| {
        format!("{name} deleted\n")
    })?;
    Ok(match (model.used_by.as_deref(), unknown) {
        (Some([]), _) | (None, None) => report,
        (Some(names), _) => report.note(format!(
            "These servers name the secret, and no longer get it: {}",
            names.join(", ")
        )),
        (None, Some(failure)) => report.note(format!(
            "The servers that use the secret are not known: {failure}"
        )),
    })
}

/// Asks at the terminal, with the servers that would no longer get the secret.
async fn confirm_deletion(
    connection: &Connection,
    workspace: &str,
    name: &SecretName,
) -> Result<(), Failure> {
    if !is_possible() {
        return Ok(());
    }
    let servers = match servers_with(connection, workspace, name).await {
        Ok(servers) if servers.is_empty() => "No server gets it.".to_owned(),
        Ok(servers) => format!("These servers would no longer get it: {}.", servers.join(", ")),
        Err(failure) => format!("The servers that use it are not known: {failure}."),
    };
    let question = format!(
        "{}\nDelete {name} of {workspace} with all its versions?",
        printable(&servers)
    );
    match confirm(&format!("deleting {name}"), &question)? {
        true => Ok(()),
        false => Err(Failure::new(FailureKind::Negative, "nothing was deleted")),
    }
}

/// Returns the names of the workspace's servers that get the secret.
async fn servers_with(
    connection: &Connection,
    workspace: &str,
    name: &SecretName,
) -> Result<Vec<String>, Failure> {
    pages::servers_with(&connection.injector()?, workspace, name).await
}
