//! Settings of how dead peers are noticed.

use chassis::{
    keepalive::{Ping, TcpTimeout},
    settings::Problems,
};
use clap::Args;

/// Keepalive as it is given.
#[derive(Debug, Clone, Args)]
pub struct KeepaliveSettings {
    /// Time without a frame after which an HTTP/2 upstream is sent a PING. gRPC servers close connections on which more
    /// than one PING comes in five minutes
    #[arg(
        long,
        env = "AEROSTACK_INJECTOR_UPSTREAM_PING_INTERVAL",
        default_value = "6m",
        value_name = "DURATION"
    )]
    pub upstream_ping_interval: String,
    /// Time that the upstream has to answer a PING before its connection is closed
    #[arg(
        long,
        env = "AEROSTACK_INJECTOR_UPSTREAM_PING_TIMEOUT",
        default_value = "2m",
        value_name = "DURATION"
    )]
    pub upstream_ping_timeout: String,
    /// Time without a frame after which an HTTP/2 client is sent a PING
    #[arg(
        long,
        env = "AEROSTACK_INJECTOR_PING_INTERVAL",
        default_value = "5m",
        value_name = "DURATION"
    )]
    pub ping_interval: String,
    /// Time that the client has to answer a PING before its connection is closed
    #[arg(
        long,
        env = "AEROSTACK_INJECTOR_PING_TIMEOUT",
        default_value = "2m",
        value_name = "DURATION"
    )]
    pub ping_timeout: String,
    /// Time after which a connection whose peer acknowledges nothing is closed: TCP keepalive and TCP_USER_TIMEOUT of
    /// connections from clients, to upstreams and to the vault. A peer that reads nothing while its receive buffer is full
    /// counts as dead, too
    #[arg(
        long,
        env = "AEROSTACK_INJECTOR_TCP_TIMEOUT",
        default_value = "50s",
        value_name = "DURATION"
    )]
    pub tcp_timeout: String,
}

/// Keepalive that was found right.
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
    /// Checks the settings, and notes what is wrong.
    pub(crate) fn check(&self, problems: &mut Problems) -> Option<Keepalive> {
        let upstream_ping = Ping::check(
            problems,
            ("--upstream-ping-interval", &self.upstream_ping_interval),
            ("--upstream-ping-timeout", &self.upstream_ping_timeout),
        );
        let ping = Ping::check(
            problems,
            ("--ping-interval", &self.ping_interval),
            ("--ping-timeout", &self.ping_timeout),
        );
        let tcp_timeout = TcpTimeout::check(problems, "--tcp-timeout", &self.tcp_timeout);
        Some(Keepalive {
            upstream_ping: upstream_ping?,
            ping: ping?,
            tcp_timeout: tcp_timeout?,
        })
    }
}
