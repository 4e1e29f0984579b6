//! The parts that every service of this project needs, whatever it does.
//!
//! A binary calls [`startup`], which reads the [`settings`], starts the log ([`telemetry`]) and listens to [`signal`]s. The
//! service binds its sockets with [`listen`] and serves gRPC with [`grpc`] (TLS, one [`authz`] layer before every handler,
//! [`health`] and reflection) and its [`probe`]s over plain HTTP. It calls another service through a [`channel`]. [`pki`] makes
//! certificates, and [`kubernetes`] keeps them in a cluster.

#![warn(missing_docs)]

pub mod args;
pub mod authz;
pub mod blocking;
pub mod caller;
pub mod channel;
pub mod connection_slots;
mod delegate_write;
pub mod dial;
pub mod expiry;
pub mod file_stamp;
pub mod grpc;
mod guarded_response;
pub mod health;
pub mod healthcheck;
mod https_client;
pub mod jwt;
pub mod keepalive;
pub mod kubernetes;
pub mod listen;
pub mod log_limit;
mod log_writer;
pub mod pki;
pub mod probe;
pub mod process_metrics;
pub mod readiness;
mod reflection;
pub mod rpc_metrics;
pub mod service_channel;
pub mod settings;
pub mod signal;
pub mod startup;
pub mod telemetry;
#[cfg(test)]
mod test_log;
pub mod tls;
pub mod unix_socket;
mod until_shutdown;
pub mod unwritten_bytes;
pub mod worker_threads;
