//! Command line of `aerostack console`.

use std::net::SocketAddr;

use chassis::settings::Problems;
use clap::Args;

use super::user_access::{UserAccess, UserAccessArgs};

/// The address of the console unless the command line names another.
const DEFAULT_LISTEN: &str = "127.0.0.1:7180";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack console\n\
\x20 aerostack console --no-open --listen 127.0.0.1:0")]
pub struct ConsoleArgs {
    /// The address of the console; port 0 means any free port; any address but loopback needs --tls-cert
    #[arg(long, default_value = DEFAULT_LISTEN, value_name = "ADDRESS")]
    pub(super) listen: SocketAddr,
    /// Only print the address or the link for signing in, and open no browser
    #[arg(long)]
    pub(super) no_open: bool,
    #[command(flatten)]
    pub(super) users: UserAccessArgs,
}

/// The checked command line.
pub(super) struct ConsoleSettings {
    pub(super) listen: SocketAddr,
    pub(super) opens_browser: bool,
    /// Present when users sign in with certificates.
    pub(super) users: Option<UserAccess>,
}

impl ConsoleArgs {
    /// Returns the log filter. The log of a console for several users has a line for every change.
    pub(super) fn log_filter(&self) -> &'static str {
        if self.users.is_given() { "info" } else { "warn" }
    }

    pub(super) fn check(self) -> Result<ConsoleSettings, Problems> {
        let Self {
            listen,
            no_open,
            users,
        } = self;
        let mut problems = Problems::default();
        let for_users = users.is_given();
        let users = users.check(listen, &mut problems);
        if !for_users {
            refuse_reachable(
                &mut problems,
                "--listen",
                listen,
                "forward its port with `ssh -L`, or let users sign in with certificates: --tls-cert, --tls-key, --client-ca and \
                 --allow-user",
            );
        }
        problems.finish(Some(ConsoleSettings {
            listen,
            opens_browser: !no_open && !for_users,
            users,
        }))
    }
}

/// Adds a mistake when other machines can reach `listen`. `remedy` is the part of the message after "give a loopback address".
pub(crate) fn refuse_reachable(problems: &mut Problems, setting: &str, listen: SocketAddr, remedy: &str) {
    if !listen.ip().is_loopback() {
        problems.add(
            setting,
            format_args!(
                "{listen} can be reached from other machines, and the console is for this machine only: give a loopback \
                 address such as {DEFAULT_LISTEN}, and {remedy}"
            ),
        );
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
            users: UserAccessArgs::default(),
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
