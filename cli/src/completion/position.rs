//! Finds what the word at the cursor names, from the definition of the command line. Pure.

use clap::{Arg, Args as _, Command, FromArgMatches as _};

use crate::connect::ConnectArgs;

/// A kind of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    Workspaces,
    Servers { workspace: String },
    Secrets { workspace: String },
    Contexts,
}

/// The word at the cursor.
#[derive(Debug)]
pub(super) struct Position {
    pub(super) subject: Subject,
    /// The connection flags before the cursor.
    pub(super) connect: ConnectArgs,
    /// The part of the word before the name, such as the earlier names of a list. The shell replaces the whole word.
    before: String,
    /// The part of the name that is there already.
    typed: String,
}

/// The command line before the cursor.
struct TypedLine<'a> {
    command: &'a Command,
    /// The names of the subcommands.
    path: Vec<&'a str>,
    positionals: Vec<&'a str>,
    /// The flag whose value comes next.
    pending: Option<&'a Arg>,
    only_positionals: bool,
    /// Connection flags, in the form `--NAME=VALUE`.
    connection_flags: Vec<String>,
}

impl Position {
    /// Returns `None` unless the last of `words` names something that a service or the configuration file knows. The words are
    /// those after the name of the program.
    pub(super) fn find(aerostack: &mut Command, words: &[String]) -> Option<Self> {
        aerostack.build();
        let (word, before) = words.split_last()?;
        let mut line = TypedLine {
            command: aerostack,
            path: Vec::new(),
            positionals: Vec::new(),
            pending: None,
            only_positionals: false,
            connection_flags: Vec::new(),
        };
        before.iter().for_each(|word| line.push(word));
        let (arg, flag, value) = line.at_cursor(word)?;
        let subject = line.subject(arg)?;
        let is_list = arg.get_value_delimiter().is_some();
        let typed_from = match is_list {
            true => value.rfind(',').map_or(0, |comma| comma + 1),
            false => 0,
        };
        let (earlier, typed) = value.split_at(typed_from);
        Some(Self {
            subject,
            connect: connect_args(line.connection_flags)?,
            before: format!("{flag}{earlier}"),
            typed: typed.to_owned(),
        })
    }

    /// Returns the words that the shell may put in the place of the word at the cursor.
    pub(super) fn candidates(&self, names: Vec<String>) -> Vec<String> {
        let typed = match self.subject {
            // As the vault normalizes the names of secrets.
            Subject::Secrets { .. } => self.typed.to_ascii_uppercase().replace(['-', '.'], "_"),
            Subject::Workspaces | Subject::Servers { .. } | Subject::Contexts => self.typed.clone(),
        };
        let fitting = names.into_iter().filter(|name| name.starts_with(&typed));
        fitting.map(|name| format!("{}{name}", self.before)).collect()
    }
}

impl<'a> TypedLine<'a> {
    /// Reads one word before the cursor.
    fn push(&mut self, word: &'a str) {
        if let Some(arg) = self.pending.take() {
            self.note(arg, word);
        } else if self.only_positionals || !word.starts_with('-') || word == "-" {
            self.push_positional(word);
        } else if word == "--" {
            self.only_positionals = true;
        } else if let Some(flag) = word.strip_prefix("--") {
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag, None),
            };
            match (self.long(name), value) {
                (Some(arg), Some(value)) => self.note(arg, value),
                (Some(arg), None) if needs_value(arg) => self.pending = Some(arg),
                (Some(_) | None, _) => {}
            }
        } else {
            self.push_short(word.trim_start_matches('-'));
        }
    }

    fn push_positional(&mut self, word: &'a str) {
        let command = self.command;
        let subcommand = command.find_subcommand(word);
        match subcommand.filter(|_| self.positionals.is_empty()) {
            Some(subcommand) => {
                self.command = subcommand;
                self.path.push(subcommand.get_name());
            }
            None => self.positionals.push(word),
        }
    }

    /// Reads short flags, the last of which may have its value in the same word.
    fn push_short(&mut self, flags: &str) {
        let mut flags = flags.chars();
        while let Some(short) = flags.next() {
            let command = self.command;
            let arg = command.get_arguments().find(|arg| arg.get_short() == Some(short));
            if let Some(arg) = arg.filter(|arg| needs_value(arg)) {
                self.pending = flags.as_str().is_empty().then_some(arg);
                return;
            }
        }
    }

    /// Keeps a connection flag.
    fn note(&mut self, arg: &Arg, value: &str) {
        if let Some(long) = arg.get_long().filter(|long| is_connection_flag(long)) {
            self.connection_flags.push(format!("--{long}={value}"));
        }
    }

    /// Returns the argument at the cursor, the part of `word` that names its flag, and the rest.
    fn at_cursor<'w>(&self, word: &'w str) -> Option<(&'a Arg, &'w str, &'w str)> {
        if let Some(arg) = self.pending {
            return Some((arg, "", word));
        }
        if let Some(name) = word.strip_prefix("--").filter(|_| !self.only_positionals) {
            let (name, value) = name.split_once('=')?;
            let flag = word.strip_suffix(value)?;
            return Some((self.long(name)?, flag, value));
        }
        if word.starts_with('-') && !self.only_positionals {
            return None;
        }
        let command = self.command;
        let positional = command.get_positionals().nth(self.positionals.len())?;
        Some((positional, "", word))
    }

    fn long(&self, name: &str) -> Option<&'a Arg> {
        let command = self.command;
        command.get_arguments().find(|arg| arg.get_long() == Some(name))
    }

    fn subject(&self, arg: &Arg) -> Option<Subject> {
        let workspace = || self.positionals.first().map(|name| (*name).to_owned());
        let is_new = matches!(
            self.path.as_slice(),
            ["workspace", "create"] | ["workspace", "server", "add"] | ["context", "add"]
        );
        match (arg.is_positional(), arg.get_id().as_str()) {
            (true, "workspace") if self.path != ["workspace", "create"] => Some(Subject::Workspaces),
            (true, "server") if !is_new => Some(Subject::Servers {
                workspace: workspace()?,
            }),
            (true, "name") if self.path.contains(&"secret") => Some(Subject::Secrets {
                workspace: workspace()?,
            }),
            (true, "context_name") if !is_new => Some(Subject::Contexts),
            (false, "secrets" | "required" | "tls_client_cert_secret") => Some(Subject::Secrets {
                workspace: workspace()?,
            }),
            (false, "context") => Some(Subject::Contexts),
            _ => None,
        }
    }
}

/// Returns true for a flag whose value is the next word.
fn needs_value(arg: &Arg) -> bool {
    let takes_values = arg.get_num_args().is_some_and(|number| number.min_values() > 0);
    takes_values && arg.get_action().takes_values() && !arg.is_require_equals_set()
}

fn is_connection_flag(long: &str) -> bool {
    let flags = ConnectArgs::augment_args(Command::new("connection"));
    flags.get_arguments().any(|arg| arg.get_long() == Some(long))
}

fn connect_args(flags: Vec<String>) -> Option<ConnectArgs> {
    let command = ConnectArgs::augment_args(Command::new("connection"));
    let words = std::iter::once("connection".to_owned()).chain(flags);
    let matches = command.try_get_matches_from(words).ok()?;
    ConnectArgs::from_arg_matches(&matches).ok()
}

#[cfg(test)]
mod tests;
