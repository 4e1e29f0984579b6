//! The reasons why a description of a server is refused, and the limits that the messages name.

use proto::{DuplicateName, SecretName, secret_name::SecretNameError};

use super::upstream_url::UrlError;
use crate::{
    body_calls::{MAX_PATTERNS, MethodPatternError, NotAPathPattern},
    placement::NotAFieldNumber,
};

/// The most secrets of one server.
pub(super) const MAX_SECRETS: usize = 64;
/// The most web origins that one server allows.
pub(super) const MAX_WEB_ORIGINS: usize = 64;
/// The most characters of a description.
pub(super) const MAX_DESCRIPTION: usize = 1024;

/// The reason why a description of a server is refused. The message begins with the field, and repeats nothing of the
/// description but names of secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("url: {0}")]
    Url(#[from] UrlError),
    #[error(
        "url: http:// to an address that is not loopback sends secrets in cleartext; use https://, or allow_plaintext"
    )]
    Plaintext,
    /// The injector never connects to the host of the URL, such as its own listeners or a metadata service.
    #[error("url: {0}")]
    Address(String),
    #[error("url: the path or the query names a secret, which no auth type allows")]
    UrlVariable,
    #[error("secrets: {0}")]
    SecretName(#[from] SecretNameError),
    #[error("secrets: {0}")]
    DuplicateSecret(#[from] DuplicateName),
    #[error("secrets: the auth type bearer takes exactly one; {0} are given")]
    BearerCount(usize),
    /// The injector does not put secrets into such places yet.
    #[error("auth_type: this release cannot put secrets into places of a server's own choice")]
    CustomNotSupported,
    #[error("secrets: one server gets at most {MAX_SECRETS}")]
    TooManySecrets,
    #[error("secrets: {0} is required, but is not among those that the server gets")]
    RequiredNotInjected(SecretName),
    /// The number of the entry counts from 1.
    #[error(
        "allowed_origins: number {0} is not a web origin as browsers write it, such as https://app.example.com"
    )]
    WebOrigin(usize),
    #[error("allowed_origins: at most {MAX_WEB_ORIGINS} may be given")]
    TooManyWebOrigins,
    #[error("tls.ca_pem: no certificate in PEM form was found, or one is not a CA's")]
    CaPem,
    #[error("tls.server_name: it is neither a DNS name nor an IP address")]
    ServerName,
    #[error("tls.client_cert_secret: {0}")]
    ClientCertSecret(SecretNameError),
    #[error("tls: the url is http://, which has no TLS")]
    TlsOfPlaintext,
    #[error("protobuf_secrets_field: {0}")]
    ProtobufField(#[from] NotAFieldNumber),
    #[error("protobuf_secrets_field: only the auth type skill puts secrets into messages")]
    ProtobufWithoutSkill,
    #[error("protobuf_messages: which messages get secrets only matters with a protobuf_secrets_field")]
    ProtobufMessages,
    /// The number of the entry counts from 1.
    #[error("paths: number {0}: {1}")]
    Path(usize, NotAPathPattern),
    /// The number of the entry counts from 1.
    #[error("grpc_methods: number {0}: {1}")]
    GrpcMethod(usize, MethodPatternError),
    #[error("{0}: at most {MAX_PATTERNS} may be given")]
    TooManyPatterns(&'static str),
    #[error("paths: only the auth type skill puts secrets into bodies")]
    PathsWithoutSkill,
    #[error(
        "grpc_methods: a protobuf_secrets_field needs the methods whose messages get secrets, as pkg.Service/Method or \
         pkg.Service/*"
    )]
    NoGrpcMethods,
    #[error("grpc_methods: secrets go into messages only with a protobuf_secrets_field")]
    GrpcMethodsWithoutField,
    #[error("description: at most {MAX_DESCRIPTION} characters")]
    Description,
    /// An enum of a request has a number that this release does not know. Files cannot cause this error.
    #[error("server.{0}")]
    UnknownEnumValue(&'static str),
}
