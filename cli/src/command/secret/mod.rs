//! `aerostack workspace secret …`

mod args;
mod delete;
mod list;
mod put;
mod set;
mod versions;

use clap::Subcommand;

use self::{
    delete::DeleteSecretArgs,
    list::ListSecretsArgs,
    set::SetSecretArgs,
    versions::{ListVersionsArgs, RestoreVersionArgs},
};
use crate::{connect::Connection, failure::Failure, output::Report};

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
    /// List the secrets of a workspace: names and dates, never values
    List(ListSecretsArgs),
    /// List the kept versions of a secret, the newest first
    Versions(ListVersionsArgs),
    /// Make the value of a kept version the current one, under a new version number, without showing the value
    Restore(RestoreVersionArgs),
    /// Delete a secret with all its versions. Servers that use it stay unchanged, and no longer get it
    Delete(DeleteSecretArgs),
}

impl SecretCommand {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        match self {
            Self::Set(args) => args.run(&connection.vault()?).await,
            Self::List(args) => list::list(args, &connection.vault()?).await,
            Self::Versions(args) => versions::versions(args, &connection.vault()?).await,
            Self::Restore(args) => versions::restore(args, &connection.vault()?).await,
            Self::Delete(args) => delete::delete(args, connection).await,
        }
    }
}
