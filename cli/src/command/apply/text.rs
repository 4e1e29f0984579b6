//! A difference as text for people, and as JSON for programs.

use std::fmt::{self, Write as _};

use proto::WorkspaceName;
use serde::Serialize;
use serde_json::Value;

use crate::{
    manifest::{
        SecretMetadata,
        change::{Difference, FieldChange, PlannedChange, Step, Unchangeable, UnchangeableReason},
    },
    model::Warning,
    output::printable,
};

/// The longest value of a field that is shown as a whole, in characters.
const MAX_SHOWN: usize = 120;

/// The workspace of a document, and the installation that it is in.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) workspace: &'a WorkspaceName,
    /// `None` when no context names the services.
    pub(super) context: Option<String>,
    /// The addresses.
    pub(super) vault: String,
    pub(super) injector: String,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            workspace,
            context,
            vault,
            injector,
        } = self;
        match context {
            Some(context) => write!(f, "{workspace} (context {context})"),
            None => write!(
                f,
                "{workspace} (vault {}, injector {})",
                printable(vault),
                printable(injector)
            ),
        }
    }
}

/// The result of `apply`, as `--output json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Applied {
    workspace: String,
    context: Option<String>,
    vault: String,
    injector: String,
    dry_run: bool,
    /// True when the workspace was as the document says before the command.
    is_as_described: bool,
    changes: Vec<ChangeModel>,
    missing_secrets: Vec<SecretMetadata>,
    unchangeable: Vec<Unchangeable>,
    kept_servers: Vec<String>,
    other_secrets: Vec<String>,
    pub(super) warnings: Vec<Warning>,
}

#[derive(Debug, Serialize)]
struct ChangeModel {
    /// `create`, `update` or `delete`.
    action: &'static str,
    /// `workspace`, `secret` or `server`.
    kind: &'static str,
    name: String,
    fields: Vec<FieldChange>,
}

impl Applied {
    pub(super) fn of(
        place: &Place<'_>,
        difference: &Difference,
        dry_run: bool,
        warnings: Vec<Warning>,
    ) -> Self {
        let Difference {
            changes,
            missing_secrets,
            unchangeable,
            kept_servers,
            other_secrets,
        } = difference;
        let changes = changes.iter().map(|change| {
            let (action, kind, name) = parts(place.workspace, &change.step);
            ChangeModel {
                action: action.name,
                kind,
                name,
                fields: change.fields.clone(),
            }
        });
        Self {
            workspace: place.workspace.to_string(),
            context: place.context.clone(),
            vault: place.vault.clone(),
            injector: place.injector.clone(),
            dry_run,
            is_as_described: difference.is_empty(),
            changes: changes.collect(),
            missing_secrets: missing_secrets.clone(),
            unchangeable: unchangeable.clone(),
            kept_servers: kept_servers.iter().map(ToString::to_string).collect(),
            other_secrets: other_secrets.iter().map(ToString::to_string).collect(),
            warnings,
        }
    }
}

struct Action {
    sign: char,
    name: &'static str,
}

const CREATE: Action = Action {
    sign: '+',
    name: "create",
};
const UPDATE: Action = Action {
    sign: '~',
    name: "update",
};
const DELETE: Action = Action {
    sign: '-',
    name: "delete",
};

/// Returns the action of a step, and the kind and the name of its resource.
fn parts(workspace: &WorkspaceName, step: &Step) -> (Action, &'static str, String) {
    match step {
        Step::CreateWorkspace { .. } => (CREATE, "workspace", workspace.to_string()),
        Step::UpdateWorkspace { .. } => (UPDATE, "workspace", workspace.to_string()),
        Step::SetExpiry { secret, .. } => (UPDATE, "secret", secret.to_string()),
        Step::AddServer(server) => (CREATE, "server", server.name().to_string()),
        Step::UpdateServer { server, .. } => (UPDATE, "server", server.name().to_string()),
        Step::RemoveServer { name, .. } => (DELETE, "server", name.to_string()),
    }
}

/// Returns a change as a text such as `create server github`.
pub(super) fn change_name(workspace: &WorkspaceName, step: &Step) -> String {
    let (action, kind, name) = parts(workspace, step);
    format!("{} {kind} {name}", action.name)
}

/// Returns the text of a difference whose changes were made. It has the changes themselves unless a question has shown them.
pub(super) fn applied_text(place: &Place<'_>, difference: &Difference, was_shown: bool) -> String {
    let text = match was_shown {
        true => String::new(),
        false => difference_text(place, difference),
    };
    match difference.changes.len() {
        0 => text,
        1 => format!("{text}1 change applied to {place}.\n"),
        count => format!("{text}{count} changes applied to {place}.\n"),
    }
}

/// Returns a difference as text: `+` for what is created, `~` for what is changed, `-` for what is deleted, and `!` for what no
/// command changes here.
pub(super) fn difference_text(place: &Place<'_>, difference: &Difference) -> String {
    let workspace = place.workspace;
    let Difference {
        changes,
        missing_secrets,
        unchangeable,
        kept_servers,
        other_secrets,
    } = difference;
    let mut text = String::new();
    for change in changes {
        add_change(&mut text, workspace, change);
    }
    for secret in missing_secrets {
        // Labels come from a file of somebody else.
        let command = printable(&put_command(workspace, secret));
        let _ = writeln!(
            text,
            "! secret {} is missing: it has no value yet\n    {command}",
            secret.name
        );
    }
    for difference in unchangeable {
        add_unchangeable(&mut text, difference);
    }
    if changes.is_empty() {
        let _ = writeln!(text, "Nothing to change in {place}.");
    }
    add_names(
        &mut text,
        "These servers are not in the document and stay (--prune removes them)",
        kept_servers.iter().map(ToString::to_string),
    );
    add_names(
        &mut text,
        "These secrets are not in the document and stay",
        other_secrets.iter().map(ToString::to_string),
    );
    text
}

fn add_change(text: &mut String, workspace: &WorkspaceName, change: &PlannedChange) {
    let PlannedChange { step, fields } = change;
    let (action, kind, name) = parts(workspace, step);
    let _ = writeln!(text, "{} {kind} {name}", action.sign);
    for field in fields {
        let _ = writeln!(text, "    {}", field_text(field));
    }
}

fn add_unchangeable(text: &mut String, difference: &Unchangeable) {
    let Unchangeable {
        secret,
        field,
        reason,
    } = difference;
    let reason = match reason {
        UnchangeableReason::NeedsValue => {
            "only `aerostack workspace secret set` changes this, with the value"
        }
        UnchangeableReason::LaterExpiry => "an administrator lets it expire later with --allow-later-expiry",
        UnchangeableReason::PastExpiry => "the document's time is in the past",
    };
    let _ = writeln!(
        text,
        "! secret {secret} differs: {reason}\n    {}",
        field_text(field)
    );
}

fn field_text(change: &FieldChange) -> String {
    let FieldChange { field, before, after } = change;
    match (before, after) {
        (None, Some(after)) => format!("{field}: {}", shown(after)),
        (before, after) => format!("{field}: {} → {}", shown_or_none(before), shown_or_none(after)),
    }
}

fn shown_or_none(value: &Option<Value>) -> String {
    value.as_ref().map_or_else(|| "(none)".to_owned(), shown)
}

/// Returns a value in one line, at most with `MAX_SHOWN` characters and the number of the others.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let others = text.chars().count().saturating_sub(MAX_SHOWN);
    match others {
        0 => printable(&text),
        others => {
            let first: String = text.chars().take(MAX_SHOWN).collect();
            format!("{}… ({others} more characters)", printable(&first))
        }
    }
}

fn add_names(text: &mut String, what: &str, names: impl Iterator<Item = String>) {
    let names: Vec<_> = names.collect();
    if !names.is_empty() {
        let _ = writeln!(text, "{what}: {}", names.join(", "));
    }
}

/// Returns the command that puts a secret with its metadata, and that asks for the value.
fn put_command(workspace: &WorkspaceName, secret: &SecretMetadata) -> String {
    let SecretMetadata {
        name,
        upstream_origins,
        labels,
        expires_at,
    } = secret;
    let mut command = format!("aerostack workspace secret set {workspace} {name}");
    if !upstream_origins.is_empty() {
        let _ = write!(command, " --only-to {}", quoted(&upstream_origins.join(",")));
    }
    for (key, value) in labels {
        let _ = write!(command, " --label {}", quoted(&format!("{key}={value}")));
    }
    if let Some(time) = expires_at {
        let _ = write!(command, " --expires-at {time}");
    }
    command
}

/// Quotes a word for a POSIX shell when a shell would change it.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:,=@+".contains(&byte);
    match word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_reaches_the_command_as_it_is() {
        assert_eq!(quoted("https://a.example,team=a"), "https://a.example,team=a");
        assert_eq!(quoted("https://*.example.com"), "'https://*.example.com'");
        assert_eq!(quoted("it's $(id)"), r"'it'\''s $(id)'");
    }

    #[test]
    fn a_long_value_is_shortened_and_cannot_control_the_terminal() {
        let long = Value::String("x".repeat(MAX_SHOWN + 3));
        assert!(shown(&long).ends_with("x… (3 more characters)"));
        let hostile = Value::String("a\u{1b}[2J".to_owned());
        assert_eq!(shown(&hostile), "a\\u{1b}[2J");
    }
}
