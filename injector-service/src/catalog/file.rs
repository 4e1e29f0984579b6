//! The catalog's file: YAML, as people write it.
//!
//! ```yaml
//! version: 1
//! servers:
//! - name: "@aerostack/github"    # quoted, since YAML keeps the @ for itself
//!   url: https://github.mcp.example.com
//!   auth_type: secret_headers    # the default; or bearer, or skill
//!   secrets: [GITHUB_TOKEN]      # a suggestion to whoever adds it
//! ```
//!
//! Optional fields: `protocol` (`auto`, `http1`, `http2`), `tls` with `ca_pem`, `server_name`, `client_cert_secret` and `allow_bound_secrets`
//! (only administrators may add an entry with `allow_bound_secrets`), `allow_plaintext`, `paths`, `description`. Each
//! field has the same meaning and the same type as in a servers file. `mcp: true` says that MCP is spoken at the URL.

use std::collections::{BTreeMap, btree_map};

use serde::Deserialize;

use super::{
    Entries, Entry, EntryName, NotAnEntryName,
    error::{EntryError, Mistake, Mistakes, Problem},
};
use crate::{
    address::OwnListeners,
    placement::AuthType,
    registry::{
        server::{Injection, Oauth, Spec, SpecError, UpstreamUrl},
        words::{AuthTypeWord, ProtocolWord, TlsRecord},
        yaml,
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    name: String,
    url: String,
    #[serde(default)]
    auth_type: AuthTypeWord,
    #[serde(default)]
    protocol: ProtocolWord,
    #[serde(default)]
    tls: TlsRecord,
    #[serde(default)]
    allow_plaintext: bool,
    #[serde(default)]
    description: String,
    #[serde(default)]
    paths: Vec<String>,
    #[serde(default)]
    secrets: Vec<String>,
    #[serde(default)]
    mcp: bool,
}

/// Reads a catalog.
pub(super) fn parse(bytes: &[u8]) -> Result<Entries, Problem> {
    let mut entries = BTreeMap::new();
    let mut mistakes = Mistakes::default();
    for (index, record) in yaml::read::<Record>(bytes)?.into_iter().enumerate() {
        let name = EntryName::parse(&record.value.name);
        let entry = match &name {
            Ok(name) => name.to_string(),
            Err(_) => format!("entry {}", index + 1),
        };
        for error in take(record.value, name, &mut entries) {
            mistakes.0.push(Mistake {
                line: record.referenced.line(),
                entry: entry.clone(),
                error,
            });
        }
    }
    if mistakes.0.is_empty() {
        Ok(Entries(entries))
    } else {
        Err(Problem::Entries(mistakes))
    }
}

/// Puts an entry among the others, or says everything that is wrong with it.
fn take(
    record: Record,
    name: Result<EntryName, NotAnEntryName>,
    entries: &mut BTreeMap<EntryName, Entry>,
) -> Vec<EntryError> {
    let mcp = record.mcp;
    let (name, spec) = match (name, record.spec()) {
        (Ok(name), Ok(spec)) => (name, spec),
        (name, spec) => {
            let (name, spec) = (name.err().map(Into::into), spec.err().map(Into::into));
            return name.into_iter().chain(spec).collect();
        }
    };
    match entries.entry(name.clone()) {
        btree_map::Entry::Occupied(_) => vec![EntryError::Twice],
        btree_map::Entry::Vacant(place) => {
            place.insert(Entry { name, spec, mcp });
            Vec::new()
        }
    }
}

impl Record {
    fn spec(self) -> Result<Spec, SpecError> {
        let Self {
            name: _,
            url,
            auth_type,
            protocol,
            tls,
            allow_plaintext,
            description,
            paths,
            secrets,
            mcp: _,
        } = self;
        let auth_type = auth_type.into();
        let spec = Spec {
            url: UpstreamUrl::parse(&url)?,
            auth_type,
            injections: suggested(auth_type, &secrets)?,
            body_calls: Spec::body_calls(&paths, &[])?,
            protocol: protocol.into(),
            tls: tls.try_into()?,
            allow_plaintext,
            allowed_origins: Vec::new(),
            oauth: Oauth::Replace,
            description,
        };
        // Which listeners are ours is known, and checked, when a server is added.
        spec.check(&OwnListeners::default())
    }
}

/// Secrets that a server could get as they are; or none, when whoever adds it is to know.
fn suggested(auth_type: AuthType, secrets: &[String]) -> Result<Vec<Injection>, SpecError> {
    if secrets.is_empty() {
        return Ok(Vec::new());
    }
    Spec::injections(auth_type, Spec::secrets(secrets.iter().map(String::as_str))?, &[])
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
