//! The command line: runs the pair for development, and administers it.

pub mod command;
pub mod connect;
pub mod data_plane;
pub mod demo;
pub mod dev;
pub mod failure;
pub mod model;
pub mod output;
pub mod pki;
pub mod value;

use clap::{Parser, Subcommand};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "aerostack",
    version,
    about = "Administers vault-service and injector-service, and runs them for development"
)]
pub struct Cli {
    /// How the services are found.
    #[command(flatten)]
    pub connect: connect::ConnectArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run both services on this machine, with an embedded store and certificates of its own, until Ctrl-C
    Dev(dev::DevArgs),
    /// Administer a running pair.
    #[command(flatten)]
    Admin(command::Admin),
}
