//! `aerostack apply`: reads a document, compares it with the services, shows the difference, and makes it so.

mod steps;
mod stopped;
mod text;

use std::{
    fs::File,
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
};

use clap::Args;
use jiff::Timestamp;

use self::{
    steps::Steps,
    text::{Applied, Place, applied_text, difference_text},
};
use super::confirm::confirm;
use crate::{
    connect::Connection,
    failure::{Failure, FailureKind},
    manifest::{Manifest, change::Difference, difference::Choices, present::PresentState},
    model::Warning,
    output::{OutputArgs, OutputFormat, Report, printable},
};

/// A document is refused when it is longer than a servers file may be. This limit keeps an endless file out of memory.
const MAX_READ: u64 = 9 * 1024 * 1024;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack apply -f my-workspace.yaml --dry-run\n\
\x20 aerostack apply -f my-workspace.yaml\n\
\x20 aerostack apply -f my-workspace.yaml --prune --yes")]
pub struct ApplyArgs {
    /// The document; `-` reads standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Show the difference and change nothing. The exit code is 1 when the workspace is not as the document says
    #[arg(long)]
    dry_run: bool,
    /// Remove the servers that the document does not have, after a question. Secrets are never deleted
    #[arg(long)]
    prune: bool,
    /// Remove servers, and lose old versions of secrets, without asking for confirmation
    #[arg(long, short)]
    yes: bool,
    /// For administrators: let a value expire later than now, or never, when the document says so
    #[arg(long)]
    allow_later_expiry: bool,
    #[command(flatten)]
    output: OutputArgs,
}

impl ApplyArgs {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        let Self {
            file,
            dry_run,
            prune,
            yes,
            allow_later_expiry,
            output,
        } = self;
        let manifest = read_manifest(&file)?;
        if prune && manifest.servers.is_none() {
            let message =
                "--prune: the document has no list of servers, so it does not say which ones to keep";
            return Err(Failure::new(FailureKind::Usage, message).hint("for no server, write `servers: []`"));
        }
        let (vault, injector) = (connection.vault()?, connection.injector()?);
        let place = Place {
            workspace: &manifest.name,
            context: connection.context().map(ToString::to_string),
            vault: vault.address().to_owned(),
            injector: injector.address().to_owned(),
        };
        let mut present = PresentState::read(&vault, &injector, &manifest.name).await?;
        present.read_versions(&vault, &manifest).await?;
        let choices = Choices {
            prune,
            allow_later_expiry,
            now: Timestamp::now(),
        };
        let difference = Difference::between(&manifest, &present, choices);
        if dry_run {
            return dry_run_report(output, &place, &difference);
        }
        let was_shown = !yes && confirm_losses(&place, &difference)?;
        let steps = Steps {
            vault: &vault,
            injector: &injector,
            workspace: &manifest.name,
        };
        let (warnings, made) = steps.make(&difference.changes).await;
        if let Err(failure) = made {
            print_warnings(&warnings);
            return Err(failure);
        }
        let applied = Applied::of(&place, &difference, false, warnings);
        let report = Report::new(output, &applied, |_| applied_text(&place, &difference, was_shown))?;
        Ok(match output.output {
            OutputFormat::Table => applied
                .warnings
                .iter()
                .fold(report, |report, warning| report.note(warning.note())),
            OutputFormat::Json => report,
        })
    }
}

/// Prints the warnings of the changes before a failure, which has no report.
fn print_warnings(warnings: &[Warning]) {
    for warning in warnings {
        // A closed standard error is ignored.
        drop(writeln!(io::stderr(), "{}", printable(&warning.note())));
    }
}

fn read_manifest(file: &Path) -> Result<Manifest, Failure> {
    let (name, bytes) = match file == Path::new("-") {
        true => ("standard input".into(), read(io::stdin().lock())),
        false => (file.display().to_string(), File::open(file).and_then(read)),
    };
    let bytes = bytes.map_err(|error| Failure::file(Path::new(&name), &error))?;
    Manifest::parse(&bytes).map_err(|error| {
        Failure::new(FailureKind::Usage, format_args!("{name}: {error}"))
            .hint("`aerostack export WORKSPACE` writes a document that can be applied")
    })
}

fn read(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_READ).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn dry_run_report(output: OutputArgs, place: &Place<'_>, difference: &Difference) -> Result<Report, Failure> {
    let applied = Applied::of(place, difference, true, Vec::new());
    let report = Report::new(output, &applied, |_| difference_text(place, difference))?;
    let is_negative = !difference.is_empty();
    let report = Report {
        is_negative,
        ..report
    };
    if !is_negative {
        return Ok(report);
    }
    let report = match difference.changes.iter().any(|change| change.step.is_checked_by_injector()) {
        true => report.note(
            "The injector checks a server when it is added or changed, and may refuse it then, such as for a secret that is bound to \
             other origins",
        ),
        false => report,
    };
    Ok(report.note("Nothing was changed, because of --dry-run"))
}

/// Asks at the terminal before servers are removed or old versions are lost. Without the user's consent, the command changes
/// nothing. Returns true when the question has shown the difference.
fn confirm_losses(place: &Place<'_>, difference: &Difference) -> Result<bool, Failure> {
    let losses = difference.losses();
    if losses.is_empty() {
        return Ok(false);
    }
    let losses = losses.join(", ");
    let question = format!(
        "{}Delete from {place}: {losses}?",
        difference_text(place, difference)
    );
    match confirm(&format!("deleting {losses} from {place}"), &question)? {
        true => Ok(true),
        false => Err(Failure::new(FailureKind::Negative, "nothing was changed")),
    }
}
