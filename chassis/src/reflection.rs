//! gRPC reflection, as v1 and as v1alpha, which older versions of grpcurl need. Shows the project's services, health and
//! the messages of error details.

use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic_reflection::server::{Builder, Error};

use super::{grpc::MAX_SERVICE_MESSAGE, until_shutdown::UntilShutdown};
use proto::FILE_DESCRIPTOR_SET;

/// Adds reflection of `services`, given by their full names, and of health. Its streams end when `stop` is cancelled.
pub(super) fn add(
    routes: &mut RoutesBuilder,
    services: &[&str],
    stop: &CancellationToken,
) -> Result<(), Error> {
    let builder = || {
        let builder = Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("grpc.health.v1.Health");
        services
            .iter()
            .fold(builder, |builder, service| builder.with_service_name(*service))
    };
    let (v1, v1alpha) = (builder().build_v1()?, builder().build_v1alpha()?);
    let (v1, v1alpha) = (
        v1.max_decoding_message_size(MAX_SERVICE_MESSAGE),
        v1alpha.max_decoding_message_size(MAX_SERVICE_MESSAGE),
    );
    routes
        .add_service(UntilShutdown::new(v1, stop.clone()))
        .add_service(UntilShutdown::new(v1alpha, stop.clone()));
    Ok(())
}
