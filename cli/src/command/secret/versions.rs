//! `aerostack workspace secret versions` and `restore`

use clap::Args;
use proto::vault::v1::{RestoreSecretVersionRequest, restore_secret_version_request::Expiry};
use serde::Serialize;

use super::args::{ExpiryArgs, client, secret_name};
use crate::{
    connect::Remote,
    failure::Failure,
    model::{Secret, SecretVersion, Warning},
    output::{OutputArgs, Report, table},
    pages,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack workspace secret versions my-workspace GITHUB_TOKEN")]
pub struct ListVersionsArgs {
    /// The workspace
    workspace: String,
    /// The secret's name
    name: String,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack workspace secret restore my-workspace GITHUB_TOKEN --version 2")]
pub struct RestoreVersionArgs {
    /// The workspace
    workspace: String,
    /// The secret's name
    name: String,
    /// The number of the version to restore
    #[arg(long, value_name = "VERSION")]
    version: u64,
    #[command(flatten)]
    expiry: ExpiryArgs,
    /// Let the restored value never expire. Without an expiry flag the value expires when the old version does, or when a
    /// kept later version does, whichever is earlier
    #[arg(long, conflicts_with_all = ["expires_at", "expires_in"])]
    never_expires: bool,
    /// For administrators: let the value be sent to every origin of the old version, not only to those that every later
    /// version has too
    #[arg(long)]
    allow_wider_origins: bool,
    /// For administrators: let the value expire later than the old version and the later versions
    #[arg(long)]
    allow_later_expiry: bool,
    /// Restore only if VERSION is the current version
    #[arg(long, value_name = "VERSION")]
    expected_version: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct VersionList {
    versions: Vec<SecretVersion>,
}

#[derive(Serialize)]
struct RestoredSecret {
    secret: Secret,
    warnings: Vec<Warning>,
}

pub(super) async fn versions(args: ListVersionsArgs, vault: &Remote) -> Result<Report, Failure> {
    let ListVersionsArgs {
        workspace,
        name,
        output,
    } = args;
    let name = secret_name(&name)?;
    let versions = pages::versions(vault, &workspace, name.as_str()).await?;
    let versions = versions.into_iter().map(SecretVersion::of).collect();
    Report::new(output, &VersionList { versions }, |all| {
        let rows = all.versions.iter().map(SecretVersion::row);
        table(["VERSION", "CREATED", "EXPIRES", "LABELS", "ONLY TO"], rows)
    })
}

pub(super) async fn restore(args: RestoreVersionArgs, vault: &Remote) -> Result<Report, Failure> {
    let RestoreVersionArgs {
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
    let name = secret_name(&name)?;
    let request = RestoreSecretVersionRequest {
        workspace,
        name: name.as_str().to_owned(),
        version,
        expiry: match expiry.time() {
            Some(time) => Some(Expiry::ExpiresAt(time)),
            None => never_expires.then_some(Expiry::NeverExpires(true)),
        },
        expected_version,
        // Without an id: the request is sent once.
        request_id: String::new(),
        allow_wider_origins,
        allow_later_expiry,
    };
    let answer = vault
        .answer(client(vault).restore_secret_version(request))
        .await?;
    let restored = RestoredSecret {
        secret: Secret::of(answer.secret.unwrap_or_default()),
        warnings: answer.warnings.into_iter().map(Warning::of).collect(),
    };
    let report = Report::new(output, &restored, |RestoredSecret { secret, .. }| {
        let Secret {
            name, version: new, ..
        } = secret;
        format!("{name} restored from version {version} (version {new})\n")
    })?;
    let report = restored
        .warnings
        .iter()
        .fold(report, |report, warning| report.note(warning.note()));
    Ok(match restored.secret.upstream_origins.as_slice() {
        [] => report,
        bound => report.note(format!("The secret is bound to {}", bound.join(", "))),
    })
}
