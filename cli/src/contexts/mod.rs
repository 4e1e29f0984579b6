//! Contexts: named connections to services, kept in the configuration file of the command line.
//!
//! A context names addresses, principals and the paths of files. It never holds key material.

mod file;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt, path::PathBuf};

use injector_service::description::parse_yaml;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, FailureKind};

pub(crate) use file::{change, path, read};

/// The version of the file that this release reads and writes.
const VERSION: u64 = 1;

const MAX_NAME_LEN: usize = 64;

/// The name of a context: 1 to 64 letters, digits, `-`, `_` and `.`, with a letter or digit first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ContextName(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the name of a context has 1 to {MAX_NAME_LEN} letters, digits, `-`, `_` and `.`, with a letter or digit first"
)]
pub(crate) struct NotAContextName;

impl ContextName {
    pub(crate) fn parse(name: &str) -> Result<Self, NotAContextName> {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let begins_well = name
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric());
        match begins_well && name.len() <= MAX_NAME_LEN && name.bytes().all(is_legal) {
            true => Ok(Self(name.to_owned())),
            false => Err(NotAContextName),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ContextName {
    type Error = NotAContextName;

    fn try_from(name: String) -> Result<Self, NotAContextName> {
        Self::parse(&name)
    }
}

impl fmt::Display for ContextName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A named connection. The fields are the flags of the same names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    pub(crate) name: ContextName,
    /// A directory of `aerostack dev` or `aerostack init`, which supplies what the other fields leave out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vault: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) injector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data_plane: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) injector_token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vault_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) injector_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vault_metrics: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) injector_metrics: Option<String>,
}

/// The contexts of the configuration file, in the order in which they were added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Contexts {
    present: Option<ContextName>,
    contexts: Vec<Context>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    present: Option<ContextName>,
    contexts: Vec<Context>,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

impl Contexts {
    /// Parses the configuration file. The error is a text without the path.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        // The version comes first, because another version may have other fields.
        if let Ok(Versioned { version }) = parse_yaml(bytes)
            && version != VERSION
        {
            return Err(format!(
                "version: it is {version}, and this release reads version {VERSION}"
            ));
        }
        let Document {
            version: _,
            present,
            contexts,
        } = parse_yaml(bytes).map_err(|error| error.to_string())?;
        let parsed = Self { present, contexts };
        let mut names = BTreeSet::new();
        if let Some(twice) = parsed.names().find(|name| !names.insert(name.as_str())) {
            return Err(format!("there are two contexts {twice}"));
        }
        match parsed.present() {
            Some(name) if !names.contains(name.as_str()) => {
                Err(format!("present: there is no context {name}"))
            }
            _ => Ok(parsed),
        }
    }

    fn render(&self) -> Result<String, Failure> {
        let Self { present, contexts } = self.clone();
        let document = Document {
            version: VERSION,
            present,
            contexts,
        };
        serde_saphyr::to_string(&document).map_err(|error| Failure::new(FailureKind::Internal, error))
    }

    /// Returns the name of the context that commands use when they are told nothing else.
    pub(crate) fn present(&self) -> Option<&ContextName> {
        self.present.as_ref()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &ContextName> + Clone {
        self.contexts.iter().map(|context| &context.name)
    }

    pub(crate) fn all(&self) -> &[Context] {
        &self.contexts
    }

    pub(crate) fn get(&self, name: &str) -> Result<&Context, Failure> {
        let found = self.contexts.iter().find(|context| context.name.as_str() == name);
        found.ok_or_else(|| {
            Failure::new(
                FailureKind::NotFound,
                format_args!("there is no context {name:?}"),
            )
            .hint("`aerostack context list` shows what exists, `aerostack context add NAME` makes one")
        })
    }

    /// Adds a context. Replaces one of the same name only with `replace`.
    pub(crate) fn add(&mut self, context: Context, replace: bool) -> Result<(), Failure> {
        let same_name = self.contexts.iter_mut().find(|other| other.name == context.name);
        match same_name {
            None => self.contexts.push(context),
            Some(other) if replace => *other = context,
            Some(_) => {
                let message = format!("there is a context {} already", context.name);
                return Err(Failure::new(FailureKind::AlreadyExists, message)
                    .hint("give another name, or replace the context with --replace"));
            }
        }
        Ok(())
    }

    /// Makes a context the present one, or none.
    pub(crate) fn use_context(&mut self, name: Option<&str>) -> Result<(), Failure> {
        self.present = match name {
            Some(name) => Some(self.get(name)?.name.clone()),
            None => None,
        };
        Ok(())
    }

    /// Removes a context. Returns true when it was the present one.
    pub(crate) fn remove(&mut self, name: &str) -> Result<bool, Failure> {
        let name = self.get(name)?.name.clone();
        self.contexts.retain(|context| context.name != name);
        let was_present = self.present.take_if(|present| *present == name);
        Ok(was_present.is_some())
    }
}
