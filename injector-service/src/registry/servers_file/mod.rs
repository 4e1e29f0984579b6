//! The servers file: YAML that both people and the injector write.
//!
//! ```yaml
//! version: 1
//! servers:
//! - workspace: dev-tools
//!   name: github
//!   url: https://api.github.com
//!   auth_type: bearer            # or secret_headers (the default), skill or custom
//!   injections:
//!   - secret: GITHUB_TOKEN
//!     required: true             # false when left out
//! - workspace: dev-tools
//!   name: jira
//!   url: https://example.atlassian.net
//!   injections:                  # each names its place, so the auth type is custom
//!   - basic: {username: "${JIRA_EMAIL}", password: "${JIRA_TOKEN}"}
//!     required: true
//! ```
//!
//! The places of an injection are `header`, `query` and `cookie` with `name` and `value`, `basic` with `username` and
//! `password`, `path` with `variable`, `json` with `pointer` and `value`, `form` with `field` and `value`, and `protobuf`
//! with `field`, `value` and optionally `key`. Values are templates ([`crate::template`]).
//!
//! Optional fields: `protocol` (`auto`, `http1`, `http2`), `protobuf_secrets_field` and `protobuf_messages` (`first`,
//! `all`), `grpc_methods`, `paths`, `tls` with `ca_pem`, `server_name`, `client_cert_secret` and `allow_bound_secrets`,
//! `allow_plaintext`, `allowed_origins`, `oauth` (`replace`, `pass`), `scrub` (`off`, `headers`, `all`), `on_echo` (`mask`,
//! `block`), `description`. The injector itself writes `uid`,
//! `revision`, `create_time`, `update_time` and `workspace_uid`, which people may leave out.

use std::collections::BTreeSet;

use jiff::Timestamp;
use proto::{ServerName, Uid, WorkspaceName};

use super::{
    error::{EntryError, FileError, MAX_FILE_SIZE, MAX_REVISION, RegistryError},
    server::{RawServer, Server, Spec},
    yaml::{self, Document, VERSION},
};
use crate::address::OwnListeners;

/// The comment at the beginning of a file that the injector wrote.
const HEADING: &str = "\
# The servers of an injector-service. Edit it as you like: it is read again when it changes.
# When a server is changed through the API, this file is written anew, and comments are lost.

";

/// An entry of the servers file. The optional fields are those that a person may leave out.
pub(super) struct FileEntry {
    /// The first line of the entry.
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

/// Parses a file. `own` holds the addresses of the injector's listeners, to which no server may point.
pub(super) fn parse(bytes: &[u8], own: &OwnListeners) -> Result<Vec<FileEntry>, FileError> {
    let servers = yaml::read::<RawServer>(bytes)?;
    let mut names = BTreeSet::new();
    let mut entries = Vec::with_capacity(servers.len());
    for (number, raw) in (1..).zip(servers) {
        let line = raw.referenced.line();
        let entry = FileEntry::parse(raw.value, line, own).map_err(|error| FileError::Entry {
            line,
            number,
            error,
        })?;
        if !names.insert((entry.workspace.clone(), entry.name.clone())) {
            return Err(FileError::SameName {
                line,
                workspace: entry.workspace,
                name: entry.name,
            });
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Returns the number of bytes that `servers` take in a file of their own, without the heading.
pub(super) fn size<'a>(servers: impl Iterator<Item = &'a Server>) -> Result<usize, RegistryError> {
    to_yaml(servers).map(|yaml| yaml.len())
}

/// Renders a servers file, and refuses a text that would not read back as `servers`.
pub(super) fn render<'a>(servers: impl Iterator<Item = &'a Server> + Clone) -> Result<String, RegistryError> {
    let text = format!("{HEADING}{}", to_yaml(servers.clone())?);
    if text.len() > MAX_FILE_SIZE {
        return Err(RegistryError::TooLarge);
    }
    // A text may mean something else in YAML than was meant, such as `no` or `1e3`. The injector's own addresses do not
    // matter here, because these servers have been checked.
    let read = parse(text.as_bytes(), &OwnListeners::default()).map_err(|_| RegistryError::Unfaithful)?;
    let same = read
        .into_iter()
        .map(FileEntry::complete)
        .eq(servers.cloned().map(Some));
    if same {
        Ok(text)
    } else {
        Err(RegistryError::Unfaithful)
    }
}

fn to_yaml<'a>(servers: impl Iterator<Item = &'a Server>) -> Result<String, RegistryError> {
    let document = Document {
        version: VERSION,
        servers: servers.map(RawServer::of).collect(),
    };
    serde_saphyr::to_string(&document).map_err(|_| RegistryError::Unfaithful)
}

impl FileEntry {
    fn parse(mut raw: RawServer, line: u64, own: &OwnListeners) -> Result<Self, EntryError> {
        Ok(Self {
            line,
            workspace: WorkspaceName::parse(&raw.workspace).map_err(EntryError::Workspace)?,
            name: ServerName::parse(&raw.name).map_err(EntryError::Name)?,
            uid: parse_uid("uid", raw.uid.take())?,
            revision: check_revision(raw.revision)?,
            create_time: parse_time("create_time", raw.create_time.take())?,
            update_time: parse_time("update_time", raw.update_time.take())?,
            workspace_uid: parse_uid("workspace_uid", raw.workspace_uid.take())?,
            spec: raw.spec()?.check(own)?,
        })
    }

    /// Returns the server of an entry that leaves out no field.
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

fn parse_uid(field: &'static str, text: Option<String>) -> Result<Option<Uid>, EntryError> {
    text.map(|text| Uid::parse(&text).map_err(|_| EntryError::Uid(field)))
        .transpose()
}

fn parse_time(field: &'static str, text: Option<String>) -> Result<Option<Timestamp>, EntryError> {
    text.map(|text| text.parse().map_err(|_| EntryError::Time(field)))
        .transpose()
}

fn check_revision(revision: Option<u64>) -> Result<Option<u64>, EntryError> {
    match revision {
        Some(revision) if !(1..=MAX_REVISION).contains(&revision) => Err(EntryError::Revision),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests;
