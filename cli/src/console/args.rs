//! Command line of `aerostack console`.

use std::net::SocketAddr;

use chassis::settings::Problems;
use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack console\n\
\x20 aerostack console --no-open --listen 127.0.0.1:0")]
pub struct ConsoleArgs {
    /// The address of the console, which must be a loopback address; port 0 means any free port
    #[arg(long, default_value = "127.0.0.1:7180", value_name = "ADDRESS")]
    pub(super) listen: SocketAddr,
    /// Only print the link for signing in, and open no browser
    #[arg(long)]
    pub(super) no_open: bool,
}

/// The checked command line.
pub(super) struct ConsoleSettings {
    pub(super) listen: SocketAddr,
    pub(super) opens_browser: bool,
}

impl ConsoleArgs {
    pub(super) fn check(self) -> Result<ConsoleSettings, Problems> {
        let Self { listen, no_open } = self;
        let mut problems = Problems::default();
        if !listen.ip().is_loopback() {
            problems.add(
                "--listen",
                format_args!(
                    "{listen} can be reached from other machines, and the console is for this machine only: give a loopback \
                     address such as 127.0.0.1:7180, and forward its port with `ssh -L`"
                ),
            );
        }
        problems.finish(Some(ConsoleSettings {
            listen,
            opens_browser: !no_open,
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn check(listen: &str) -> Result<ConsoleSettings, Problems> {
        let listen = listen.parse().unwrap();
        let args = ConsoleArgs {
            listen,
            no_open: true,
        };
        args.check()
    }

    #[test]
    fn only_loopback_addresses_are_served() {
        for loopback in ["127.0.0.1:7180", "127.8.9.1:0", "[::1]:7180"] {
            assert!(check(loopback).is_ok(), "{loopback}");
        }
        for reachable in ["0.0.0.0:7180", "[::]:7180", "192.0.2.1:7180", "[2001:db8::1]:1"] {
            let refused = check(reachable).err().unwrap().to_string();
            assert!(refused.contains("ssh -L"), "{refused}");
        }
    }
}
