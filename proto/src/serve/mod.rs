//! The chassis on which both services stand: settings, TLS, who calls and what they may, logs, metrics, shutdown.

pub mod authz;
pub mod blocking;
pub mod caller;
pub mod charge;
pub mod expiry;
pub mod grpc;
mod guarded;
pub mod health;
pub mod healthcheck;
pub mod keepalive;
pub mod lanes;
mod lines;
pub mod listen;
pub mod opening;
pub mod probe;
pub mod process;
pub mod process_metrics;
mod reflection;
pub mod retire;
pub mod rpc_metrics;
pub mod settings;
pub mod signal;
pub mod slots;
pub mod telemetry;
pub mod tls;
mod until_shutdown;
mod unwritten;
