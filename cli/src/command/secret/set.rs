//! `aerostack workspace secret set`

use std::path::{Path, PathBuf};

use clap::Args;
use proto::SecretName;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{
    args::{ExpiryArgs, Metadata, MetadataArgs, secret_name},
    put::{PutOptions, PutResult},
};
use crate::{
    connect::Remote,
    failure::{Failure, FailureKind},
    model::Secret,
    output::{OutputArgs, Report},
    pasted_credential,
    value::{Edits, ValueSource, env_file, read_text},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack workspace secret set my-workspace GITHUB_TOKEN --only-to https://api.github.com\n\
\x20 aerostack workspace secret set my-workspace TLS_KEY --from-file key.pem --expires-in 90d\n\
\x20 aerostack workspace secret set my-workspace --from-env-file .env")]
pub struct SetSecretArgs {
    /// The workspace
    workspace: String,
    /// The secret's name; `github-token` and `GITHUB_TOKEN` are the same name
    #[arg(required_unless_present = "from_env_file")]
    name: Option<String>,
    /// The value, or `-` to read it from standard input, without its final newline
    #[arg(allow_hyphen_values = true)]
    value: Option<String>,
    /// Read the value from a file, without its final newline
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    from_file: Option<PathBuf>,
    /// Remove white space at both ends of the value, line breaks included, and a byte order mark
    #[arg(long)]
    trim: bool,
    /// Remove the white space between the tokens of a JSON value, so that the value is one line
    #[arg(long)]
    compact: bool,
    /// Set every secret of a file of NAME=VALUE lines; `-` reads standard input. Values of several lines need quotes. The
    /// other flags apply to all of these secrets
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "value", "from_file", "expected_version"])]
    from_env_file: Option<PathBuf>,
    #[command(flatten)]
    metadata: MetadataArgs,
    #[command(flatten)]
    expiry: ExpiryArgs,
    /// Set only if VERSION is the current version; 0 means that the secret must not exist yet
    #[arg(long, value_name = "VERSION")]
    expected_version: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct PutResults {
    secrets: Vec<PutResult>,
}

impl SetSecretArgs {
    pub(super) async fn run(self, vault: &Remote) -> Result<Report, Failure> {
        let Self {
            workspace,
            name,
            value,
            from_file,
            trim,
            compact,
            from_env_file,
            metadata,
            expiry,
            expected_version,
            output,
        } = self;
        let Metadata { origins, labels } = metadata.metadata();
        let options = PutOptions {
            workspace,
            origins,
            labels,
            expires_at: expiry.time(),
            expected_version,
            edits: Edits { trim, compact },
        };
        match (name, from_env_file) {
            (_, Some(file)) => set_all(&options, &file, vault, output).await,
            (given, None) => {
                let given = given.unwrap_or_default();
                pasted_credential::check(&given)
                    .map_err(|pasted| Failure::new(FailureKind::Usage, pasted))?;
                let name = secret_name(&given)?;
                let value = ValueSource::from_args(value, from_file)?.read(name.as_str())?;
                let result = options.put(vault, &name, value).await?;
                let mut report = Report::new(output, &result, result_line)?;
                if given != name.as_str() {
                    report = report.note(format!("{given} is normalized to {name}"));
                }
                Ok(result.notes.into_iter().fold(report, Report::note))
            }
        }
    }
}

/// Sets the secrets of a file in their order, up to the first failure, which names the secrets that were set before.
async fn set_all(
    options: &PutOptions,
    file: &Path,
    vault: &Remote,
    output: OutputArgs,
) -> Result<Report, Failure> {
    let text = read_text(file)?;
    let entries = env_file::parse(&text)
        .map_err(|error| Failure::new(FailureKind::Usage, format_args!("{}: {error}", file.display())))?;
    if entries.is_empty() {
        let message = format!("{}: it sets no secret", file.display());
        return Err(Failure::new(FailureKind::Usage, message));
    }
    let mut secrets: Vec<PutResult> = Vec::with_capacity(entries.len());
    let mut variables = Vec::new();
    for env_file::EnvFileEntry {
        line,
        given: _,
        name,
        value,
        is_quoted: _,
        may_have_comment: _,
        has_variable,
    } in entries
    {
        if has_variable {
            variables.push(format!("{name} in line {line}: {}", env_file::VARIABLE_REMARK));
        }
        let value = Zeroizing::new(value.as_bytes().to_vec());
        match options.put(vault, &name, value).await {
            Ok(result) => secrets.push(result),
            Err(failure) => return Err(stopped_at(&name, failure, &secrets)),
        }
    }
    let results = PutResults { secrets };
    let report = Report::new(output, &results, |results| {
        results.secrets.iter().map(result_line).collect()
    })?;
    let notes = results.secrets.into_iter().flat_map(|result| {
        let name = result.secret.name;
        result
            .notes
            .into_iter()
            .map(move |note| format!("{name}: {note}"))
    });
    Ok(variables.into_iter().chain(notes).fold(report, Report::note))
}

/// Adds to a failure the name of its secret, and the names of the secrets that were set before.
fn stopped_at(name: &SecretName, failure: Failure, results: &[PutResult]) -> Failure {
    let names: Vec<_> = results.iter().map(|result| result.secret.name.as_str()).collect();
    let before = match names.as_slice() {
        [] => "no secret was set".to_owned(),
        names => format!("these were set before: {}", names.join(", ")),
    };
    Failure {
        message: format!("{name}: {}; {before}", failure.message),
        ..failure
    }
}

fn result_line(result: &PutResult) -> String {
    let Secret { name, version, .. } = &result.secret;
    let done = if result.created { "created" } else { "replaced" };
    format!("{name} {done} (version {version})\n")
}
