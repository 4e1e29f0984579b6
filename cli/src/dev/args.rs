//! Command line of `aerostack dev`.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use crate::connect::DEFAULT_DIR;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack dev\n\
\x20 aerostack dev --demo")]
pub struct DevArgs {
    /// The directory for the store, the root key and the certificates
    #[arg(long, env = "AEROSTACK_DIR", default_value = DEFAULT_DIR, value_name = "DIR")]
    pub dir: PathBuf,
    /// The address of the vault's gRPC; with port 0 the port of its probes is chosen freely too
    #[arg(long, default_value = "127.0.0.1:7150", value_name = "ADDRESS")]
    pub vault_addr: SocketAddr,
    /// The address of the injector's gRPC; with port 0 the port of its probes is chosen freely too
    #[arg(long, default_value = "127.0.0.1:7151", value_name = "ADDRESS")]
    pub injector_addr: SocketAddr,
    /// The address of the injector's data plane
    #[arg(long, default_value = "127.0.0.1:7100", value_name = "ADDRESS")]
    pub data_plane_addr: SocketAddr,
    /// The address of the web console; when another program has the port, the console takes any free one
    #[arg(long, default_value = "127.0.0.1:7180", value_name = "ADDRESS")]
    pub console_addr: SocketAddr,
    /// Serve no web console
    #[arg(long, conflicts_with = "console_addr")]
    pub no_console: bool,
    /// Also start a demo upstream, and call it through the injector
    #[arg(long)]
    pub demo: bool,
    /// With --demo: exit after the demo, with an error if the upstream did not receive what it should
    #[arg(long, requires = "demo")]
    pub once: bool,
    /// The log filter: a level such as `debug`, or directives such as `info,vault_service=debug`
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub log: String,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::DevArgs;

    /// First port that Linux assigns to outgoing connections by default.
    const FIRST_EPHEMERAL: u16 = 32_768;

    #[derive(Parser)]
    struct DevCommandLine {
        #[command(flatten)]
        args: DevArgs,
    }

    #[test]
    fn no_default_port_can_be_taken_by_an_outgoing_connection() {
        let DevArgs {
            vault_addr,
            injector_addr,
            data_plane_addr,
            console_addr,
            ..
        } = DevCommandLine::parse_from(["dev"]).args;
        for address in [vault_addr, injector_addr, data_plane_addr, console_addr] {
            assert!(address.port() < FIRST_EPHEMERAL, "{address}");
        }
    }
}
