//! `aerostack workspace secret set`

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use prost_types::Timestamp;
use proto::{
    SecretName,
    vault::v1::{self as api, GetSecretMetadataRequest, PutSecretRequest},
};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{ExpiryArgs, client, normalized};
use crate::{
    connect::Remote,
    env_file,
    failure::{Failure, FailureKind},
    model::{Secret, Warning},
    output::{OutputArgs, Report},
    shape::{self, Shape},
    value::{Source, label, on_the_wire, read_text},
};

/// `workspace secret set`
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The workspace
    workspace: String,
    /// The secret's name; `github-token` and `GITHUB_TOKEN` are the same
    #[arg(required_unless_present = "from_env_file")]
    name: Option<String>,
    /// The value, or `-` to read it from standard input, without its final newline
    #[arg(allow_hyphen_values = true)]
    value: Option<String>,
    /// Read the value from a file, without its final newline
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    from_file: Option<PathBuf>,
    /// Drop white space at both ends of the value, all line breaks too, and a byte order mark
    #[arg(long)]
    trim: bool,
    /// The value is JSON: drop the white space between its parts, so that it is one line
    #[arg(long)]
    compact: bool,
    /// Set every secret of a file of NAME=VALUE lines; `-` reads standard input. Values of several lines need quotes. The
    /// other flags are for all of these secrets
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "value", "from_file", "expected_version"])]
    from_env_file: Option<PathBuf>,
    /// Where the value may be sent: `https://api.github.com`, `https://*.example.com`; may be repeated. When it is not
    /// given, a secret that is replaced keeps what it had
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',')]
    only_to: Vec<String>,
    /// Let the value be sent anywhere, whatever it was bound to before
    #[arg(long, conflicts_with = "only_to")]
    anywhere: bool,
    /// A label, to sort secrets by; may be repeated. When none is given, a secret that is replaced keeps those it had
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Take its labels away
    #[arg(long, conflicts_with = "labels")]
    no_labels: bool,
    #[command(flatten)]
    expiry: ExpiryArgs,
    /// Set it only if this is the current version; 0 if there is to be none
    #[arg(long, value_name = "VERSION")]
    expected_version: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What the command line says of each secret that it sets.
struct Terms {
    workspace: String,
    /// None: what the secret had.
    origins: Option<Vec<String>>,
    /// None: what the secret had.
    labels: Option<BTreeMap<String, String>>,
    expires_at: Option<Timestamp>,
    expected_version: Option<u64>,
    shape: Shape,
}

#[derive(Serialize)]
struct WasSet {
    secret: Secret,
    created: bool,
    warnings: Vec<Warning>,
    #[serde(skip)]
    notes: Vec<String>,
}

#[derive(Serialize)]
struct AllSet {
    secrets: Vec<WasSet>,
}

impl SetArgs {
    pub(super) async fn run(self, vault: &Remote) -> Result<Report, Failure> {
        let Self {
            workspace,
            name,
            value,
            from_file,
            trim,
            compact,
            from_env_file,
            only_to,
            anywhere,
            labels,
            no_labels,
            expiry,
            expected_version,
            output,
        } = self;
        let terms = Terms {
            workspace,
            origins: (anywhere || !only_to.is_empty()).then_some(only_to),
            labels: (no_labels || !labels.is_empty()).then(|| BTreeMap::from_iter(labels)),
            expires_at: expiry.time(),
            expected_version,
            shape: Shape { trim, compact },
        };
        match (name, from_env_file) {
            (_, Some(file)) => set_all(terms, file, vault, output).await,
            (given, None) => {
                let given = given.unwrap_or_default();
                let name = normalized(&given)?;
                let value = Source::of(value, from_file)?.read(name.as_str())?;
                let set = terms.set(vault, &name, value).await?;
                let mut report = Report::new(output, &set, was_set)?;
                if given != name.as_str() {
                    report = report.note(format!("{given} is called {name}"));
                }
                Ok(set.notes.into_iter().fold(report, Report::note))
            }
        }
    }
}

/// Sets the secrets of a file, in its order. The first failure ends it, and says what was set before.
async fn set_all(terms: Terms, file: PathBuf, vault: &Remote, output: OutputArgs) -> Result<Report, Failure> {
    let text = read_text(&file)?;
    let entries = env_file::parse(&text)
        .map_err(|error| Failure::new(FailureKind::Usage, format_args!("{}: {error}", file.display())))?;
    if entries.is_empty() {
        let message = format!("{}: it sets no secret", file.display());
        return Err(Failure::new(FailureKind::Usage, message));
    }
    let mut secrets: Vec<WasSet> = Vec::with_capacity(entries.len());
    for env_file::Entry { name, value } in entries {
        let value = Zeroizing::new(value.as_bytes().to_vec());
        match terms.set(vault, &name, value).await {
            Ok(set) => secrets.push(set),
            Err(failure) => return Err(stopped_at(&name, failure, &secrets)),
        }
    }
    let all = AllSet { secrets };
    let report = Report::new(output, &all, |all| all.secrets.iter().map(was_set).collect())?;
    let notes = all.secrets.into_iter().flat_map(|set| {
        let name = set.secret.name;
        set.notes.into_iter().map(move |note| format!("{name}: {note}"))
    });
    Ok(notes.fold(report, Report::note))
}

fn stopped_at(name: &SecretName, failure: Failure, set: &[WasSet]) -> Failure {
    let names: Vec<_> = set.iter().map(|set| set.secret.name.as_str()).collect();
    let before = match names.as_slice() {
        [] => "no secret was set".to_owned(),
        names => format!("these were set before: {}", names.join(", ")),
    };
    Failure {
        message: format!("{name}: {}; {before}", failure.message),
        ..failure
    }
}

impl Terms {
    async fn set(
        &self,
        vault: &Remote,
        name: &SecretName,
        value: Zeroizing<Vec<u8>>,
    ) -> Result<WasSet, Failure> {
        let Self {
            workspace,
            origins,
            labels,
            expires_at,
            expected_version,
            shape,
        } = self;
        let value = shape.apply(name.as_str(), value)?;
        let before = if origins.is_none() || labels.is_none() {
            metadata(vault, workspace, name).await?
        } else {
            api::Secret::default()
        };
        let expired_before = before.expires_at.is_some();
        let keeps = origins.is_none() && !before.upstream_origins.is_empty();
        let request = PutSecretRequest {
            workspace: workspace.clone(),
            name: name.as_str().to_owned(),
            value: Some(on_the_wire(&value)),
            upstream_origins: origins.clone().unwrap_or(before.upstream_origins),
            labels: labels.clone().unwrap_or(before.labels),
            expires_at: *expires_at,
            expected_version: *expected_version,
            // One try.
            request_id: String::new(),
        };
        let answer = vault.answer(client(vault).put_secret(request)).await?;
        let secret = Secret::of(answer.secret.unwrap_or_default());
        let warnings: Vec<_> = answer.warnings.into_iter().map(Warning::of).collect();
        let mut notes: Vec<_> = warnings.iter().map(Warning::note).collect();
        if let (false, Some(flags)) = (warnings.is_empty(), shape::that_helps(&value)) {
            notes.push(format!("It would fit when it is set with {flags}"));
        }
        if expired_before && expires_at.is_none() {
            notes.push("It does not expire any more; --expires-in DURATION makes it".to_owned());
        }
        match secret.upstream_origins.as_slice() {
            [] => notes.push(
                "Whoever may edit servers can have it sent anywhere: bind it with --only-to ORIGIN, such as --only-to \
                 https://api.github.com"
                    .to_owned(),
            ),
            bound if keeps => notes.push(format!("It stays bound to {}", bound.join(", "))),
            _ => {}
        }
        Ok(WasSet {
            secret,
            created: answer.created,
            warnings,
            notes,
        })
    }
}

fn was_set(set: &WasSet) -> String {
    let Secret { name, version, .. } = &set.secret;
    let done = if set.created { "created" } else { "replaced" };
    format!("{name} {done} (version {version})\n")
}

/// What a secret is bound to and labelled as now: replacing it would take that away.
async fn metadata(vault: &Remote, workspace: &str, name: &SecretName) -> Result<api::Secret, Failure> {
    let request = GetSecretMetadataRequest {
        workspace: workspace.to_owned(),
        name: name.as_str().to_owned(),
    };
    match vault.answer(client(vault).get_secret_metadata(request)).await {
        Ok(answer) => Ok(answer.secret.unwrap_or_default()),
        // If it is the workspace that does not exist, the put says so.
        Err(failure) if failure.kind == FailureKind::NotFound => Ok(api::Secret::default()),
        Err(failure) => Err(failure),
    }
}
