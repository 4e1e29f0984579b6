//! `aerostack workspace secret import`

use std::{
    io::{self, Write as _},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use proto::vault::v1::{GetWorkspaceRequest, workspace_service_client::WorkspaceServiceClient};

use super::{
    args::{ExpiryArgs, Metadata, MetadataArgs},
    import_report::{Preview, Results},
};
use crate::{
    command::confirm::confirm,
    connect::Remote,
    failure::{Failure, FailureKind},
    output::{OutputArgs, Report},
    pages,
    plan_limit::secret_room,
    secret_import::{ImportOptions, ImportPlan, Imported, PlannedPut, PutOutcome, put_all},
    value::{Edits, import, read_text},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack workspace secret import my-workspace .env --dry-run\n\
\x20 aerostack workspace secret import my-workspace .env --only-to https://api.github.com\n\
\x20 kubectl get secret my-secret -o yaml | aerostack workspace secret import my-workspace - --yes")]
pub struct ImportSecretsArgs {
    /// The workspace
    workspace: String,
    /// The file; `-` is standard input
    file: PathBuf,
    /// The format of the file, instead of the one that its content shows
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<import::Format>,
    /// Only list what would be set, and set nothing
    #[arg(long)]
    dry_run: bool,
    /// Set the secrets without asking
    #[arg(long, short)]
    yes: bool,
    /// Remove white space at both ends of each value, line breaks included, and a byte order mark
    #[arg(long)]
    trim: bool,
    #[command(flatten)]
    metadata: MetadataArgs,
    #[command(flatten)]
    expiry: ExpiryArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl ImportSecretsArgs {
    pub(super) async fn run(self, vault: &Remote) -> Result<Report, Failure> {
        let Self {
            workspace,
            file,
            format,
            dry_run,
            yes,
            trim,
            metadata,
            expiry,
            output,
        } = self;
        let edits = Edits { trim, compact: false };
        let Metadata { origins, labels } = metadata.metadata();
        let options = ImportOptions {
            origins,
            labels,
            expires_at: expiry.time(),
        };
        let plan = plan(vault, &workspace, &file, format, edits).await?;
        let excess = plan.excess(room(vault, &workspace).await);
        let preview = Preview::of(&plan, &workspace, options.expires_at.is_none(), excess);
        if dry_run {
            return preview.report(output);
        }
        if plan.puts.is_empty() {
            let message = format!("{}: none of its entries can be set", file.display());
            print(&preview.text());
            return Err(Failure::new(FailureKind::Usage, message).hint("the list above says why"));
        }
        if !yes {
            print(&preview.text());
            if !confirm(&format!("setting secrets of {workspace}"), &preview.question())? {
                return Err(Failure::new(FailureKind::Negative, "nothing was set"));
            }
        }
        let ImportPlan {
            format: _,
            puts,
            left_out,
            faults: _,
            notes,
        } = plan;
        let interrupted = interrupt();
        let imported = put_with_progress(vault, &workspace, &options, puts, &interrupted).await;
        if interrupted.load(Ordering::Relaxed) {
            return Err(interruption(&imported));
        }
        Results::of(workspace, imported, left_out, notes).report(output)
    }
}

async fn plan(
    vault: &Remote,
    workspace: &str,
    path: &Path,
    format: Option<import::Format>,
    edits: Edits,
) -> Result<ImportPlan, Failure> {
    let text = read_text(path)?;
    let refused =
        |message: String| Failure::new(FailureKind::Usage, format_args!("{}: {message}", path.display()));
    let file = import::parse(&text, format).map_err(|error| match error {
        import::FormatError::AmbiguousLines | import::FormatError::AmbiguousObject => {
            refused(error.to_string()).hint("--format dotenv, --format kubernetes or --format json")
        }
        _ => refused(error.to_string()),
    })?;
    if let Some(message) = unreadable(&file.faults) {
        return Err(refused(message).hint("nothing was set: correct the file, and repeat the command"));
    }
    let present = pages::secrets(vault, workspace).await?;
    Ok(ImportPlan::of(file, present, edits))
}

/// Returns the number of new secrets that the workspace still takes. It is not known to an identity that may not see the
/// workspace itself: then the vault says it at the put.
async fn room(vault: &Remote, workspace: &str) -> Option<u64> {
    let request = GetWorkspaceRequest {
        name: workspace.to_owned(),
    };
    let mut client = WorkspaceServiceClient::new(vault.channel.clone());
    let answer = vault.answer(client.get_workspace(request)).await.ok()?;
    secret_room(&answer.workspace?)
}

/// Returns the message about the lines that cannot be read.
fn unreadable(faults: &[import::FileFault]) -> Option<String> {
    /// Number of lines that the message describes.
    const DESCRIBED: usize = 10;
    let described: Vec<_> = faults
        .iter()
        .take(DESCRIBED)
        .map(|import::FileFault { line, message }| format!("line {line}: {message}"))
        .collect();
    match faults.len() {
        0 => None,
        1..=DESCRIBED => Some(described.join("; ")),
        more => Some(format!(
            "{}; and {} lines more",
            described.join("; "),
            more - DESCRIBED
        )),
    }
}

/// Returns a flag that Ctrl-C sets from now on, instead of ending the process between two puts.
fn interrupt() -> Arc<AtomicBool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            flag.store(true, Ordering::Relaxed);
        }
    });
    interrupted
}

fn interruption(imported: &[Imported]) -> Failure {
    let count = |is: fn(&PutOutcome) -> bool| imported.iter().filter(|secret| is(&secret.outcome)).count();
    let set = count(PutOutcome::is_put);
    let not_tried = count(|outcome| matches!(outcome, PutOutcome::NotTried));
    let failed = match imported.len() - set - not_tried {
        0 => String::new(),
        failed => format!("{failed} failed, "),
    };
    let message = format!("interrupted: {set} set, {failed}{not_tried} not tried");
    Failure::new(FailureKind::Interrupted, message)
        .hint("the secrets are set in the order of the list that --dry-run shows; the same command again sets all of them")
}

async fn put_with_progress(
    vault: &Remote,
    workspace: &str,
    options: &ImportOptions,
    puts: Vec<PlannedPut>,
    interrupted: &AtomicBool,
) -> Vec<Imported> {
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len}");
    // The bar is on standard error, and only when that is a terminal.
    let bar = ProgressBar::new(puts.len() as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut done = || {
        bar.inc(1);
        match interrupted.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let imported = put_all(vault, workspace, options, puts, &mut done).await;
    bar.finish_and_clear();
    imported
}

/// A closed standard error is ignored.
fn print(text: &str) {
    drop(io::stderr().write_all(text.as_bytes()));
}
