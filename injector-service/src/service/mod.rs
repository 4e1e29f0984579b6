//! The handlers of the injector's RPCs. Each handler parses its request, gets a permit, calls the registry or the catalog,
//! and builds the response.

mod catalog;
mod clear_credential;
mod explain;
mod field_mask;
mod servers;
#[cfg(test)]
mod tests;
mod warnings;

pub(crate) use catalog::CatalogEntries;
pub(crate) use explain::explain;
pub(crate) use servers::Servers;
