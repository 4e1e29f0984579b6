//! Errors of the registry and the catalog as refusals. A refusal repeats only what its caller may know.

use std::error::Error as _;

use chassis::telemetry::chain;
use proto::{LabelError, Reason, Refusal, SecretName, page::PageTokenError};

use crate::{
    catalog::{CatalogError, NotAnEntryName},
    registry::{
        RegistryError,
        server::{BindingError, InjectionError, SpecError},
    },
    template::TemplateError,
};

/// Returns the refusal for an error of the registry. The source of the error goes to the log instead.
pub(crate) fn refusal(error: RegistryError) -> Refusal {
    let reason = match &error {
        // All workspaces share the file, and the caller may know only one of them. The registry has logged the error.
        RegistryError::Invalid { .. } => return Refusal::new(Reason::RegistryInvalid, INVALID),
        RegistryError::NoServer(..) => Reason::ServerNotFound,
        RegistryError::ServerExists(..) => Reason::ServerExists,
        RegistryError::RevisionMismatch => Reason::RevisionMismatch,
        RegistryError::Contended => Reason::Conflict,
        RegistryError::ReadOnly(_) => Reason::RegistryReadOnly,
        RegistryError::Full(_) => Reason::StorageFull,
        RegistryError::Write(_) => Reason::StorageUnavailable,
        RegistryError::TooLarge | RegistryError::Quota(_) => Reason::LimitExceeded,
        RegistryError::Unfaithful => Reason::Internal,
    };
    if let Some(source) = error.source() {
        tracing::error!(%error, source = chain(source), "the registry could not serve a call");
    }
    Refusal::new(reason, error)
}

const INVALID: &str = "the servers file is not valid as it is now, so nothing is changed in it; the injector's log says \
                       what is wrong";

pub(crate) fn spec(error: SpecError) -> Refusal {
    let reason = match &error {
        SpecError::SecretName(_) | SpecError::ClientCertSecret(_) => Reason::SecretNameInvalid,
        SpecError::DuplicateSecret(_) => Reason::SecretNameDuplicate,
        SpecError::WebOrigin(_) => Reason::OriginInvalid,
        SpecError::Address(_) => Reason::UpstreamAddressRefused,
        SpecError::UnknownEnumValue(_) => Reason::RequestMalformed,
        SpecError::Injection(_, InjectionError::Template(_, TemplateError::SecretName(_)))
        | SpecError::Injection(_, InjectionError::PathVariable(_)) => Reason::SecretNameInvalid,
        SpecError::Injection(..) => Reason::ServerInvalid,
        SpecError::Url(_)
        | SpecError::UrlVariable
        | SpecError::Plaintext
        | SpecError::BearerCount(_)
        | SpecError::TooManySecrets
        | SpecError::CustomWithoutInjections
        | SpecError::TooManyInjections
        | SpecError::SamePlace(..)
        | SpecError::InjectionsOfShortForm
        | SpecError::SecretsOfInjections(_)
        | SpecError::RequiredNotInjected(_)
        | SpecError::TooManyWebOrigins
        | SpecError::CaPem
        | SpecError::ServerName
        | SpecError::TlsOfPlaintext
        | SpecError::ProtobufField(_)
        | SpecError::ProtobufWithoutSkill
        | SpecError::ProtobufMessages
        | SpecError::Path(_, _)
        | SpecError::GrpcMethod(_, _)
        | SpecError::TooManyPatterns(_)
        | SpecError::PathsWithoutSkill
        | SpecError::NoGrpcMethods
        | SpecError::GrpcMethodsWithoutField
        | SpecError::Description => Reason::ServerInvalid,
    };
    Refusal::new(reason, error)
}

/// Returns the refusal of a secret that may not be sent to a server. `consequence` ends the message.
pub(crate) fn binding(secret: &SecretName, error: &BindingError, consequence: &str) -> Refusal {
    let reason = match error {
        BindingError::OtherOrigin(_) => Reason::SecretNotForThisUpstream,
        BindingError::NotVerified(_) => Reason::UpstreamNotVerified,
    };
    Refusal::new(reason, format!("secret {secret} is {error}; {consequence}"))
}

pub(crate) fn workspace_name(error: LabelError) -> Refusal {
    Refusal::new(Reason::WorkspaceNameInvalid, format!("workspace: {error}"))
}

pub(crate) fn server_name(error: LabelError) -> Refusal {
    Refusal::new(Reason::ServerNameInvalid, format!("name: {error}"))
}

pub(crate) fn page_token(error: PageTokenError) -> Refusal {
    Refusal::new(Reason::PageTokenInvalid, error)
}

/// Returns the refusal with the whole error: everyone who adds servers may read the catalog, and its errors repeat nothing of
/// it but names.
pub(crate) fn catalog(error: CatalogError) -> Refusal {
    Refusal::new(Reason::CatalogInvalid, chain(&error))
}

pub(crate) fn catalog_entry(error: NotAnEntryName) -> Refusal {
    Refusal::new(Reason::ServerNameInvalid, format!("catalog_entry: {error}"))
}
