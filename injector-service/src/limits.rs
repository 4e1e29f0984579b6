//! Limits on calls and connections. Every limit is a setting with a default.

use std::{ops::RangeInclusive, time::Duration};

use chassis::{
    args::defaults,
    settings::Problems,
    worker_threads::{MAX_THREADS, ThreadCount},
};
use clap::Args;

use crate::{
    keepalive::{Keepalive, KeepaliveSettings},
    registry::WorkspaceQuota,
};

/// The limits as text, before [`LimitSettings::check`].
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitSettings {
    /// Maximum number of connections at once on each listener of the data plane. A further connection closes the oldest one
    /// without a call, or waits while every connection carries a call
    #[arg(long, default_value = "10000", value_name = "NUMBER")]
    pub max_connections: String,
    /// Maximum number of calls at once on one HTTP/2 connection of the data plane
    #[arg(long, default_value = "1024", value_name = "NUMBER")]
    pub max_concurrent_streams: String,
    /// Threads that serve the data plane, from 1 to 16, each with a stream to the vault and connections to upstreams of its
    /// own; `auto` for one per processor
    #[arg(long, default_value = "auto", value_name = "NUMBER")]
    pub worker_threads: String,
    /// Maximum length of a request's target; a longer one is refused with 414
    #[arg(long, default_value = "60KiB", value_name = "SIZE")]
    pub max_uri_size: String,
    /// Maximum size of a request's header fields, names and values together; a request with larger ones is refused with 431
    #[arg(long, default_value = "64KiB", value_name = "SIZE")]
    pub max_headers_size: String,
    /// Maximum number of header fields of a request; a request with more is refused with 431
    #[arg(long, default_value = "100", value_name = "NUMBER")]
    pub max_headers: String,
    /// Time for the head of an HTTP/1.1 request to arrive, from its first byte on
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    pub head_timeout: String,
    /// Time for the part of a body to arrive that the injector reads before it calls the upstream; a slower request is
    /// refused with 408
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    pub body_timeout: String,
    /// Maximum size of a JSON body that the injector checks whole before it calls the upstream, and sends with its length. A
    /// larger one is streamed, or refused with 413 when the server gets secrets at JSON Pointers or in a form
    #[arg(long, default_value = "1MiB", value_name = "SIZE")]
    pub max_buffered_body: String,
    /// Maximum size of the bodies that all calls together may buffer; a call beyond it is refused with 503. A body over
    /// HTTP/2 that has not ended counts at least 64 KiB, or its length if shorter, because the injector reads that much ahead.
    /// The decoders of compressed answers that are searched count as well; an answer beyond the limit is refused with 502
    #[arg(long, default_value = "256MiB", value_name = "SIZE")]
    pub max_buffered_total: String,
    /// Time after which a connection of the data plane without a call is closed
    #[arg(long, default_value = "5m", value_name = "DURATION")]
    pub idle_timeout: String,
    /// Time after which a connection of the data plane is closed when its peer takes no byte of a write
    #[arg(long, default_value = "60s", value_name = "DURATION")]
    pub write_timeout: String,
    /// Time after which an upgraded connection, such as a WebSocket, is closed when it carries no data
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    pub upgraded_idle_timeout: String,
    /// Longest duration of a call, including streams but not upgraded connections; `none` for no limit
    #[arg(long, default_value = "none", value_name = "DURATION")]
    pub max_call_duration: String,
    /// Longest time that a call waits for the vault, in total
    #[arg(long, default_value = "2s", value_name = "DURATION")]
    pub vault_timeout: String,
    /// Time to make a connection to an upstream, including TLS, and longest wait of a call for a free connection when all
    /// are full
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    pub upstream_connect_timeout: String,
    /// Maximum number of HTTP/2 connections to one server; the injector makes a further one when the others carry as many
    /// calls as the server allows
    #[arg(long, default_value = "64", value_name = "NUMBER")]
    pub upstream_max_http2_connections: String,
    /// Maximum number of idle connections to one server that the injector keeps
    #[arg(long, default_value = "64", value_name = "NUMBER")]
    pub upstream_max_idle: String,
    /// Time after which an idle connection to an upstream is closed
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    pub upstream_idle_timeout: String,
    /// Age at which a connection to an upstream takes no new calls; running calls finish on it
    #[arg(long, default_value = "10m", value_name = "DURATION")]
    pub upstream_max_connection_age: String,
    /// Maximum number of header fields of an upstream's answer; an answer with more is refused with 502
    #[arg(long, default_value = "256", value_name = "NUMBER")]
    pub upstream_max_headers: String,
    /// Maximum size of the header fields of an upstream's answer, names and values together; an answer with larger ones is
    /// refused with 502
    #[arg(long, default_value = "256KiB", value_name = "SIZE")]
    pub upstream_max_headers_size: String,
    /// Maximum number of servers that the API adds to one workspace
    #[arg(long, default_value = "500", value_name = "NUMBER")]
    pub max_servers_per_workspace: String,
    /// Maximum size of one workspace's servers in the servers file. All workspaces share 8 MiB
    #[arg(long, default_value = "256KiB", value_name = "SIZE")]
    pub max_servers_size_per_workspace: String,
    #[command(flatten)]
    pub keepalive: KeepaliveSettings,
}

impl Default for LimitSettings {
    fn default() -> Self {
        defaults()
    }
}

/// The limits after [`LimitSettings::check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The most connections at once on each listener of the data plane.
    pub max_connections: usize,
    /// The most calls at once on one HTTP/2 connection of the data plane.
    pub max_concurrent_streams: u32,
    /// Threads that serve the data plane.
    pub worker_threads: usize,
    /// The most bytes of a request's target.
    pub max_uri_size: usize,
    /// The most bytes of a request's header fields, names and values.
    pub max_headers_size: usize,
    /// The most header fields of a request.
    pub max_headers: usize,
    /// Time for the head of an HTTP/1.1 request to arrive.
    pub head_timeout: Duration,
    /// Time for the part of a body to arrive that the injector reads before it calls the upstream.
    pub body_timeout: Duration,
    /// The largest body that the injector reads whole before it calls the upstream. Larger bodies are streamed or refused.
    pub max_buffered_body: usize,
    /// The most bytes of bodies that all calls together may buffer.
    pub max_buffered_total: usize,
    /// Time after which a connection without calls is closed.
    pub idle_timeout: Duration,
    /// Time after which a connection is closed when the peer takes no byte of a write.
    pub write_timeout: Duration,
    /// Time after which an upgraded connection without traffic is closed.
    pub upgraded_idle_timeout: Duration,
    /// Longest duration of a call, streams included. `None` means no limit.
    pub max_call_duration: Option<Duration>,
    /// Longest time that a call waits for the vault.
    pub vault_timeout: Duration,
    pub upstream: UpstreamLimits,
    pub quota: WorkspaceQuota,
    pub keepalive: Keepalive,
}

/// Limits on the connections to one upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// Time to make a connection, including TLS, and longest wait of a call for a free stream.
    pub connect_timeout: Duration,
    pub max_http2_connections: usize,
    /// The most idle connections that are kept.
    pub max_idle: usize,
    /// Time after which an idle connection is closed.
    pub idle_timeout: Duration,
    /// Age from which a connection takes no new calls.
    pub max_connection_age: Duration,
    /// The most header fields of a response.
    pub max_headers: usize,
    /// The most bytes of a response's header fields, names and values.
    pub max_headers_size: usize,
}

/// `http::Uri` cannot hold more than 65,534 bytes.
const URI: RangeInclusive<usize> = 256..=65_534;
const HEADERS_SIZE: RangeInclusive<usize> = 1024..=16 << 20;
const HEADERS: RangeInclusive<usize> = 10..=10_000;
const BUFFERED: RangeInclusive<usize> = 0..=1 << 30;
/// The permitted values of `--max-buffered-total`.
pub(crate) const BUFFERED_TOTAL: RangeInclusive<usize> = 1 << 20..=1 << 40;
/// The upper bound is the size of the largest servers file.
const SERVERS_SIZE: RangeInclusive<usize> = 1024..=8 << 20;

impl LimitSettings {
    /// Parses all limits, and adds every mistake to `problems`.
    pub fn check(&self, problems: &mut Problems) -> Option<Limits> {
        let p = problems;
        let max_connections = p.number("--max-connections", &self.max_connections, 1..=10_000_000);
        let streams = p.number(
            "--max-concurrent-streams",
            &self.max_concurrent_streams,
            1..=1_000_000,
        );
        let worker_threads = match self.worker_threads.as_str() {
            "auto" => Some(ThreadCount::PerProcessor.count()),
            text => p.number("--worker-threads", text, 1..=MAX_THREADS),
        };
        let max_uri_size = p.size("--max-uri-size", &self.max_uri_size, URI);
        let max_headers_size = p.size("--max-headers-size", &self.max_headers_size, HEADERS_SIZE);
        let max_headers = p.number("--max-headers", &self.max_headers, HEADERS);
        let head_timeout = nonzero_duration(p, "--head-timeout", &self.head_timeout);
        let body_timeout = nonzero_duration(p, "--body-timeout", &self.body_timeout);
        let max_buffered_body = p.size("--max-buffered-body", &self.max_buffered_body, BUFFERED);
        let max_buffered_total = p.size("--max-buffered-total", &self.max_buffered_total, BUFFERED_TOTAL);
        let idle_timeout = nonzero_duration(p, "--idle-timeout", &self.idle_timeout);
        let write_timeout = nonzero_duration(p, "--write-timeout", &self.write_timeout);
        let upgraded_idle_timeout =
            nonzero_duration(p, "--upgraded-idle-timeout", &self.upgraded_idle_timeout);
        let max_call_duration = match self.max_call_duration.as_str() {
            "none" => Some(None),
            text => nonzero_duration(p, "--max-call-duration", text).map(Some),
        };
        let vault_timeout = nonzero_duration(p, "--vault-timeout", &self.vault_timeout);
        let upstream = self.upstream(p);
        let quota = self.quota(p);
        let keepalive = self.keepalive.check(p);
        Some(Limits {
            max_connections: max_connections?,
            max_concurrent_streams: streams?,
            worker_threads: worker_threads?,
            max_uri_size: max_uri_size?,
            max_headers_size: max_headers_size?,
            max_headers: max_headers?,
            head_timeout: head_timeout?,
            body_timeout: body_timeout?,
            max_buffered_body: max_buffered_body?,
            max_buffered_total: max_buffered_total?,
            idle_timeout: idle_timeout?,
            write_timeout: write_timeout?,
            upgraded_idle_timeout: upgraded_idle_timeout?,
            max_call_duration: max_call_duration?,
            vault_timeout: vault_timeout?,
            upstream: upstream?,
            quota: quota?,
            keepalive: keepalive?,
        })
    }

    fn quota(&self, p: &mut Problems) -> Option<WorkspaceQuota> {
        let servers = p.number(
            "--max-servers-per-workspace",
            &self.max_servers_per_workspace,
            0..=1_000_000,
        );
        let bytes = p.size(
            "--max-servers-size-per-workspace",
            &self.max_servers_size_per_workspace,
            SERVERS_SIZE,
        );
        Some(WorkspaceQuota {
            servers: servers?,
            bytes: bytes?,
        })
    }

    fn upstream(&self, p: &mut Problems) -> Option<UpstreamLimits> {
        let connect_timeout =
            nonzero_duration(p, "--upstream-connect-timeout", &self.upstream_connect_timeout);
        let max_http2_connections = p.number(
            "--upstream-max-http2-connections",
            &self.upstream_max_http2_connections,
            1..=1_000_000,
        );
        let max_idle = p.number("--upstream-max-idle", &self.upstream_max_idle, 0..=1_000_000);
        let idle_timeout = nonzero_duration(p, "--upstream-idle-timeout", &self.upstream_idle_timeout);
        let age = nonzero_duration(
            p,
            "--upstream-max-connection-age",
            &self.upstream_max_connection_age,
        );
        let max_headers = p.number("--upstream-max-headers", &self.upstream_max_headers, HEADERS);
        let max_headers_size = p.size(
            "--upstream-max-headers-size",
            &self.upstream_max_headers_size,
            HEADERS_SIZE,
        );
        Some(UpstreamLimits {
            connect_timeout: connect_timeout?,
            max_http2_connections: max_http2_connections?,
            max_idle: max_idle?,
            idle_timeout: idle_timeout?,
            max_connection_age: age?,
            max_headers: max_headers?,
            max_headers_size: max_headers_size?,
        })
    }
}

/// Parses a duration, and refuses zero, with which every call would fail.
fn nonzero_duration(problems: &mut Problems, setting: &str, text: &str) -> Option<Duration> {
    let duration = problems.duration(setting, text)?;
    if duration.is_zero() {
        problems.add(setting, format!("{text:?} leaves no time at all"));
        return None;
    }
    Some(duration)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests;
