//! The command line: runs the pair for development.

pub mod demo;
pub mod dev;
pub mod pki;
