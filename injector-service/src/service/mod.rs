//! The injector's RPCs: parse, permit, call, answer.

mod catalog;
mod convert;
mod mask;
mod servers;
#[cfg(test)]
mod tests;
mod warnings;

pub(crate) use catalog::CatalogEntries;
pub(crate) use servers::Servers;
