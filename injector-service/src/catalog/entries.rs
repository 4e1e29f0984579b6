//! The entries of a catalog that was read.

use std::collections::BTreeMap;

use proto::{ServerName, page::Page};

use super::name::EntryName;
use crate::registry::server::Spec;

/// The entries of the catalog when it was read.
#[derive(Debug)]
pub struct Entries(pub(super) BTreeMap<EntryName, CatalogEntry>);

#[derive(Debug, Clone, PartialEq)]
pub struct CatalogEntry {
    pub name: EntryName,
    /// The name of a server that is added without a name.
    pub default_name: ServerName,
    /// The settings of the server.
    pub spec: Spec,
    /// True when a server that is added gets the injections of `spec`. Otherwise they are a suggestion.
    pub supplies_secrets: bool,
    /// True when the URL of `spec` is only an example, because the host depends on the customer.
    pub needs_url: bool,
    /// The page of the vendor that says where the credential goes. May be empty.
    pub docs: String,
    /// True for a server that speaks MCP.
    pub mcp: bool,
}

impl Entries {
    pub fn get(&self, name: &EntryName) -> Option<&CatalogEntry> {
        self.0.get(name)
    }

    #[allow(
        clippy::len_without_is_empty,
        reason = "nobody asks whether a catalog is empty"
    )]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns a page of the entries, ordered by name, and whether more entries follow. The names are the keys of the page.
    pub fn page(&self, page: &Page) -> (Vec<&CatalogEntry>, bool) {
        let after = page.after.as_deref();
        let mut entries: Vec<_> = self
            .0
            .values()
            .filter(|entry| after.is_none_or(|after| entry.name.as_str() > after))
            .take(page.size + 1)
            .collect();
        let more = entries.len() > page.size;
        entries.truncate(page.size);
        (entries, more)
    }

    /// Returns all names. Names with the same last part as `name` come first, then names with the same scope.
    pub fn names_nearest_first(&self, name: &EntryName) -> Vec<&EntryName> {
        let mut names: Vec<_> = self.0.keys().collect();
        names.sort_by_key(|known| (known.server() != name.server(), known.scope() != name.scope()));
        names
    }
}
