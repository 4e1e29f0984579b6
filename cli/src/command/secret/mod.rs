//! `aerostack workspace secret …`

mod args;
mod delete;
mod import;
mod import_report;
mod list;
mod put;
mod set;
mod versions;

use clap::Subcommand;

use self::{
    delete::DeleteSecretArgs,
    import::ImportSecretsArgs,
    list::ListSecretsArgs,
    set::SetSecretArgs,
    versions::{ListVersionsArgs, RestoreVersionArgs},
};
use crate::{
    connect::Connection,
    failure::{Failure, FailureKind},
    output::Report,
};

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack workspace secret list my-workspace\n\
\x20 aerostack workspace secret set my-workspace GITHUB_TOKEN")]
pub enum SecretCommand {
    /// Set a secret, or replace its value
    ///
    /// Without VALUE the command asks for the value and does not show it. A VALUE on the command line stays in the shell's
    /// history, and other users of this machine can see it while the command runs.
    Set(SetSecretArgs),
    /// Set the secrets of a file: NAME=VALUE lines, a manifest of Kubernetes Secrets, or a JSON object
    ///
    /// The command first lists the secrets that it would create and replace, and the entries that it would leave out, and
    /// asks. It shows no value. Without a terminal nothing is set unless --yes is given. The exit code is 1 when an entry
    /// was left out or not set.
    Import(ImportSecretsArgs),
    /// List the secrets of a workspace: names and dates, never values
    List(ListSecretsArgs),
    /// List the kept versions of a secret, the newest first
    Versions(ListVersionsArgs),
    /// Make the value of a kept version the current one, under a new version number, without showing the value
    Restore(RestoreVersionArgs),
    /// Explain why no command prints the value of a secret
    #[command(
        hide = true,
        after_help = "\
Example:\n\
\x20 aerostack workspace secret get my-workspace GITHUB_TOKEN"
    )]
    Get {
        /// The workspace
        workspace: String,
        /// The secret
        name: String,
    },
    /// Delete a secret with all its versions. Servers that use it stay unchanged, and no longer get it
    ///
    /// On a terminal the command asks first, unless --yes is given. Without a terminal it does not ask.
    Delete(DeleteSecretArgs),
}

impl SecretCommand {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        match self {
            Self::Set(args) => args.run(&connection.vault()?).await,
            Self::Import(args) => args.run(&connection.vault()?).await,
            Self::List(args) => list::list(args, &connection.vault()?).await,
            Self::Versions(args) => versions::versions(args, &connection.vault()?).await,
            Self::Restore(args) => versions::restore(args, &connection.vault()?).await,
            Self::Get { workspace, name } => Err(no_value(&workspace, &name)),
            Self::Delete(args) => delete::delete(args, connection).await,
        }
    }
}

/// Returns the answer to a person who wants to read a value.
fn no_value(workspace: &str, name: &str) -> Failure {
    let message = "no command reads the value of a secret back: only the injector gets it, for a call";
    Failure::new(FailureKind::Usage, message).hint(format!(
        "`aerostack workspace secret versions {workspace} {name}` shows what is known about it, and `secret set` replaces the value"
    ))
}
