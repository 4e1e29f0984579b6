//! The injector's RPCs: parse, permit, call, answer.

mod convert;
mod mask;
mod servers;
#[cfg(test)]
mod tests;

pub(crate) use servers::Servers;
