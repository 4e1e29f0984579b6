//! Settings for the detection of dead peers.

use chassis::{
    args::KeepaliveArgs,
    keepalive::{Ping, TcpTimeout},
    settings::Problems,
};
use clap::Args;

/// The keepalive settings as text, before `KeepaliveSettings::check`.
#[derive(Debug, Clone, Args)]
pub struct KeepaliveSettings {
    /// Time without a frame after which an HTTP/2 upstream is sent a PING. gRPC servers close connections on which more
    /// than one PING comes in five minutes
    #[arg(long, default_value = "6m", value_name = "DURATION")]
    pub upstream_ping_interval: String,
    /// Time that the upstream has to answer a PING before its connection is closed
    #[arg(long, default_value = "2m", value_name = "DURATION")]
    pub upstream_ping_timeout: String,
    #[command(flatten)]
    pub clients: KeepaliveArgs,
}

/// The keepalive settings after `KeepaliveSettings::check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// PING frames to upstreams.
    pub upstream_ping: Ping,
    /// PING frames to clients.
    pub ping: Ping,
    /// The timeout of all TCP connections.
    pub tcp_timeout: TcpTimeout,
}

impl KeepaliveSettings {
    /// Parses all settings, and adds every mistake to `problems`.
    pub(crate) fn check(&self, problems: &mut Problems) -> Option<Keepalive> {
        let upstream_ping = Ping::check(
            problems,
            ("--upstream-ping-interval", &self.upstream_ping_interval),
            ("--upstream-ping-timeout", &self.upstream_ping_timeout),
        );
        let clients = self.clients.check(problems);
        let upstream_ping = upstream_ping?;
        let (ping, tcp_timeout) = clients?;
        Some(Keepalive {
            upstream_ping,
            ping,
            tcp_timeout,
        })
    }
}
