//! `aerostack explain`

use clap::Args;
use proto::injector::v1::{ExplainInjectionRequest, server_service_client::ServerServiceClient};

use crate::{
    connect::Connection,
    failure::Failure,
    model::Explanation,
    output::{OutputArgs, Report, printable, table, yes_or_no},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack explain my-workspace github")]
pub struct ExplainArgs {
    /// The workspace of the server
    workspace: String,
    /// The server
    server: String,
    #[command(flatten)]
    output: OutputArgs,
}

impl ExplainArgs {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        let Self {
            workspace,
            server,
            output,
        } = self;
        let injector = connection.injector()?;
        let mut client = ServerServiceClient::new(injector.channel.clone());
        let request = ExplainInjectionRequest {
            workspace,
            name: server,
        };
        let answer = injector.answer(client.explain_injection(request)).await?;
        let explanation = Explanation::of(answer);
        let mut report = Report::new(output, &explanation, explanation_text)?;
        report.is_negative = !explanation.would_forward;
        Ok(report)
    }
}

fn explanation_text(explanation: &Explanation) -> String {
    let rows = explanation.secrets.iter().map(|secret| {
        let version = secret.version.map(|version| version.to_string());
        [
            secret.name.clone(),
            secret.state.replace('_', " "),
            yes_or_no(secret.required),
            version.unwrap_or_default(),
            secret.placement.clone(),
        ]
    });
    let verdict = if explanation.would_forward {
        "A call would go out."
    } else {
        "A call would be refused."
    };
    let details: String = explanation
        .secrets
        .iter()
        .filter_map(|secret| {
            let detail = secret.detail.as_ref().or(secret.note.as_ref())?;
            Some(format!("{}: {}\n", secret.name, printable(detail)))
        })
        .collect();
    format!(
        "{}{details}{verdict}\n",
        table(["SECRET", "STATE", "REQUIRED", "VERSION", "PLACEMENT"], rows)
    )
}
