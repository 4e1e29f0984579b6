//! `aerostack export`

use clap::Args;
use proto::{Reason, WorkspaceName};

use crate::{
    connect::Connection,
    failure::{Failure, FailureKind},
    manifest::present::PresentState,
    output::Report,
};

/// The comment at the beginning of a document.
const HEADING: &str = "\
# A workspace, as `aerostack export` wrote it. Values of secrets are not in this file.
# `aerostack apply -f FILE` shows the difference to the services, and changes them.
";

#[derive(Debug, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack export my-workspace > my-workspace.yaml")]
pub struct ExportArgs {
    /// The workspace
    workspace: String,
}

impl ExportArgs {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        let name = workspace_name(&self.workspace)?;
        let (vault, injector) = (connection.vault()?, connection.injector()?);
        let state = PresentState::read(&vault, &injector, &name).await?;
        let manifest = state.manifest(name.clone()).ok_or_else(|| Failure {
            reason: Some(Reason::WorkspaceNotFound),
            ..Failure::new(
                FailureKind::NotFound,
                format_args!("there is no workspace {name}"),
            )
            .hint("`aerostack workspace list` shows what exists")
        })?;
        Ok(Report {
            result: format!("{HEADING}{}", manifest.render()?),
            ..Report::default()
        })
    }
}

fn workspace_name(text: &str) -> Result<WorkspaceName, Failure> {
    WorkspaceName::parse(text)
        .map_err(|error| Failure::new(FailureKind::Usage, format_args!("the workspace: {error}")))
}
