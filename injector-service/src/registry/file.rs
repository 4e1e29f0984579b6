//! The servers file: YAML, in one form that people write and we write.
//!
//! ```yaml
//! version: 1
//! servers:
//! - workspace: dev-tools
//!   name: github
//!   url: https://api.github.com
//!   auth_type: bearer            # or secret_headers (the default), or skill
//!   injections:
//!   - secret: GITHUB_TOKEN
//!     required: true             # false when left out
//! ```
//!
//! Optional fields: `protocol` (`auto`, `http1`, `http2`), `protobuf_secrets_field` and `protobuf_messages` (`first`,
//! `all`), `grpc_methods`, `paths`, `tls` with `ca_pem`, `server_name`, `client_cert_secret` and `allow_bound_secrets`, `allow_plaintext`,
//! `allowed_origins`, `oauth` (`replace`, `pass`), `description`. The injector itself writes `uid`, `revision`, `create_time`, `update_time` and
//! `workspace_uid`, which people may leave out.
//!
//! Errors name the line and the field, and nothing of what stands there: it may be a secret, in the wrong file.

use std::collections::BTreeSet;

use jiff::Timestamp;
use proto::{ServerName, Uid, WorkspaceName};

use super::{
    error::{FileError, RegistryError},
    record::Record,
    server::{Server, Spec, SpecError},
    yaml::{self, Layout, MAX_BYTES, VERSION},
};
use crate::address::OwnListeners;

/// The highest revision that a file may state, so that there is always a next one.
pub(super) const MAX_REVISION: u64 = i64::MAX as u64;

/// What a file that we wrote says to those who open it.
const HEADING: &str = "\
# The servers of an injector-service. Edit it as you like: it is read again when it changes.
# When a server is changed through the API, this file is written anew, and comments are lost.

";

/// A server as a file describes it.
pub(super) struct Described {
    /// Where its entry begins.
    pub(super) line: u64,
    pub(super) workspace: WorkspaceName,
    pub(super) name: ServerName,
    pub(super) uid: Option<Uid>,
    pub(super) revision: Option<u64>,
    pub(super) create_time: Option<Timestamp>,
    pub(super) update_time: Option<Timestamp>,
    pub(super) workspace_uid: Option<Uid>,
    pub(super) spec: Spec,
}

/// Why one entry is not a server. Like [`FileError`], it repeats nothing of the entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not the name of a workspace.
    #[error("workspace: {0}")]
    Workspace(proto::LabelError),
    /// Not the name of a server.
    #[error("name: {0}")]
    Name(proto::LabelError),
    /// Not a uid.
    #[error("{0}: a uid is a UUID in lower case; leave it out and one is made")]
    Uid(&'static str),
    /// Not a time.
    #[error("{0}: a time is written like 2026-01-31T12:00:00Z")]
    Time(&'static str),
    /// Not a revision.
    #[error("revision: it is at least 1 and at most {MAX_REVISION}; leave it out and one is made")]
    Revision,
    /// Not a server that there can be.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

/// Reads a file. `own` are our listeners, which no server may point at.
pub(super) fn parse(bytes: &[u8], own: &OwnListeners) -> Result<Vec<Described>, FileError> {
    let servers = yaml::read::<Record>(bytes)?;
    let mut names = BTreeSet::new();
    let mut described = Vec::with_capacity(servers.len());
    for (index, record) in servers.into_iter().enumerate() {
        let line = record.referenced.line();
        let server = record.value.read(line, own).map_err(|error| FileError::Entry {
            line,
            number: index + 1,
            error,
        })?;
        if !names.insert((server.workspace.clone(), server.name.clone())) {
            return Err(FileError::SameName {
                line,
                workspace: server.workspace,
                name: server.name,
            });
        }
        described.push(server);
    }
    Ok(described)
}

/// Returns the number of bytes that `servers` take in a file of their own, without the heading.
pub(super) fn size<'a>(servers: impl Iterator<Item = &'a Server>) -> Result<usize, RegistryError> {
    yaml_of(servers).map(|yaml| yaml.len())
}

fn yaml_of<'a>(servers: impl Iterator<Item = &'a Server>) -> Result<String, RegistryError> {
    let layout = Layout {
        version: VERSION,
        servers: servers.map(Record::of).collect(),
    };
    serde_saphyr::to_string(&layout).map_err(|_| RegistryError::Unfaithful)
}

/// Renders a servers file, and refuses a text that would not read back as `servers`.
pub(super) fn render<'a>(servers: impl Iterator<Item = &'a Server> + Clone) -> Result<String, RegistryError> {
    let text = format!("{HEADING}{}", yaml_of(servers.clone())?);
    if text.len() > MAX_BYTES {
        return Err(RegistryError::TooLarge);
    }
    // YAML has many ways to say another thing than was meant. Listeners do not matter here: these servers are stored.
    let read = parse(text.as_bytes(), &OwnListeners::default()).map_err(|_| RegistryError::Unfaithful)?;
    let same = read
        .into_iter()
        .map(Described::complete)
        .eq(servers.cloned().map(Some));
    if same {
        Ok(text)
    } else {
        Err(RegistryError::Unfaithful)
    }
}

impl Described {
    /// As it is, when it says everything.
    fn complete(self) -> Option<Server> {
        let Self {
            line: _,
            workspace,
            name,
            uid,
            revision,
            create_time,
            update_time,
            workspace_uid,
            spec,
        } = self;
        Some(Server {
            workspace,
            name,
            uid: uid?,
            revision: revision?,
            create_time: create_time?,
            update_time: update_time?,
            workspace_uid,
            spec,
        })
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
