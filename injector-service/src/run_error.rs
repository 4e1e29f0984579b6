//! The reasons for which the injector does not start, or ends without a shutdown.

use std::io;

use chassis::grpc;

use crate::registry;

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Registry(#[from] registry::RegistryError),
    #[error("reflection could not be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the channel to the vault could not be set up")]
    Transport(#[from] tonic::transport::Error),
    #[error("the threads of the data plane did not start")]
    StartThreads(#[from] io::Error),
    #[error("a thread of the data plane ended unexpectedly")]
    ThreadEnded,
    #[error(transparent)]
    Serve(#[from] grpc::ServeError),
}
