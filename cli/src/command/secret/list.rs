//! `aerostack workspace secret list`

use clap::Args;
use serde::Serialize;

use crate::{
    connect::Remote,
    failure::Failure,
    model::{Secret, expires},
    output::{OutputArgs, Report, date, table},
    pages,
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
    let secrets = pages::secrets(vault, &workspace)
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

/// Returns the date of the last decrypt, with the server that the decrypt was for.
fn last_use(secret: &Secret) -> String {
    match (&secret.last_decrypt_time, secret.last_decrypt_server.as_deref()) {
        (Some(time), Some("") | None) => date(time),
        (Some(time), Some(server)) => format!("{} by {server}", date(time)),
        (None, _) => String::new(),
    }
}
