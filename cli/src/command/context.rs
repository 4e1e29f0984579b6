//! `aerostack context …`

use std::{
    env,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::{
    connect::{ConnectArgs, settings_of_directory},
    contexts::{self, Context, ContextName, Contexts},
    failure::{Failure, FailureKind},
    output::{OutputArgs, Report, fields, table, yes_or_no},
};

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack context list\n\
\x20 aerostack context use prod")]
pub enum ContextCommand {
    /// Add a context with the connection flags of this command, such as --vault, --ca, --cert and --key
    ///
    /// A context holds addresses and the paths of files, and never a key. It needs --vault and --injector, or --dir. Only flags are stored, and no environment variables.
    Add(AddContextArgs),
    /// Choose the context that commands use by default
    Use(UseContextArgs),
    /// List the contexts
    List(ListContextsArgs),
    /// Show a context
    Show(ShowContextArgs),
    /// Remove a context. The files that it names stay
    Remove(RemoveContextArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack context add prod --vault vault.example.org:7150 --injector injector.example.org:7151 --ca ca.pem --cert admin.pem --key admin-key.pem --use\n\
\x20 aerostack context add local --dir .aerostack")]
pub struct AddContextArgs {
    /// The name of the context
    #[arg(value_name = "CONTEXT", value_parser = ContextName::parse)]
    context_name: ContextName,
    /// Make it the present context
    #[arg(long = "use")]
    use_it: bool,
    /// Replace a context of the same name
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack context use prod\n\
\x20 aerostack context use --none")]
pub struct UseContextArgs {
    /// The name of the context
    #[arg(value_name = "CONTEXT", required_unless_present = "none")]
    context_name: Option<String>,
    /// Use no context, so that the directory `.aerostack` is used again
    #[arg(long, conflicts_with = "context_name")]
    none: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack context list")]
pub struct ListContextsArgs {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack context show\n\
\x20 aerostack context show prod")]
pub struct ShowContextArgs {
    /// The name of the context; without it, the present context
    #[arg(value_name = "CONTEXT")]
    context_name: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack context remove prod")]
pub struct RemoveContextArgs {
    /// The name of the context
    #[arg(value_name = "CONTEXT")]
    context_name: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// A context, as `--output json` prints it.
#[derive(Serialize)]
struct ContextModel {
    #[serde(flatten)]
    context: Context,
    present: bool,
}

#[derive(Serialize)]
struct ContextList {
    contexts: Vec<ContextModel>,
}

#[derive(Serialize)]
struct PresentContext {
    present: Option<String>,
}

#[derive(Serialize)]
struct RemovedContext {
    name: String,
}

impl ContextCommand {
    /// Runs the command. `connect` holds the connection flags, which only `add` reads.
    pub(super) fn run(self, connect: &ConnectArgs) -> Result<Report, Failure> {
        let path = contexts::path(|name| env::var_os(name)).ok_or_else(|| {
            let message = "there is no place for the contexts: neither XDG_CONFIG_HOME nor HOME is set";
            Failure::new(FailureKind::Configuration, message)
        })?;
        match self {
            Self::Add(args) => add(args, connect.clone(), &path),
            Self::Use(args) => use_context(args, &path),
            Self::List(ListContextsArgs { output }) => list(output, &contexts::read(&path)?),
            Self::Show(args) => show(args, &contexts::read(&path)?),
            Self::Remove(args) => remove(args, &path),
        }
    }
}

fn add(args: AddContextArgs, connect: ConnectArgs, path: &Path) -> Result<Report, Failure> {
    let AddContextArgs {
        context_name: name,
        use_it,
        replace,
        output,
    } = args;
    if connect.context.is_some() {
        let message = "a context cannot be made of another one: --context names no connection here";
        return Err(Failure::new(FailureKind::Usage, message));
    }
    let missing = missing_addresses(&connect);
    if !missing.is_empty() {
        let message = format!(
            "the context {name} would not say where both services are: {} missing",
            missing.join(", ")
        );
        return Err(Failure::new(FailureKind::Usage, message).hint(
            "give --vault, --injector, --data-plane, --ca, and --cert and --key or --token-file, or the --dir of `aerostack dev`",
        ));
    }
    let context = connect
        .into_context(name.clone())
        .map_err(|error| Failure::new(FailureKind::File, format_args!("the working directory: {error}")))?;
    let present = contexts::change(path, |contexts| {
        contexts.add(context.clone(), replace)?;
        if use_it {
            contexts.use_context(Some(name.as_str()))?;
        }
        Ok(contexts.present() == Some(&name))
    })?;
    added(output, &ContextModel { context, present })
}

/// Reports a context that was added, and warns of its files that do not exist.
fn added(output: OutputArgs, model: &ContextModel) -> Result<Report, Failure> {
    let report = Report::new(output, model, |model| {
        let ContextModel { context, present } = model;
        let present = if *present {
            ", and is the present context"
        } else {
            ""
        };
        format!("{} added{present}\n", context.name)
    })?;
    let report = match model.present {
        true => report,
        false => report.note(format!(
            "`aerostack context use {}` makes it the present context",
            model.context.name
        )),
    };
    Ok(absent_files(&model.context)
        .into_iter()
        .fold(report, |report, file| {
            report.note(format!("warning: {} does not exist", file.display()))
        }))
}

/// Returns the flags of the services that a context would not name. With another source for one of them, a command would work
/// on two installations at once.
fn missing_addresses(connect: &ConnectArgs) -> Vec<&'static str> {
    let ConnectArgs {
        dir, vault, injector, ..
    } = connect;
    if dir.is_some() {
        return Vec::new();
    }
    let addresses = [("--vault", vault), ("--injector", injector)];
    let missing = addresses.into_iter().filter(|(_, address)| address.is_none());
    missing.map(|(flag, _)| flag).collect()
}

/// Returns the files of a context that do not exist.
fn absent_files(context: &Context) -> Vec<PathBuf> {
    let Context {
        dir,
        ca,
        cert,
        key,
        token_file,
        injector_token_file,
        ..
    } = context;
    let named = [dir, ca, cert, key, token_file, injector_token_file]
        .into_iter()
        .flatten();
    named.filter(|file| !file.exists()).cloned().collect()
}

fn use_context(args: UseContextArgs, path: &Path) -> Result<Report, Failure> {
    let UseContextArgs {
        context_name: name,
        none: _,
        output,
    } = args;
    contexts::change(path, |contexts| contexts.use_context(name.as_deref()))?;
    let model = PresentContext { present: name };
    Report::new(output, &model, |PresentContext { present }| match present {
        Some(name) => format!("{name} is the present context\n"),
        None => "No context is present\n".to_owned(),
    })
}

fn list(output: OutputArgs, contexts: &Contexts) -> Result<Report, Failure> {
    let models = contexts.all().iter().map(|context| ContextModel {
        context: context.clone(),
        present: contexts.present() == Some(&context.name),
    });
    let list = ContextList {
        contexts: models.collect(),
    };
    let report = Report::new(output, &list, |list| {
        let rows = list.contexts.iter().map(|ContextModel { context, present }| {
            let Context {
                name,
                dir,
                vault,
                injector,
                ..
            } = context;
            let present = if *present { "*" } else { "" };
            let text = |address: &Option<String>| address.clone().unwrap_or_default();
            [
                name.to_string(),
                present.to_owned(),
                text(vault),
                text(injector),
                path_text(dir.as_ref()),
            ]
        });
        table(["NAME", "PRESENT", "VAULT", "INJECTOR", "DIRECTORY"], rows)
    })?;
    Ok(match list.contexts.as_slice() {
        [] => report.note("There is no context; `aerostack context add NAME` with --vault, --ca … makes one"),
        _ => report,
    })
}

fn show(args: ShowContextArgs, contexts: &Contexts) -> Result<Report, Failure> {
    let ShowContextArgs {
        context_name: name,
        output,
    } = args;
    let name = match (&name, contexts.present()) {
        (Some(name), _) => name.as_str(),
        (None, Some(present)) => present.as_str(),
        (None, None) => {
            return Err(Failure::new(FailureKind::NotFound, "no context is present")
                .hint("name one, or make one the present context with `aerostack context use NAME`"));
        }
    };
    let context = contexts.get(name)?;
    let model = ContextModel {
        present: contexts.present() == Some(&context.name),
        context: context.clone(),
    };
    Report::new(output, &model, context_text)
}

fn context_text(model: &ContextModel) -> String {
    let ContextModel { context, present } = model;
    let Context {
        name,
        dir,
        vault,
        injector,
        data_plane,
        ca,
        cert,
        key,
        token_file,
        injector_token_file,
        vault_id,
        injector_id,
        timeout,
        vault_metrics,
        injector_metrics,
    } = context;
    // A directory names the services that are not named beside it.
    let found = dir.as_deref().and_then(|dir| settings_of_directory(dir).ok());
    let found = found.unwrap_or_default();
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let or_found =
        |field: &Option<String>, found: Option<String>| field.clone().or(found).unwrap_or_default();
    let file_or_found =
        |field: &Option<PathBuf>, found: Option<PathBuf>| path_text(field.as_ref().or(found.as_ref()));
    let rows = [
        ("Name", name.to_string()),
        ("Present", yes_or_no(*present)),
        ("Directory", path_text(dir.as_ref())),
        ("Vault", or_found(vault, found.vault)),
        ("Injector", or_found(injector, found.injector)),
        ("Data plane", or_found(data_plane, found.data_plane)),
        ("CA", file_or_found(ca, found.ca)),
        ("Certificate", file_or_found(cert, found.cert)),
        ("Key", file_or_found(key, found.key)),
        ("Vault's token", path_text(token_file.as_ref())),
        ("Injector's token", path_text(injector_token_file.as_ref())),
        ("Vault's principal", or_found(vault_id, found.vault_id)),
        ("Injector's principal", or_found(injector_id, found.injector_id)),
        ("Timeout", text(timeout)),
        ("Vault's metrics", or_found(vault_metrics, found.vault_metrics)),
        (
            "Injector's metrics",
            or_found(injector_metrics, found.injector_metrics),
        ),
    ];
    fields(rows.into_iter().filter(|(_, value)| !value.is_empty()))
}

fn path_text(path: Option<&PathBuf>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn remove(args: RemoveContextArgs, path: &Path) -> Result<Report, Failure> {
    let RemoveContextArgs {
        context_name: name,
        output,
    } = args;
    let was_present = contexts::change(path, |contexts| contexts.remove(&name))?;
    let report = Report::new(output, &RemovedContext { name }, |RemovedContext { name }| {
        format!("{name} removed\n")
    })?;
    Ok(match was_present {
        true => report.note("No context is present now"),
        false => report,
    })
}
