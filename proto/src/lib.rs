//! The protocol between vault-service, injector-service and their clients: the messages generated from the `.proto` files,
//! the types for texts that all of them must validate in the same way, and the sealing of decrypted values.

#![warn(missing_docs)]

/// Generated from `vault/v1/*.proto`.
pub mod vault {
    /// Protobuf package `vault.v1`.
    #[allow(
        missing_docs,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("vault.v1");
    }
}

/// Generated from `injector/v1/*.proto`.
pub mod injector {
    /// Protobuf package `injector.v1`.
    #[allow(
        missing_docs,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("injector.v1");
    }
}

/// Generated from `aerostack/v1/*.proto`.
pub mod aerostack {
    /// Protobuf package `aerostack.v1`.
    #[allow(
        missing_docs,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("aerostack.v1");
    }
}

// `Debug` of the messages that have sensitive fields.
include!(concat!(env!("OUT_DIR"), "/redacted.rs"));

/// The protocol's descriptors, custom options included: a `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Paths of the RPCs whose requests carry the value of a secret.
pub const METHODS_THAT_CARRY_VALUES: [&str; 1] = ["/vault.v1.SecretService/PutSecret"];

mod call_id;
mod label;
pub mod origin;
pub mod page;
mod principal;
pub mod reason;
pub mod seal;
pub mod secret_name;
pub mod secret_value;
pub mod stack;
mod uid;
pub mod value_facts;

pub use aerostack::v1::{Reason, Warning, warning::Kind as WarningKind};
pub use call_id::{CallId, CallIdError};
pub use label::{LabelError, ServerName, WorkspaceName};
pub use origin::{Origin, OriginPattern};
pub use principal::{Principal, PrincipalError};
pub use reason::Refusal;
pub use secret_name::{DuplicateName, SecretName, SecretNameError, distinct};
pub use secret_value::{SecretValue, ValueSizeError};
pub use uid::Uid;
pub use value_facts::ValueFault;
