//! The file of the catalog: YAML that people write.
//!
//! ```yaml
//! version: 1
//! servers:
//! - name: "@aerostack/github"    # quoted, because YAML reserves the character @
//!   url: https://github.mcp.example.com
//!   auth_type: bearer            # secret_headers is the default
//!   injections:                  # the secrets of a server that is added from the entry
//!   - {secret: GITHUB_TOKEN, required: true}
//! ```
//!
//! Optional fields: `protocol` (`auto`, `http1`, `http2`), `tls` with `ca_pem`, `server_name`, `client_cert_secret` and
//! `allow_bound_secrets` (only administrators may add an entry with `allow_bound_secrets`), `allow_plaintext`, `paths`,
//! `description`. Each field has the same meaning and the same type as in a servers file.
//!
//! Fields of the catalog alone:
//! - `default_name`: the name of a server that is added without a name. The default is the last part of `name`.
//! - `needs_url: true`: the URL is an example, because the host depends on the customer.
//! - `secrets: [GITHUB_TOKEN]`, instead of `injections`: names that are suggested to the user who adds the server.
//! - `mcp: true`: the server at the URL speaks MCP.
//! - `docs`: the page of the vendor that says where the credential goes.

use std::collections::{BTreeMap, btree_map};

use proto::ServerName;
use serde::Deserialize;
use url::Url;

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
    default_name: Option<String>,
    url: String,
    #[serde(default)]
    needs_url: bool,
    auth_type: Option<AuthType>,
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
    injections: Vec<RawInjection>,
    #[serde(default)]
    secrets: Vec<String>,
    #[serde(default)]
    mcp: bool,
    #[serde(default)]
    docs: String,
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
    let (name, parsed) = match (name, raw.parse()) {
        (Ok(name), Ok(parsed)) => (name, parsed),
        (name, parsed) => {
            return name
                .err()
                .map(Into::into)
                .into_iter()
                .chain(parsed.err())
                .collect();
        }
    };
    match entries.entry(name.clone()) {
        btree_map::Entry::Occupied(_) => vec![CatalogEntryError::DuplicateName],
        btree_map::Entry::Vacant(place) => {
            place.insert(parsed.named(name));
            Vec::new()
        }
    }
}

/// A valid entry without its name.
struct UnnamedEntry {
    default_name: Option<ServerName>,
    spec: Spec,
    supplies_secrets: bool,
    needs_url: bool,
    docs: String,
    mcp: bool,
}

impl UnnamedEntry {
    fn named(self, name: EntryName) -> CatalogEntry {
        let Self {
            default_name,
            spec,
            supplies_secrets,
            needs_url,
            docs,
            mcp,
        } = self;
        CatalogEntry {
            default_name: default_name.unwrap_or_else(|| name.server().clone()),
            name,
            spec,
            supplies_secrets,
            needs_url,
            docs,
            mcp,
        }
    }
}

impl RawCatalogEntry {
    fn parse(self) -> Result<UnnamedEntry, CatalogEntryError> {
        let Self {
            name: _,
            default_name,
            url,
            needs_url,
            auth_type,
            protocol,
            tls,
            allow_plaintext,
            description,
            paths,
            injections,
            secrets,
            mcp,
            docs,
        } = self;
        if !injections.is_empty() && !secrets.is_empty() {
            return Err(CatalogEntryError::SecretsBesideInjections);
        }
        let supplies_secrets = secrets.is_empty();
        let suggested = secrets
            .into_iter()
            .map(|secret| RawInjection::of_secret(secret, false));
        let raw = RawServer {
            url,
            auth_type,
            injections: injections.into_iter().chain(suggested).collect(),
            protocol,
            tls,
            allow_plaintext,
            description,
            paths,
            ..RawServer::default()
        };
        let spec = checked(raw.spec()?)?;
        let default_name = default_name.as_deref().map(ServerName::parse).transpose();
        Ok(UnnamedEntry {
            default_name: default_name.map_err(CatalogEntryError::DefaultName)?,
            supplies_secrets: supplies_secrets && !spec.injections.is_empty(),
            spec,
            needs_url,
            docs: parse_docs(docs)?,
            mcp,
        })
    }
}

/// Checks a spec, which may lack secrets. The addresses of the injector's listeners are not known here; `AddServer` checks
/// them.
fn checked(spec: Spec) -> Result<Spec, SpecError> {
    let own = OwnListeners::default();
    if spec.injections.is_empty() {
        spec.check_all_but_secrets(&own)?;
        Ok(spec)
    } else {
        spec.check(&own)
    }
}

fn parse_docs(docs: String) -> Result<String, CatalogEntryError> {
    let is_page = |text: &str| Url::parse(text).is_ok_and(|url| url.scheme() == "https");
    if docs.is_empty() || is_page(&docs) {
        Ok(docs)
    } else {
        Err(CatalogEntryError::Docs)
    }
}

#[cfg(test)]
mod tests;
