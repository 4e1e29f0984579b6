//! `aerostack workspace secret list`

use clap::Args;
use proto::vault::v1::{self as api, ListSecretsRequest};
use serde::Serialize;

use super::args::client;
use crate::{
    connect::Remote,
    failure::Failure,
    model::{Secret, expires},
    output::{OutputArgs, Report, date, table},
    pages::{MAX_PAGE_SIZE, list_all},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack workspace secret list my-workspace")]
pub struct ListSecretsArgs {
    /// The workspace
    workspace: String,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct SecretList {
    secrets: Vec<Secret>,
}

pub(super) async fn list(args: ListSecretsArgs, vault: &Remote) -> Result<Report, Failure> {
    let ListSecretsArgs { workspace, output } = args;
    let secrets = secrets(vault, &workspace)
        .await?
        .into_iter()
        .map(Secret::of)
        .collect();
    Report::new(output, &SecretList { secrets }, |all| {
        let rows = all.secrets.iter().map(|secret| {
            [
                secret.name.clone(),
                date(&secret.create_time),
                secret.version.to_string(),
                date(&secret.update_time),
                expires(secret.expires_at.as_deref(), secret.expired),
                last_use(secret),
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

/// Returns the metadata of all secrets of a workspace.
pub(super) async fn secrets(vault: &Remote, workspace: &str) -> Result<Vec<api::Secret>, Failure> {
    list_all(async |page_token| {
        let request = ListSecretsRequest {
            workspace: workspace.to_owned(),
            page_size: MAX_PAGE_SIZE,
            page_token,
        };
        let answer = vault.answer(client(vault).list_secrets(request)).await?;
        Ok((answer.secrets, answer.next_page_token))
    })
    .await
}

/// Returns the date of the last decrypt, with the server that the decrypt was for.
fn last_use(secret: &Secret) -> String {
    match (&secret.last_decrypt_time, secret.last_decrypt_server.as_deref()) {
        (Some(time), Some("") | None) => date(time),
        (Some(time), Some(server)) => format!("{} by {server}", date(time)),
        (None, _) => String::new(),
    }
}
