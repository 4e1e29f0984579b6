//! An entry of the catalog, as `--output json` prints it.

use proto::injector::v1::CatalogEntry as ApiCatalogEntry;
use serde::Serialize;

use super::{
    enum_name::enum_name,
    injection::{Injection, places},
};

#[derive(Debug, Serialize)]
pub(crate) struct CatalogEntry {
    name: String,
    url: String,
    auth_type: String,
    protocol: String,
    description: String,
    suggested_secrets: Vec<String>,
    default_name: String,
    needs_url: bool,
    supplies_secrets: bool,
    documentation_url: String,
    /// The places of the secrets, also for an auth type that decides them.
    injections: Vec<Injection>,
}

impl CatalogEntry {
    pub(crate) fn of(entry: ApiCatalogEntry) -> Self {
        let auth_type = enum_name(entry.auth_type().as_str_name(), "AUTH_TYPE_");
        let protocol = enum_name(entry.protocol().as_str_name(), "PROTOCOL_");
        let ApiCatalogEntry {
            name,
            url,
            auth_type: _,
            protocol: _,
            description,
            suggested_secrets,
            default_name,
            needs_url,
            supplies_secrets,
            documentation_url,
            injections,
        } = entry;
        Self {
            name,
            url,
            auth_type,
            protocol,
            description,
            suggested_secrets,
            default_name,
            needs_url,
            supplies_secrets,
            documentation_url,
            injections: injections.into_iter().map(Injection::of).collect(),
        }
    }

    /// Returns a row of a table: name, URL, places of the secrets, description.
    pub(crate) fn row(&self) -> [String; 4] {
        [
            self.name.clone(),
            self.url.clone(),
            places(&self.injections),
            self.description.clone(),
        ]
    }
}
