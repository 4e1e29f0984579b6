//! The file of the catalog: YAML that people write.
//!
//! ```yaml
//! version: 1
//! servers:
//! - name: "@aerostack/github"    # quoted, because YAML reserves the character @
//!   url: https://github.mcp.example.com
//!   auth_type: secret_headers    # the default; or bearer, or skill
//!   secrets: [GITHUB_TOKEN]      # a suggestion for the user who adds the server
//! ```
//!
//! Optional fields: `protocol` (`auto`, `http1`, `http2`), `tls` with `ca_pem`, `server_name`, `client_cert_secret` and
//! `allow_bound_secrets` (only administrators may add an entry with `allow_bound_secrets`), `allow_plaintext`, `paths`,
//! `description`. Each field has the same meaning and the same type as in a servers file. `mcp: true` says that the server
//! at the URL speaks MCP.

use std::collections::{BTreeMap, btree_map};

use serde::Deserialize;

use super::{
    CatalogEntry, Entries, EntryName, NotAnEntryName,
    error::{CatalogEntryError, CatalogProblem, Mistake, Mistakes},
};
use crate::{
    address::OwnListeners,
    placement::AuthType,
    registry::{
        server::{Protocol, RawInjection, RawServer, RawTls, Spec, SpecError},
        yaml,
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCatalogEntry {
    name: String,
    url: String,
    #[serde(default)]
    auth_type: AuthType,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default)]
    tls: RawTls,
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

/// Parses a catalog. An error lists the mistakes of all entries.
pub(super) fn parse(bytes: &[u8]) -> Result<Entries, CatalogProblem> {
    let mut entries = BTreeMap::new();
    let mut mistakes = Mistakes::default();
    for (number, raw) in (1..).zip(yaml::read::<RawCatalogEntry>(bytes)?) {
        let name = EntryName::parse(&raw.value.name);
        let entry = match &name {
            Ok(name) => name.to_string(),
            Err(_) => format!("entry {number}"),
        };
        for error in insert(raw.value, name, &mut entries) {
            mistakes.0.push(Mistake {
                line: raw.referenced.line(),
                entry: entry.clone(),
                error,
            });
        }
    }
    if mistakes.0.is_empty() {
        Ok(Entries(entries))
    } else {
        Err(CatalogProblem::Entries(mistakes))
    }
}

/// Adds an entry to `entries`, or returns its mistakes.
fn insert(
    raw: RawCatalogEntry,
    name: Result<EntryName, NotAnEntryName>,
    entries: &mut BTreeMap<EntryName, CatalogEntry>,
) -> Vec<CatalogEntryError> {
    let mcp = raw.mcp;
    let (name, spec) = match (name, raw.spec()) {
        (Ok(name), Ok(spec)) => (name, spec),
        (name, spec) => {
            let (name, spec) = (name.err().map(Into::into), spec.err().map(Into::into));
            return name.into_iter().chain(spec).collect();
        }
    };
    match entries.entry(name.clone()) {
        btree_map::Entry::Occupied(_) => vec![CatalogEntryError::DuplicateName],
        btree_map::Entry::Vacant(place) => {
            place.insert(CatalogEntry { name, spec, mcp });
            Vec::new()
        }
    }
}

impl RawCatalogEntry {
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
        let suggests_secrets = !secrets.is_empty();
        let injections = secrets.into_iter().map(|secret| RawInjection {
            secret,
            required: false,
        });
        let spec = RawServer {
            url,
            auth_type,
            injections: injections.collect(),
            protocol,
            tls,
            allow_plaintext,
            description,
            paths,
            ..RawServer::default()
        }
        .spec()?;
        // `AddServer` checks against the addresses of the injector's listeners, which are not known here.
        let own = OwnListeners::default();
        if suggests_secrets {
            spec.check(&own)
        } else {
            spec.check_all_but_secrets(&own)?;
            Ok(spec)
        }
    }
}

#[cfg(test)]
mod tests;
