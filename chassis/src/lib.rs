//! The parts that every service of this project needs, whatever it does: settings, TLS, authorization, listeners, probes,
//! telemetry, shutdown, and the gRPC client channel to another service.

#![warn(missing_docs)]

pub mod args;
pub mod authz;
pub mod blocking;
pub mod caller;
pub mod channel;
pub mod charge;
pub mod dial;
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
